# SPDX-License-Identifier: GPL-2.0-only
"""The lab: what Falcon is worth, measured on whatever machine there is.

A ``rig`` is a host under test, wired to clients: with ``guest`` on it and ``remote`` here,
``loads`` that both know, ``servers`` and ``clients`` of them. A virtual machine has its clients
here; of a ``pair`` of real hosts, which ``survey`` looks at, the other one has them (``sender``).
All are spoken to by a ``dialogue``. On it ``instructions`` compares
modes by what emulated CPUs execute (``icount`` counts it, ``stages`` says what a kernel
function belongs to), and ``timed`` by time. ``experiments`` are the paper's figures,
``campaign`` measures them, ``selection`` says which samples belong together, ``verdicts`` puts
claim beside measurement, and ``goals`` what this project wants.

What cannot be booted is modelled: ``model`` asks ``pipeline``, a simulation, about a ``scenario``,
with costs of ``stagecosts`` and placement by ``pick``, which is the kernel's.
"""
