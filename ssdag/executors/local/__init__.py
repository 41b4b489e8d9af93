# SPDX-License-Identifier: BSD-3-Clause
"""Worker processes on this machine: see :class:`~ssdag.executors.local.executor.LocalExecutor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssdag.executors.local.executor import LocalExecutor

__all__ = ["LocalExecutor"]


def __getattr__(name: str) -> Any:
    # On demand: the worker lives in this package too and must not import the hub.
    if name == "LocalExecutor":
        from ssdag.executors.local.executor import LocalExecutor

        return LocalExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
