# SPDX-License-Identifier: BSD-3-Clause
"""Ray on one machine, without dashboard, logs and usage reports."""

from __future__ import annotations

import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

from benchmarks.peers.contract import WORKERS, Backend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class RayBackend(Backend):
    """Remote functions and object references."""

    def __init__(self) -> None:
        self._remote: dict[Callable[..., Any], Any] = {}

    def load(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_DEDUP_LOGS"] = "0"
        self._ray: Any = importlib.import_module("ray")

    def start(self) -> None:
        self._ray.init(
            num_cpus=WORKERS,
            num_gpus=0,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )

    def stop(self) -> None:
        self._ray.shutdown()

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        remote = self._remote.get(fn)
        if remote is None:
            remote = self._remote[fn] = self._ray.remote(fn)
        return remote.remote(*args)

    def gather(self, futures: Sequence[Any]) -> list[Any]:
        return list(self._ray.get(list(futures)))

    def result(self, future: Any) -> Any:
        return self._ray.get(future)
