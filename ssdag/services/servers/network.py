# SPDX-License-Identifier: BSD-3-Clause
"""At which address of its node a server listens, so that all others reach it. Pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Facts = Mapping[str, Any]

LOOPBACK = "127.0.0.1"

#: Names of interfaces of fast networks, the first the best; others come after them.
_FAST = ("hsn", "ib", "opa", "ipogif")
#: Bridges of containers and virtual machines: the same networks on every node, apart.
_APART = ("docker", "virbr", "br-", "veth", "cni", "podman", "lxc", "lo")


def choose_addresses(nodes: Sequence[Facts], driver: Facts) -> list[str]:
    """Return an address for each node.

    Loopback where all are one machine; else the fastest network that all nodes and the
    driver are in; else, node by node, its first address that is not loopback.

    Parameters
    ----------
    nodes, driver : mapping
        ``machine`` and ``addresses``, as :mod:`ssdag.services.servers.node_facts` gives them.

    Raises
    ------
    ValueError
        A node has no address that others could reach.
    """
    if all(node["machine"] == driver["machine"] for node in nodes):
        return [LOOPBACK for _ in nodes]
    shared: list[tuple[int, str, list[str]]] = []
    for name, network in _networks(driver):
        found = [_address_in(network, node) for node in nodes]
        if all(found) and _tell_apart(nodes, found):
            shared.append((_rank(name), name, found))
    if shared:
        return min(shared)[2]
    return [_first(node) for node in nodes]


def _networks(facts: Facts) -> list[tuple[str, ipaddress.IPv4Network]]:
    return [
        (name, ipaddress.IPv4Interface(text).network)
        for name, texts in facts["addresses"].items()
        for text in texts
        if not name.startswith(_APART) and not ipaddress.IPv4Interface(text).is_loopback
    ]


def _address_in(network: ipaddress.IPv4Network, facts: Facts) -> str:
    """Return the address of a node in a network; empty if it has none."""
    for name, texts in facts["addresses"].items():
        for text in texts:
            there = ipaddress.IPv4Interface(text)
            if there.network == network and not name.startswith(_APART):
                return str(there.ip)
    return ""


def _tell_apart(nodes: Sequence[Facts], addresses: Sequence[str]) -> bool:
    """Say whether different machines have different addresses."""
    owners: dict[str, str] = {}
    return all(
        owners.setdefault(address, node["machine"]) == node["machine"]
        for node, address in zip(nodes, addresses, strict=True)
    )


def _rank(name: str) -> int:
    return next((i for i, start in enumerate(_FAST) if name.startswith(start)), len(_FAST))


def _first(facts: Facts) -> str:
    found = sorted(
        (_rank(name), name, str(ipaddress.IPv4Interface(text).ip))
        for name, texts in facts["addresses"].items()
        for text in texts
        if not name.startswith(_APART) and not ipaddress.IPv4Interface(text).is_loopback
    )
    if not found:
        raise ValueError(f"{facts['host']} has no IPv4 address but loopback: {facts['addresses']}")
    return found[0][2]
