# SPDX-License-Identifier: BSD-3-Clause
"""A cluster whose nodes are hosts of their own, and a cable that is pulled."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ssdag.client.transport.slots import slot_of
from tests.conftest import wait_until
from tests.integration.bridged import BridgedHosts
from tests.integration.namespaces import refusal
from tests.integration.redis_cluster import RedisCluster

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(refusal() is not None, reason=refusal() or "")

DEADLINE_S = 60.0


@pytest.fixture
def hosts() -> Iterator[BridgedHosts]:
    made = BridgedHosts(6)
    yield made
    made.remove()


def test_a_host_that_is_cut_off(
    hosts: BridgedHosts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nobody hangs up, nobody refuses: still every call comes to its end."""
    folder = tmp_path_factory.mktemp("hosts")
    with RedisCluster(folder, 3, 1, hosts=hosts) as cluster, cluster.client() as client:
        names = [f"t{i}" for i in range(30)]
        client.put_tensors(dict.fromkeys(names, np.ones(1000)))
        assert len({node.host for node in client.nodes()}) == 3
        name = next(n for n in names if cluster.owner(slot_of(n.encode())) is cluster.servers[0])
        replica, primary = cluster.servers[3], cluster.servers[0]
        wait_until(
            lambda: (
                replica.info("replication").get("slave_repl_offset")
                == primary.info("replication")["master_repl_offset"]
            ),
            what="replication",
            deadline_s=DEADLINE_S,
        )
        hosts.cut(0)
        began = time.monotonic()
        assert client.get_tensor(name).size == 1000  # on an old connection
        assert client.node_of(name.encode()).host == hosts.addresses[3]
        client.put_tensors(dict.fromkeys(names, np.ones(10)))
        with cluster.client() as other:  # which has to find a node that answers
            assert all(a.size == 10 for a in other.get_tensors(names).values())
        assert time.monotonic() - began < DEADLINE_S
