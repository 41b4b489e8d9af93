# SPDX-License-Identifier: BSD-3-Clause
"""Workers on many nodes: see :class:`~ssdag.executors.pilot.executor.PilotExecutor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssdag.executors.pilot.executor import PilotExecutor

__all__ = ["PilotExecutor"]


def __getattr__(name: str) -> Any:
    # On demand: the manager lives in this package too and needs no driver's side.
    if name == "PilotExecutor":
        from ssdag.executors.pilot.executor import PilotExecutor

        return PilotExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
