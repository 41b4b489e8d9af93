# SPDX-License-Identifier: BSD-3-Clause
"""What can be asked of the servers of an orchestrator, and told to all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdag.client.transport.address import Address
from ssdag.client.transport.resp import ReplyError
from ssdag.errors import ConfigError, SsdagError
from ssdag.services.servers.admin import ask
from ssdag.services.servers.options import check_option
from ssdag.services.servers.telemetry import Recording, Sample, sample
from ssdag.services.store_service import StoreService
from ssdag.states import ServiceState

if TYPE_CHECKING:
    import os

_ASK_S = 5.0


class ServerFacts(StoreService):
    """See :class:`ssdag.Orchestrator`."""

    @property
    def tcp_address(self) -> str | None:
        """``host:port`` of the server, None without TCP; starts it if need be."""
        self.start()
        return ",".join(self.get_address()) or None

    @property
    def pid(self) -> int | None:
        """Process number of the first server; None while there is none."""
        return self.pids[0] if self.pids else None

    @property
    def pids(self) -> list[int]:
        """Process numbers of the servers: the shards, then their copies."""
        return [s.pid for s in self._servers()]

    @property
    def num_shards(self) -> int:
        """Number of servers that share the data, without copies."""
        return self._plan.shards

    @property
    def hosts(self) -> list[str]:
        """Names of the nodes on which the servers are, each once; empty before the start."""
        return list(dict.fromkeys(s.hostname for s in self._servers()))

    @property
    def ports(self) -> list[int]:
        """TCP ports of the servers; 0 for none."""
        return [s.port for s in self._servers()]

    def get_address(self) -> list[str]:
        """Return ``host:port`` of each server; starts them if need be."""
        self.start()
        return [s.address for s in self._servers() if s.port]

    def is_active(self) -> bool:
        """Return whether all servers run and serve; does not start or ask them."""
        return self._state is ServiceState.READY

    # -- telling and measuring ---------------------------------------------------------

    def set_db_conf(self, key: str, value: str | int) -> None:
        """Set an option of all servers; they keep it when they are restarted.

        Starts the servers if need be.

        Parameters
        ----------
        key : str
            As in the server's configuration file, such as ``maxmemory``.
        value : str or int
            As there.

        Raises
        ------
        ConfigError
            A server does not take it, and says why; those before it have taken it.
        StoreError
            A server does not answer.
        """
        check_option(key, value)
        self.start()
        servers = [s for s in self._servers() if s.running()]
        line = [b"CONFIG", b"SET", key.encode(), str(value).encode()]
        addresses = [Address.parse(s.address_here) for s in servers]
        for answer in ask(addresses, [line], self._plan.login, _ASK_S):
            if isinstance(answer, SsdagError):
                raise answer
            if isinstance(answer[0], ReplyError):
                raise ConfigError(f"{self.name!r}: {key}={value!r} is refused: {answer[0]}")
        self._remember(key, value)

    def telemetry(self) -> list[Sample]:
        """Return how each server is now; blocks for half a second at most.

        Starts the servers if need be. One that does not answer in time says so in its
        sample.
        """
        self.start()
        return self._sample()

    def _sample(self) -> list[Sample]:
        return sample(self._servers(), self._plan.login)

    def record_telemetry(
        self,
        period_s: float = 1.0,
        *,
        keep: int = 3600,
        path: str | os.PathLike[str] | None = None,
    ) -> Recording:
        """Take samples from now on, until the end of the recording or of the servers.

        Starts the servers if need be.

        Parameters
        ----------
        period_s : float
            How often.
        keep : int
            How many moments are remembered.
        path : path, optional
            Each sample is appended to this file too, as a line of JSON.
        """
        self.start()
        recording = Recording(self._sample, period_s, keep, path)
        with self._lock:
            self._recordings.append(recording)
            over = self._state.final
        if over:
            recording.close()
        return recording
