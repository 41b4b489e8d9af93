# SPDX-License-Identifier: BSD-3-Clause
"""A redis-py client of the same servers; imported when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import redis
from redis.cluster import ClusterNode, RedisCluster

if TYPE_CHECKING:
    from ssdag.client.transport.address import Place


def redis_client(place: Place, password: str | None) -> Any:
    """Return a redis-py client whose calls wait for ever."""
    first = place.addresses[0] if place.clustered else place.addresses[0].ways()[0]
    if place.clustered:
        node: Any = ClusterNode
        seeds = [node(address.host, address.port) for address in place.addresses]
        return RedisCluster(startup_nodes=seeds, password=password, socket_timeout=None)
    if first.path:
        return redis.Redis(unix_socket_path=first.path, password=password, socket_timeout=None)
    return redis.Redis(first.host, first.port, password=password, socket_timeout=None)
