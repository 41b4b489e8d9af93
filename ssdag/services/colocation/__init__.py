# SPDX-License-Identifier: BSD-3-Clause
"""A server on each node, for the tasks of that node."""
