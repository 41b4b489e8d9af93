# SPDX-License-Identifier: BSD-3-Clause
"""Executors: what runs tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssdag.executors.adapters.dask import DaskExecutor
    from ssdag.executors.adapters.futures import FuturesExecutor
    from ssdag.executors.adapters.ray import RayExecutor
    from ssdag.executors.allocation.executor import AllocationExecutor
    from ssdag.executors.base import Capabilities, Executor
    from ssdag.executors.batch.executor import BatchExecutor
    from ssdag.executors.local.executor import LocalExecutor
    from ssdag.executors.pilot.executor import PilotExecutor
    from ssdag.executors.threads import ThreadExecutor

__all__ = [
    "AllocationExecutor",
    "BatchExecutor",
    "Capabilities",
    "DaskExecutor",
    "Executor",
    "FuturesExecutor",
    "LocalExecutor",
    "PilotExecutor",
    "RayExecutor",
    "ThreadExecutor",
]

_WHERE = {
    "AllocationExecutor": "ssdag.executors.allocation.executor",
    "BatchExecutor": "ssdag.executors.batch.executor",
    "Capabilities": "ssdag.executors.base",
    "DaskExecutor": "ssdag.executors.adapters.dask",
    "Executor": "ssdag.executors.base",
    "FuturesExecutor": "ssdag.executors.adapters.futures",
    "LocalExecutor": "ssdag.executors.local.executor",
    "PilotExecutor": "ssdag.executors.pilot.executor",
    "RayExecutor": "ssdag.executors.adapters.ray",
    "ThreadExecutor": "ssdag.executors.threads",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
