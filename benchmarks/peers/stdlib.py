# SPDX-License-Identifier: BSD-3-Clause
"""The pools of the standard library, with dependency counting by hand."""

from __future__ import annotations

import concurrent.futures as cf

from benchmarks.peers.contract import WORKERS
from benchmarks.peers.counting import CountingBackend


class ProcessPoolBackend(CountingBackend):
    """``ProcessPoolExecutor`` with its default start method."""

    def load(self) -> None:
        import concurrent.futures.process  # noqa: F401  (the lazy half of the package)

    def start(self) -> None:
        self.pool = cf.ProcessPoolExecutor(WORKERS)


class ThreadPoolBackend(CountingBackend):
    """``ThreadPoolExecutor``."""

    processes = False

    def load(self) -> None:
        import concurrent.futures.thread  # noqa: F401  (the lazy half of the package)

    def start(self) -> None:
        self.pool = cf.ThreadPoolExecutor(WORKERS)
