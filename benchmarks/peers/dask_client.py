# SPDX-License-Identifier: BSD-3-Clause
"""Dask's distributed scheduler with a local cluster of processes."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from benchmarks.peers.contract import WORKERS, Backend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class DaskBackend(Backend):
    """``Client.submit`` on a ``LocalCluster``."""

    def load(self) -> None:
        self._distributed: Any = importlib.import_module("distributed")

    def start(self) -> None:
        self._cluster: Any = self._distributed.LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            worker_dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
        self._client: Any = self._distributed.Client(self._cluster)

    def stop(self) -> None:
        self._client.close()
        self._cluster.close()

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        return self._client.submit(fn, *args, pure=False)

    def gather(self, futures: Sequence[Any]) -> list[Any]:
        return list(self._client.gather(list(futures)))

    def result(self, future: Any) -> Any:
        return future.result()
