# SPDX-License-Identifier: BSD-3-Clause
"""Launchers: what stands in front of a command inside an allocation."""
