# SPDX-License-Identifier: BSD-3-Clause
"""Providers: schedulers, their jobs, and the allocation that we are in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssdag.providers.auto import detect
    from ssdag.providers.base import Allocation, JobSpec, JobStatus, Node, Provider
    from ssdag.providers.cobalt import CobaltProvider
    from ssdag.providers.flux import FluxProvider
    from ssdag.providers.gridengine import GridEngineProvider
    from ssdag.providers.local import LocalProvider
    from ssdag.providers.lsf import LSFProvider
    from ssdag.providers.pbs import PBSProvider
    from ssdag.providers.slurm import SlurmProvider
    from ssdag.providers.torque import TorqueProvider
    from ssdag.providers.watch import Watcher

__all__ = [
    "Allocation",
    "CobaltProvider",
    "FluxProvider",
    "GridEngineProvider",
    "JobSpec",
    "JobStatus",
    "LSFProvider",
    "LocalProvider",
    "Node",
    "PBSProvider",
    "Provider",
    "SlurmProvider",
    "TorqueProvider",
    "Watcher",
    "detect",
]

_WHERE = {
    "Allocation": "ssdag.providers.base",
    "CobaltProvider": "ssdag.providers.cobalt",
    "FluxProvider": "ssdag.providers.flux",
    "GridEngineProvider": "ssdag.providers.gridengine",
    "JobSpec": "ssdag.providers.base",
    "JobStatus": "ssdag.providers.base",
    "LSFProvider": "ssdag.providers.lsf",
    "LocalProvider": "ssdag.providers.local",
    "Node": "ssdag.providers.base",
    "PBSProvider": "ssdag.providers.pbs",
    "Provider": "ssdag.providers.base",
    "SlurmProvider": "ssdag.providers.slurm",
    "TorqueProvider": "ssdag.providers.torque",
    "Watcher": "ssdag.providers.watch",
    "detect": "ssdag.providers.auto",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
