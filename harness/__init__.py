# SPDX-License-Identifier: GPL-2.0-only
"""Build, boot, test and measure Falcon-patched kernels.

Data flows one way, and a package imports only from those to its left::

    kernel -> machine -> overlay -> workload -> report
"""
