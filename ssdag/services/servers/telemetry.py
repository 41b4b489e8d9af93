# SPDX-License-Identifier: BSD-3-Clause
"""What servers say of themselves: now, and as samples over time."""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
import threading
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from ssdag.client.transport.address import Address
from ssdag.errors import ConfigError, SsdagError
from ssdag.services.servers.admin import Login, ask, info

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from ssdag.client.transport.resp import Reply
    from ssdag.services.servers.places import PlacedServer

_log = logging.getLogger("ssdag")

_ASK_S = 0.5


@dataclass(frozen=True, slots=True)
class Sample:
    """How one server is at one moment.

    Attributes
    ----------
    time_s : float
        When, in seconds since 1970.
    server : int
        Which: the shards first, then their copies.
    address : str
        Where it is.
    serves : bool
        Whether it serves a shard; a copy does not.
    answers : bool
        False: it said nothing in time, and the numbers are 0.
    memory_bytes, memory_limit_bytes : int
        What its data take, and may take; 0 for no limit.
    clients : int
        Open connections.
    keys : int
        How many there are.
    ops_per_s : int
        Commands in the last second.
    hits, misses : int
        Reads of keys that were there or not, since its start.
    evicted : int
        Keys that went because of the memory limit, since its start.
    received_bytes, sent_bytes : int
        Since its start.
    """

    time_s: float
    server: int
    address: str
    serves: bool = False
    answers: bool = False
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    clients: int = 0
    keys: int = 0
    ops_per_s: int = 0
    hits: int = 0
    misses: int = 0
    evicted: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


def sample(servers: Sequence[PlacedServer], login: Login) -> list[Sample]:
    """Ask all servers at once and return a sample of each; blocks for half a second at most."""
    running = [(i, s) for i, s in enumerate(servers) if s.running()]
    addresses = [Address.parse(s.address_here) for _, s in running]
    answers = ask(addresses, [[b"INFO"]], login, _ASK_S)
    now = time.time()
    said = {i: answer for (i, _), answer in zip(running, answers, strict=True)}
    return [sample_of(now, i, s.address_here, said.get(i)) for i, s in enumerate(servers)]


def sample_of(
    now: float, index: int, address: str, answer: Sequence[Reply] | SsdagError | None
) -> Sample:
    """Return what a server's answer to ``INFO`` says; see :class:`Sample`."""
    facts = {} if answer is None or isinstance(answer, SsdagError) else info(answer[0])
    if not facts:
        return Sample(now, index, address)

    def number(name: str) -> int:
        return int(facts.get(name, 0))

    # "keys=12,expires=0,avg_ttl=0"
    first = facts.get("db0", "").partition(",")[0].partition("=")[2]
    return Sample(
        time_s=now,
        server=index,
        address=address,
        serves=facts.get("role") == "master",
        answers=True,
        memory_bytes=number("used_memory"),
        memory_limit_bytes=number("maxmemory"),
        clients=number("connected_clients"),
        keys=int(first or 0),
        ops_per_s=number("instantaneous_ops_per_sec"),
        hits=number("keyspace_hits"),
        misses=number("keyspace_misses"),
        evicted=number("evicted_keys"),
        received_bytes=number("total_net_input_bytes"),
        sent_bytes=number("total_net_output_bytes"),
    )


class Recording:
    """Samples over time, taken by a thread until :meth:`close` or the servers' end.

    Parameters
    ----------
    take : callable
        Returns the samples of one moment.
    period_s : float
        How often.
    keep : int
        How many moments are remembered; older ones are forgotten.
    path : path, optional
        Each sample is appended here too, a JSON object on a line of its own.

    Raises
    ------
    ConfigError
        A number is not above 0.
    OSError
        The file cannot be opened.
    """

    def __init__(
        self,
        take: Callable[[], list[Sample]],
        period_s: float,
        keep: int,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        if not period_s > 0 or keep < 1:
            raise ConfigError(f"period_s={period_s!r}, keep={keep!r}: must be above 0")
        self._take = take
        self._period_s = period_s
        self._moments: collections.deque[list[Sample]] = collections.deque(maxlen=keep)
        self._file: IO[str] | None = (
            None if path is None else open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        )
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._main, name="ssdag-telemetry", daemon=True)
        self._thread.start()

    @property
    def samples(self) -> list[Sample]:
        """All that is remembered, oldest first."""
        return [each for moment in list(self._moments) for each in moment]

    def _main(self) -> None:
        due_s = time.monotonic()
        try:
            while not self._closed.is_set():
                moment = self._take()
                self._moments.append(moment)
                if self._file is not None:
                    lines = [json.dumps(dataclasses.asdict(each)) + "\n" for each in moment]
                    self._file.write("".join(lines))
                # Moments that were missed are left out, so that a slow server is not asked more.
                due_s = max(due_s + self._period_s, time.monotonic())
                self._closed.wait(due_s - time.monotonic())
        except OSError as error:
            _log.error("telemetry ends: its file cannot be written: %s", error)
        finally:
            if self._file is not None:
                self._file.close()

    def close(self) -> None:
        """Take no more samples; those that were taken stay."""
        self._closed.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
