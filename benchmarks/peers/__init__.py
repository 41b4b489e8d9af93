# SPDX-License-Identifier: BSD-3-Clause
"""The backends that the benchmarks compare, by name.

A backend is one small class behind the contract of
:class:`benchmarks.peers.contract.Backend`. It is imported only in the process that
measures it, so a backend that is not installed costs one line of the report.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from benchmarks.peers.contract import Backend

#: name -> (title in tables, distribution, "module:class")
BACKENDS: dict[str, tuple[str, str, str]] = {
    "ssdag": ("ssdag processes", "ssdag", "benchmarks.peers.ours:LocalBackend"),
    "ssdag-threads": ("ssdag threads", "ssdag", "benchmarks.peers.ours:ThreadBackend"),
    "htex": ("Parsl HTEX", "parsl", "benchmarks.peers.parsl_apps:HtexBackend"),
    "ray": ("Ray", "ray", "benchmarks.peers.ray_tasks:RayBackend"),
    "dask": ("Dask", "distributed", "benchmarks.peers.dask_client:DaskBackend"),
    "processpool": ("ProcessPoolExecutor", "", "benchmarks.peers.stdlib:ProcessPoolBackend"),
    "loky": ("loky", "joblib", "benchmarks.peers.loky_pool:LokyBackend"),
    "joblib": ("joblib.Parallel", "joblib", "benchmarks.peers.loky_pool:ParallelBackend"),
    "parsl-threads": ("Parsl threads", "parsl", "benchmarks.peers.parsl_apps:ThreadBackend"),
    "threadpool": ("ThreadPoolExecutor", "", "benchmarks.peers.stdlib:ThreadPoolBackend"),
}

#: The same for executors of many nodes, here with one block of this machine; they are
#: measured by ``python -m benchmarks.pilot``.
PILOTS: dict[str, tuple[str, str, str]] = {
    "ssdag-pilot": ("ssdag pilot", "ssdag", "benchmarks.peers.ours:PilotBackend"),
    "htex": BACKENDS["htex"],
    "ssdag-pilot-curve": (
        "ssdag pilot, encrypted",
        "ssdag",
        "benchmarks.peers.ours:EncryptedPilotBackend",
    ),
    "htex-curve": (
        "Parsl HTEX, encrypted",
        "parsl",
        "benchmarks.peers.parsl_apps:EncryptedHtexBackend",
    ),
}

ALL = {**BACKENDS, **PILOTS}


def title(name: str) -> str:
    """How the tables call the backend `name`."""
    return ALL[name][0] if name in ALL else name


def make(name: str) -> Backend:
    """Import and build the backend `name`; raises ``ImportError`` where it is missing."""
    module, _, attribute = ALL[name][2].partition(":")
    return cast("Backend", getattr(importlib.import_module(module), attribute)())
