# SPDX-License-Identifier: BSD-3-Clause
"""Engines that users have already, as executors of tasks."""
