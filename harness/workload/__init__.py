# SPDX-License-Identifier: GPL-2.0-only
"""What is sent through a topology: each workload a class with a typed result."""
