# SPDX-License-Identifier: BSD-3-Clause
"""The connectors that the contract test runs on."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from ssdag.connectors import (
    AdiosConnector,
    DirectoryConnector,
    RedisConnector,
    SharedMemoryConnector,
)
from ssdag.services.orchestrator import Orchestrator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ssdag.connectors.base import Connector


@contextmanager
def _directory(tmp_path: Path) -> Iterator[Connector]:
    yield DirectoryConnector(tmp_path / "store")


@contextmanager
def _parallel(tmp_path: Path) -> Iterator[Connector]:
    """As on Lustre: no notifications, nothing mapped."""
    made = DirectoryConnector(tmp_path / "store", scope="shared", durable=True)
    assert not made.local
    yield made


@contextmanager
def _adios(tmp_path: Path) -> Iterator[Connector]:
    pytest.importorskip("adios2")
    yield AdiosConnector(tmp_path / "store")


@contextmanager
def _shared_memory(_: Path) -> Iterator[Connector]:
    with SharedMemoryConnector() as made:
        yield made
    assert not os.path.exists(made.path)


def _redis(
    server: str | None, nodes: int = 1
) -> Callable[[Path], AbstractContextManager[Connector]]:
    @contextmanager
    def make(tmp_path: Path) -> Iterator[Connector]:
        with Orchestrator(nodes, server=server) as db:
            # Keeps the thread that waits for data, so that no test seems to leave it behind.
            db.tensor("nobody puts this")
            yield RedisConnector(db)

    return make


_needs_redis = pytest.mark.skipif(
    not shutil.which("redis-server"), reason="no redis-server on PATH"
)

CONNECTORS = [
    pytest.param(_directory, id="directory"),
    pytest.param(_parallel, id="parallel"),
    pytest.param(_shared_memory, id="shared_memory"),
    pytest.param(_adios, id="adios"),
    pytest.param(_redis(None), id="redis"),
    pytest.param(_redis("redis-server"), id="redis7", marks=_needs_redis),
    pytest.param(_redis(None, nodes=3), id="cluster"),
]

#: One of each that differs in more than an option.
SOME = [param for param in CONNECTORS if param.id not in ("parallel", "redis7", "adios")]
