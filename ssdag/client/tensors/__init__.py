# SPDX-License-Identifier: BSD-3-Clause
"""Tensors: their format, and how they travel whole, in parts and in numbers."""
