# SPDX-License-Identifier: BSD-3-Clause
"""The executors that the contract is tested on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import ssdag
from ssdag.executors import LocalExecutor, ThreadExecutor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ssdag.dataflow.engine import Engine
    from ssdag.executors import Executor

MAKERS: dict[str, Callable[[int], Executor]] = {
    "threads": lambda workers: ThreadExecutor(workers),
    "local": lambda workers: LocalExecutor(workers, threshold_bytes=1 << 16),
}


@pytest.fixture(params=list(MAKERS))
def kind(request: pytest.FixtureRequest) -> str:
    """The executor's kind."""
    return str(request.param)


@pytest.fixture
def start(kind: str) -> Iterator[Callable[..., Engine]]:
    """Start engines: ``start(workers=2, **options of Config)``; closed after the test."""
    engines: list[Engine] = []

    def make(workers: int = 2, **config: Any) -> Engine:
        engine = ssdag.load(ssdag.Config(executors=[MAKERS[kind](workers)], **config))
        engines.append(engine)
        return engine

    yield make
    for engine in reversed(engines):
        engine.close()


@pytest.fixture
def engine(start: Callable[..., Engine]) -> Engine:
    """An engine with two workers."""
    return start()


@pytest.fixture
def path(tmp_path: Path) -> Callable[[str], str]:
    """Names of files in the test's folder."""
    return lambda name: str(tmp_path / name)
