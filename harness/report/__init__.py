# SPDX-License-Identifier: GPL-2.0-only
"""What is shown of results. Nothing is printed that was not measured."""
