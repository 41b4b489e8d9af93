# SPDX-License-Identifier: BSD-3-Clause
"""Keepers on the nodes of the allocation that we are in: which nodes, how they are launched."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ssdag.errors import ConfigError, ServiceStartError
from ssdag.launchers.named import launcher_of
from ssdag.providers.base import Provider
from ssdag.services.network import choose_addresses
from ssdag.services.node_facts import addresses_here, machine
from ssdag.services.opening import launch_keepers
from ssdag.services.places import LocalPlace, Place
from ssdag.services.remote import NodePlace, RemotePlace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.launchers import Launcher


def provider_here(provider: Provider | str = "auto") -> Provider:
    """Return the provider that a user means."""
    if isinstance(provider, Provider):
        return provider
    from ssdag.providers.auto import named

    return named(provider)


def hosts_of_allocation(provider: Provider) -> tuple[str, ...]:
    """Return the hosts of the allocation that we are in; empty where this machine is all."""
    if provider.name == "local":
        return ()
    found = provider.allocation()
    return () if found is None else tuple(node.host for node in found.nodes)


def choose_hosts(
    count: int | None, wanted: Sequence[str] | None, there: Sequence[str]
) -> tuple[str, ...]:
    """Return the hosts that get servers.

    Parameters
    ----------
    count : int, optional
        How many; by default all. They are the last ones, since tasks fill an allocation
        from its first node, where the driver often runs too.
    wanted : sequence of str, optional
        The user's choice.
    there : sequence of str
        Those of the allocation.

    Raises
    ------
    ConfigError
        A wanted one is not there, or there are not so many.
    """
    if wanted is not None:
        strange = [host for host in wanted if there and host not in there]
        if strange or len(set(wanted)) != len(wanted):
            raise ConfigError(
                f"hosts={list(wanted)!r}: {', '.join(strange) or 'each once'}; the allocation has "
                f"{', '.join(there)}"
            )
        return tuple(wanted)
    if count is not None and count > len(there):
        raise ConfigError(
            f"nodes={count}: but the allocation has {len(there)} ({', '.join(there)})"
        )
    return tuple(there[-count:] if count else there)


def open_places(
    hosts: Sequence[str],
    launcher: Launcher | str,
    *,
    single_cmd: bool = False,
    cores: int | None = None,
    timeout_s: float = 60.0,
    python: str | None = None,
) -> list[NodePlace]:
    """Launch a keeper on each host and return the places, in the order of the hosts.

    Parameters
    ----------
    hosts : sequence of str
        As the launcher takes them.
    launcher : Launcher or str
        Starts keepers; it must hand its standard input on to them.
    single_cmd : bool
        One launch for all, where the launcher sends its input to all ranks; by default one
        for each host, so that the loss of one node leaves the others.
    cores : int, optional
        Cores that are asked for on each host; by default the launcher's own choice. They
        are shared with other steps.
    timeout_s : float
        How long keepers may take to say that they are there.
    python : str, optional
        The interpreter on the nodes; by default ours.

    Raises
    ------
    ServiceStartError
        A keeper did not come; the launcher's own words. None is left behind.
    UnsupportedError
        The launcher cannot do it.
    """
    starter, program = launcher_of(launcher), python or sys.executable
    groups = [tuple(hosts)] if single_cmd else [(host,) for host in hosts]
    places = launch_keepers(groups, starter, cores, timeout_s, program)
    facts = {"machine": machine(), "addresses": addresses_here()}
    try:
        addresses = choose_addresses([place.facts for place in places], facts)
    except ValueError as error:
        for place in places:
            place.close()
        raise ServiceStartError(f"no network for servers: {error}") from error
    for place, address in zip(places, addresses, strict=True):
        place.address = address

    def again(place: RemotePlace) -> NodePlace:
        # Of one launch for all nobody says which rank is where; the keepers do.
        host = hosts[places.index(place)] if not single_cmd else place.hostname

        def open_again() -> RemotePlace:
            return launch_keepers([(host,)], starter, cores, timeout_s, program)[0]

        return NodePlace(place, open_again)

    return [again(place) for place in places]


def find_places(
    nodes: int,
    *,
    hosts: Sequence[str] | None = None,
    provider: Provider | str = "auto",
    launcher: Launcher | str = "auto",
    single_cmd: bool = False,
    timeout_s: float = 60.0,
) -> list[Place]:
    """Return places for the servers of an orchestrator, one on each node.

    Outside an allocation, on one of a single node, or with ``nodes=1`` and no `hosts`, that
    is this machine. Else keepers are launched; blocks until they are there.

    Parameters
    ----------
    nodes : int
        How many nodes.
    hosts : sequence of str, optional
        Which.
    provider : Provider or str
        Who knows the allocation.
    launcher : Launcher or str
        Starts keepers; "auto" takes the provider's.
    single_cmd, timeout_s
        See :func:`open_places`.

    Raises
    ------
    ConfigError
        The allocation has no such nodes.
    ServiceStartError, UnsupportedError
        See :func:`open_places`.
    """
    if hosts is None and nodes == 1:
        return [LocalPlace()]
    known = provider_here(provider)
    there = hosts_of_allocation(known)
    if hosts is None and len(there) < 2:
        return [LocalPlace()]
    chosen = choose_hosts(min(nodes, len(there)) if there else nodes, hosts, there)
    starter = known.launcher() if launcher == "auto" else launcher
    return list(open_places(chosen, starter, single_cmd=single_cmd, timeout_s=timeout_s))
