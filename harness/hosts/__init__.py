# SPDX-License-Identifier: GPL-2.0-only
"""Real machines over SSH: kernels installed and verified, tests and masks taken there.

``fleet``: several hosts at once. ``payload``: the harness on a host. ``install``,
``uninstall``, ``status``: kernels; they stand on ``server`` (what a host is), ``grub``
and ``copying``. ``pipeline``: RPS masks. ``suite``: the integration tests.
"""
