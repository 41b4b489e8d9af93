# SPDX-License-Identifier: BSD-3-Clause
"""Tasks as jobs of a scheduler: see :class:`BatchExecutor`."""

from __future__ import annotations

from ssdag.executors.batch.executor import BatchExecutor

__all__ = ["BatchExecutor"]
