# SPDX-License-Identifier: BSD-3-Clause
"""Steps on the nodes of an allocation: see :class:`AllocationExecutor`."""

from __future__ import annotations

from ssdag.executors.allocation.executor import AllocationExecutor

__all__ = ["AllocationExecutor"]
