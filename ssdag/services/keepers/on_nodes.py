# SPDX-License-Identifier: BSD-3-Clause
"""Keepers on the nodes of the allocation that we are in: which nodes, how they are launched."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ssdag.errors import ConfigError, ServiceStartError, UnsupportedError
from ssdag.services.keepers.node_place import NodePlace
from ssdag.services.servers.folder import temporary_folder
from ssdag.services.servers.network import choose_addresses
from ssdag.services.servers.node_facts import addresses_here, machine
from ssdag.services.servers.places import LocalPlace, Place
from ssdag.wire import guard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.launchers import Launcher
    from ssdag.providers.base import Provider
    from ssdag.services.keepers.remote import RemotePlace

_log = logging.getLogger("ssdag")

#: More than so many launchers on one machine are a burden.
_MANY_HOSTS = 16
#: Launchers whose steps share cores; with others a server would keep tasks waiting for ever.
_SHARING = frozenset({"srun", "mpiexec", "mpirun", "pals"})
#: A node may take so long to look for a file: parallel file systems have their moods.
_LOOK_S = 20.0


def provider_here() -> Provider | None:
    """Return the provider in whose allocation we are, None outside one; asks nobody."""
    from ssdag.providers.auto import inside, named

    name = inside(os.environ)
    return None if name in (None, "local") else named(str(name))


def hosts_of_allocation(provider: Provider | None) -> tuple[str, ...]:
    """Return the hosts of the allocation that we are in; empty where this machine is all."""
    found = None if provider is None else provider.allocation()
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
    single_cmd: bool | None = None,
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
    single_cmd : bool, optional
        One launch for all, where the launcher sends its input to all ranks (srun), or one
        for each host; by default the latter up to sixteen hosts.
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
    # Here, as most orchestrators stay on one machine and start sooner without.
    from ssdag.launchers.named import launcher_of
    from ssdag.services.keepers.opening import TO_ALL, launch_keepers

    starter, program = launcher_of(launcher), python or sys.executable
    if single_cmd is None:
        single_cmd = len(hosts) > _MANY_HOSTS and starter.name in TO_ALL
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
    nodes: int | None,
    *,
    hosts: Sequence[str] | None = None,
    launcher: Launcher | str | None = "auto",
    single_cmd: bool | None = None,
    timeout_s: float = 60.0,
) -> list[Place]:
    """Return places for the servers of an orchestrator, one on each node.

    In an allocation of several nodes keepers are launched there; blocks until they are
    there. Elsewhere the one place is this machine, and also, with a warning, where the
    allocation's launcher has steps share nothing.

    Parameters
    ----------
    nodes : int or None
        How many nodes, if there are so many; None for all.
    hosts : sequence of str, optional
        Which; by default the last ones.
    launcher : Launcher or str, optional
        Starts keepers; "auto" takes that of the allocation's provider; None has all on
        this machine.
    single_cmd, timeout_s
        See :func:`open_places`.

    Raises
    ------
    ConfigError
        The allocation has no such hosts, or nobody knows how to start something there.
    ServiceStartError, UnsupportedError
        See :func:`open_places`.
    """
    if launcher is None and hosts is None:
        return [LocalPlace()]
    provider = provider_here()
    there = hosts_of_allocation(provider)
    if hosts is None and len(there) < 2:
        return [LocalPlace()]
    if provider is None and launcher in (None, "auto"):
        raise ConfigError(
            f"hosts={list(hosts or ())!r}: this process is in no allocation; name what starts "
            "servers there by launcher="
        )
    chosen = choose_hosts(min(nodes or len(there), len(there)), hosts, there)
    if launcher in (None, "auto"):
        assert provider is not None
        launcher = provider.launcher()
        if launcher.name not in _SHARING and hosts is None:
            refusal = (
                f"launcher {launcher.name} starts nothing beside other steps of a node; name "
                "nodes by hosts= and keep tasks off them, or another launcher="
            )
            if nodes is None:
                raise UnsupportedError(f"no servers on {', '.join(there)}: {refusal}")
            _log.warning("the orchestrator stays on this machine: %s", refusal)
            return [LocalPlace()]
    return list(open_places(chosen, launcher, single_cmd=single_cmd, timeout_s=timeout_s))


def password_folder(places: Sequence[Place], *, interface: str, outlives: bool) -> Path:
    """Make a private folder that those see who need the password.

    Where other nodes take part it lies under the home folder, which they usually share.
    :func:`ssdag.services.servers.folder.remove_folder` removes it.
    """
    if not interface and not any(isinstance(place, NodePlace) for place in places):
        return temporary_folder(outlives=outlives)
    parent = Path.home() / ".ssdag"
    parent.mkdir(mode=0o700, exist_ok=True)
    if outlives:
        return Path(tempfile.mkdtemp(prefix="ssdag-", dir=parent))
    return Path(guard.folder(str(parent), "ssdag-"))


def check_seen(places: Sequence[Place], path: Path) -> None:
    """Raise ServiceStartError if a node with a keeper does not see a file as we do."""
    digests = {str(path): hashlib.sha256(path.read_bytes()).hexdigest()}
    for place in places:
        if isinstance(place, NodePlace) and place.keeper.unseen(digests, _LOOK_S):
            raise ServiceStartError(
                f"{place.hostname} does not see {path.parent}, where the password is: give a "
                "folder that all nodes share by folder="
            )
