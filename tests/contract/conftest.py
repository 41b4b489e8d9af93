# SPDX-License-Identifier: BSD-3-Clause
"""The executors that the contract is tested on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import ssdag
from ssdag.executors import LocalExecutor, PilotExecutor, ThreadExecutor
from ssdag.providers.local import LocalProvider
from tests.contract.stagings import place as place
from tests.contract.stagings import server as server
from tests.contract.stagings import sshd as sshd
from tests.contract.stagings import staging_cache as staging_cache
from tests.contract.stagings import web as web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ssdag.dataflow.engine import Engine
    from ssdag.executors import Executor

MAKERS: dict[str, Callable[[int, Path], Executor]] = {
    "threads": lambda workers, _: ThreadExecutor(workers),
    "local": lambda workers, _: LocalExecutor(workers, threshold_bytes=1 << 16),
    "pilot": lambda workers, folder: PilotExecutor(
        LocalProvider(init_blocks=1),
        workers_per_node=workers,
        cores_per_worker=0.1,  # more workers than cores
        threshold_bytes=1 << 16,
        run_dir=folder,
    ),
}


@pytest.fixture(params=list(MAKERS))
def kind(request: pytest.FixtureRequest) -> str:
    """The executor's kind."""
    return str(request.param)


@pytest.fixture
def start(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Engine]]:
    """Start engines: ``start(workers=2, **options of Config)``; closed after the test."""
    engines: list[Engine] = []
    folder = tmp_path_factory.mktemp("runs")

    def make(workers: int = 2, **config: Any) -> Engine:
        engine = ssdag.load(ssdag.Config(executors=[MAKERS[kind](workers, folder)], **config))
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
