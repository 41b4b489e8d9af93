# SPDX-License-Identifier: BSD-3-Clause
"""joblib: its process pool (loky) with counting by hand, and its bulk map."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from benchmarks.peers.contract import WORKERS, Backend
from benchmarks.peers.counting import CountingBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


class LokyBackend(CountingBackend):
    """The executor below joblib."""

    pending = 20_000

    def load(self) -> None:
        self._loky: Any = importlib.import_module("joblib.externals.loky")

    def start(self) -> None:
        self.pool = self._loky.get_reusable_executor(max_workers=WORKERS)


class ParallelBackend(Backend):
    """``joblib.Parallel``: a map that batches by itself; no futures, no graph."""

    graph = False

    def load(self) -> None:
        self._joblib: Any = importlib.import_module("joblib")

    def start(self) -> None:
        self._parallel: Any = self._joblib.Parallel(n_jobs=WORKERS, max_nbytes=None)
        self._parallel.__enter__()

    def stop(self) -> None:
        self._parallel.__exit__(None, None, None)

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        return self._joblib.delayed(fn)(*args)

    def gather(self, futures: Sequence[Any]) -> list[Any]:
        return list(self._parallel(futures))

    def bulk(self, fn: Callable[..., Any], arguments: Iterable[Any]) -> list[Any]:
        delayed = self._joblib.delayed(fn)
        return list(self._parallel(delayed(a) for a in arguments))
