# SPDX-License-Identifier: BSD-3-Clause
"""ssdag itself, with default features on: decorated apps, processes and threads."""

from __future__ import annotations

import importlib
import tempfile
from typing import TYPE_CHECKING, Any

from benchmarks.peers.contract import WORKERS, Backend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class _OurBackend(Backend):
    pending = 200_000
    executor = ""

    def __init__(self) -> None:
        self._apps: dict[Callable[..., Any], Any] = {}

    def load(self) -> None:
        self._ssdag: Any = importlib.import_module("ssdag")

    def start(self) -> None:
        executor = getattr(self._ssdag.executors, self.executor)
        self._engine: Any = self._ssdag.load(self._ssdag.Config(executors=[executor(WORKERS)]))

    def stop(self) -> None:
        self._engine.close()

    def _app(self, fn: Callable[..., Any]) -> Any:
        app = self._apps.get(fn)
        if app is None:
            app = self._apps[fn] = self._ssdag.python_app(fn)
        return app

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        return self._app(fn)(*args)

    def map(self, fn: Callable[..., Any], arguments: Sequence[Any]) -> list[Any]:
        return self.gather(self._app(fn).map(arguments))

    def gather(self, futures: Sequence[Any]) -> list[Any]:
        return [f.result() for f in futures]

    def result(self, future: Any) -> Any:
        return future.result()


class LocalBackend(_OurBackend):
    """``LocalExecutor``: worker processes."""

    executor = "LocalExecutor"


class PilotBackend(_OurBackend):
    """``PilotExecutor``: one block of this machine, over loopback, in clear text."""

    encrypt = False

    def start(self) -> None:
        from ssdag.providers.local import LocalProvider

        executor = self._ssdag.executors.PilotExecutor(
            LocalProvider(init_blocks=1),
            workers_per_node=WORKERS,
            encrypt=self.encrypt,
            run_dir=tempfile.mkdtemp(),
        )
        self._engine = self._ssdag.load(self._ssdag.Config(executors=[executor]))


class EncryptedPilotBackend(PilotBackend):
    """The same with CurveZMQ, which links between machines have."""

    encrypt = True


class ThreadBackend(_OurBackend):
    """``ThreadExecutor``."""

    processes = False
    executor = "ThreadExecutor"
