# SPDX-License-Identifier: BSD-3-Clause
"""Couple simulation and AI: futures, graphs, executors, and an orchestrator as a service node.

This module is the face: the names that a user types. It defines nothing, and imports
each name's module only when the name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssdag.version import __version__

if TYPE_CHECKING:
    from ssdag import executors
    from ssdag.apps.collect import as_completed, gather, wait
    from ssdag.apps.decorators import bash_app, join_app, mpi_app, python_app
    from ssdag.apps.files import File
    from ssdag.client import Client, Dataset
    from ssdag.client.async_client import AsyncClient
    from ssdag.config import Config
    from ssdag.connectors.dictionary import DistributedDict
    from ssdag.dataflow.engine import Engine
    from ssdag.dataflow.paths import critical_path
    from ssdag.dataflow.retry import RetryPolicy
    from ssdag.dataflow.session import load
    from ssdag.errors import (
        AppDefinitionError,
        CheckpointError,
        CommandError,
        ConfigError,
        CycleError,
        DataError,
        DataFormatError,
        DataTimeoutError,
        DependencyError,
        EngineClosedError,
        LostValueError,
        MissingDataError,
        MissingOutputError,
        NestedCallError,
        RemoteError,
        SerializationError,
        ServiceError,
        ServiceStartError,
        SsdagError,
        StoreError,
        TaskError,
        UnknownExecutorError,
        UnsupportedError,
        WalltimeExceededError,
        WorkerLostError,
        WouldDeadlockError,
    )
    from ssdag.futures import DataFuture, Future
    from ssdag.monitoring.listeners import Event, Listener
    from ssdag.monitoring.utilization import Utilization
    from ssdag.resources import Resources
    from ssdag.services.orchestrator import Orchestrator
    from ssdag.states import ServiceState, TaskState
    from ssdag.tasks import AppFuture

_WHERE = {
    "ssdag.apps.collect": ("as_completed", "gather", "wait"),
    "ssdag.apps.decorators": ("bash_app", "join_app", "mpi_app", "python_app"),
    "ssdag.apps.files": ("File",),
    "ssdag.client": ("Client", "Dataset"),
    "ssdag.client.async_client": ("AsyncClient",),
    "ssdag.config": ("Config",),
    "ssdag.connectors.dictionary": ("DistributedDict",),
    "ssdag.dataflow.engine": ("Engine",),
    "ssdag.dataflow.paths": ("critical_path",),
    "ssdag.dataflow.retry": ("RetryPolicy",),
    "ssdag.dataflow.session": ("load",),
    "ssdag.errors": (
        "AppDefinitionError",
        "CheckpointError",
        "CommandError",
        "ConfigError",
        "CycleError",
        "DataError",
        "DataFormatError",
        "DataTimeoutError",
        "DependencyError",
        "EngineClosedError",
        "LostValueError",
        "MissingDataError",
        "MissingOutputError",
        "NestedCallError",
        "RemoteError",
        "SerializationError",
        "ServiceError",
        "ServiceStartError",
        "SsdagError",
        "StoreError",
        "TaskError",
        "UnknownExecutorError",
        "UnsupportedError",
        "WalltimeExceededError",
        "WorkerLostError",
        "WouldDeadlockError",
    ),
    "ssdag.futures": ("DataFuture", "Future"),
    "ssdag.monitoring.listeners": ("Event", "Listener"),
    "ssdag.monitoring.utilization": ("Utilization",),
    "ssdag.resources": ("Resources",),
    "ssdag.services.orchestrator": ("Orchestrator",),
    "ssdag.states": ("ServiceState", "TaskState"),
    "ssdag.tasks": ("AppFuture",),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "AppDefinitionError",
    "AppFuture",
    "AsyncClient",
    "CheckpointError",
    "Client",
    "CommandError",
    "Config",
    "ConfigError",
    "CycleError",
    "DataError",
    "DataFormatError",
    "DataFuture",
    "DataTimeoutError",
    "Dataset",
    "DependencyError",
    "DistributedDict",
    "Engine",
    "EngineClosedError",
    "Event",
    "File",
    "Future",
    "Listener",
    "LostValueError",
    "MissingDataError",
    "MissingOutputError",
    "NestedCallError",
    "Orchestrator",
    "RemoteError",
    "Resources",
    "RetryPolicy",
    "SerializationError",
    "ServiceError",
    "ServiceStartError",
    "ServiceState",
    "SsdagError",
    "StoreError",
    "TaskError",
    "TaskState",
    "UnknownExecutorError",
    "UnsupportedError",
    "Utilization",
    "WalltimeExceededError",
    "WorkerLostError",
    "WouldDeadlockError",
    "__version__",
    "as_completed",
    "bash_app",
    "critical_path",
    "executors",
    "gather",
    "join_app",
    "load",
    "mpi_app",
    "python_app",
    "wait",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "executors":
        return import_module("ssdag.executors")
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'ssdag' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
