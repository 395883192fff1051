# SPDX-License-Identifier: GPL-2.0-only
"""From a kernel's source to a bootable image.

::

    series.toml -> Series --+
                            v
    user's tree | git | distribution | kernel.org -> Source (pristine, cached)
                                                       v
                     patches/vX.Y/*.patch -> WorkTree (patched, made for make)
                                                       v
                     kernel-configs/*.config -> .config -> Image (cached)
"""
