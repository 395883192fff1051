# SPDX-License-Identifier: GPL-2.0-only
"""The lab: what Falcon is worth, measured on whatever machine there is.

``icount`` counts the instructions of an emulated machine, ``stages`` says which
stage of the receive path a kernel function belongs to.
"""
