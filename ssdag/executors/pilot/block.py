# SPDX-License-Identifier: BSD-3-Clause
"""A block: what is known of one job, for those who ask."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ssdag.executors.pilot.scaling import BlockView
from ssdag.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ssdag.executors.pilot.peers import Peer
    from ssdag.providers.base import JobSpec, JobStatus, Provider


@dataclass(eq=False)
class Block:
    """A job that we have asked for.

    Attributes
    ----------
    waited_until : float
        ``time.monotonic()`` at which it was last known not to run: its time limit
        counts from then, or later.
    arrived : int
        Managers that have come.
    proved : bool
        It has done a task.
    released : bool
        We have cancelled it.
    useless : bool
        It has ended by itself without having done anything.
    deserted_since : float
        When its last manager was lost; 0 if it has one, or had none yet.
    """

    number: int
    job: JobSpec
    job_id: str = ""
    status: JobStatus | None = None
    waited_until: float = field(default_factory=time.monotonic)
    arrived: int = 0
    slots: int = 0
    proved: bool = False
    draining: bool = False
    released: bool = False
    useless: bool = False
    deserted_since: float = 0.0


class Noting:
    """A provider whose answers tell when jobs had not begun."""

    def __init__(self, provider: Provider, note: Callable[[Iterable[str], float], None]) -> None:
        self._provider = provider
        self._note = note

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    def poll(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """Ask the scheduler."""
        since = time.monotonic()
        found = self._provider.poll(job_ids)
        waiting = (JobState.PENDING, JobState.HELD)
        self._note((i for i, s in found.items() if s.state in waiting), since)
        return found


def view_of(block: Block, peers: list[Peer], now: float, shortest_s: float) -> BlockView:
    """Return what the strategy sees of a block.

    `shortest_s` is the time that the shortest of the tasks needs that wait because they
    are too long.
    """
    tasks = sum(len(peer.held) for peer in peers)
    useful = not block.arrived or any(
        not peer.draining and peer.ends - now > shortest_s for peer in peers
    )
    idle_s = min((now - peer.idle_since for peer in peers), default=0.0) if not tasks else 0.0
    return BlockView(block.number, block.arrived > 0, block.draining, useful, tasks, idle_s)


def words_of(status: JobStatus) -> str:
    """Return what a scheduler said of a job, in a line."""
    words = [str(status.state)]
    if status.exit_code is not None:
        words.append(f"exit code {status.exit_code}")
    if status.signal is not None:
        words.append(f"signal {status.signal}")
    if status.reason:
        words.append(f"({status.reason})")
    return " ".join(words)
