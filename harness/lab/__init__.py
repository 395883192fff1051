# SPDX-License-Identifier: GPL-2.0-only
"""The lab: what Falcon is worth, measured on whatever machine there is.

``icount`` counts the instructions of an emulated machine, ``stages`` says what a kernel
function belongs to, ``instructions`` compares modes by that, with ``guest`` on the machine
and ``remote`` here. ``experiments`` are the paper's figures, ``campaign`` measures them,
``selection`` says which samples belong together, ``verdicts`` puts claim beside measurement.

What cannot be booted is modelled: ``model`` asks ``pipeline``, a simulation, about a ``scenario``,
with costs of ``stagecosts`` and placement by ``pick``, which is the kernel's.
"""
