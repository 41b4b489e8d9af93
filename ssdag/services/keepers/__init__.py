# SPDX-License-Identifier: BSD-3-Clause
"""Servers on other nodes: the keepers there, and what we know of them."""
