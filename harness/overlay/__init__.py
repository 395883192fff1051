# SPDX-License-Identifier: GPL-2.0-only
"""Container overlays in network namespaces, and how their packets are spread.

``plan`` says what is wanted, ``topology`` builds it, ``modes`` and ``falcon``
steer its packets, ``softnet`` tells which CPU did the work.
"""
