# SPDX-License-Identifier: GPL-2.0-only
"""A debug kernel under traffic while everything that can change does.

``actions`` and ``sequence`` decide what is done, from a seed and nothing else;
``world`` is what it is done to, ``traffic`` what runs meanwhile, ``account``
says where every packet went, ``leaks`` what was left behind. ``guest`` runs all
of it in the virtual machine, ``run`` follows it from here.
"""
