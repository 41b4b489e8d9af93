# SPDX-License-Identifier: BSD-3-Clause
"""Datasets and the lists of them: layout, transactions, and other libraries' forms."""
