# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of clusters; tests that kill servers bring clusters of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.redis_cluster import RedisCluster
from tests.integration.servers import SERVERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.client import Client


@pytest.fixture(scope="module", params=SERVERS)
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisCluster]:
    """Three shards, which nobody but the test moves or stops."""
    with RedisCluster(tmp_path_factory.mktemp("cluster"), 3, program=request.param) as made:
        yield made


@pytest.fixture
def client(cluster: RedisCluster) -> Iterator[Client]:
    """A client of it, which finds it empty."""
    with cluster.client() as made:
        for server in cluster.primaries:
            server.call("FLUSHALL")
        yield made
