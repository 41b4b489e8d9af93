# SPDX-License-Identifier: BSD-3-Clause
"""Parsl on its high-throughput executor and on threads.

Set up for speed: logging, usage reports and the scaling strategy off, no memo hash,
and on HTEX no encryption and a prefetch of 100 (both faster than the defaults).
"""

from __future__ import annotations

import importlib
import tempfile
from typing import TYPE_CHECKING, Any

from benchmarks.peers.contract import WORKERS, Backend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class _ParslBackend(Backend):
    def __init__(self) -> None:
        self._apps: dict[Callable[..., Any], Any] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="ssdag-bench-")

    def executor(self) -> Any:
        raise NotImplementedError

    def load(self) -> None:
        self._parsl: Any = importlib.import_module("parsl")
        self._executors: Any = importlib.import_module("parsl.executors")
        self._providers: Any = importlib.import_module("parsl.providers")
        self._config: Any = importlib.import_module("parsl.config")

    def start(self) -> None:
        self._parsl.load(
            self._config.Config(
                executors=[self.executor()],
                run_dir=self._folder.name,
                initialize_logging=False,
                usage_tracking=0,
                strategy="none",
            )
        )

    def stop(self) -> None:
        self._parsl.dfk().cleanup()
        self._folder.cleanup()

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        app = self._apps.get(fn)
        if app is None:
            app = self._apps[fn] = self._parsl.python_app(fn)
        return app(*args)

    def gather(self, futures: Sequence[Any]) -> list[Any]:
        return [f.result() for f in futures]

    def result(self, future: Any) -> Any:
        return future.result()


class HtexBackend(_ParslBackend):
    """``HighThroughputExecutor`` with a local block."""

    encrypted = False

    def executor(self) -> Any:
        return self._executors.HighThroughputExecutor(
            label="htex",
            address="127.0.0.1",
            encrypted=self.encrypted,
            max_workers_per_node=WORKERS,
            prefetch_capacity=100,
            provider=self._providers.LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
        )


class EncryptedHtexBackend(HtexBackend):
    """The same with CurveZMQ, its default."""

    encrypted = True


class ThreadBackend(_ParslBackend):
    """Parsl's ``ThreadPoolExecutor``."""

    processes = False

    def executor(self) -> Any:
        return self._executors.ThreadPoolExecutor(label="threads", max_threads=WORKERS)
