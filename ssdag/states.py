# SPDX-License-Identifier: BSD-3-Clause
"""The states of tasks, services and jobs, and which state may follow which.

The tables are total: :func:`check` answers for every pair of states, and the
engine changes a task's state nowhere but through it.
"""

from __future__ import annotations

from enum import IntEnum


class TaskState(IntEnum):
    """Where a task stands.

    ``PENDING`` waits for parents, ``READY`` waits for a worker, ``LAUNCHED`` was
    handed to a worker, ``RUNNING`` executes, ``JOINING`` waits for the futures that
    its body returned. The others are final.
    """

    PENDING = 0
    READY = 1
    LAUNCHED = 2
    RUNNING = 3
    JOINING = 4
    DONE = 5
    FAILED = 6
    DEP_FAILED = 7
    CANCELLED = 8
    MEMO_DONE = 9

    @property
    def final(self) -> bool:
        """True if no other state can follow."""
        return self >= TaskState.DONE

    def __str__(self) -> str:
        return self.name.lower()


class ServiceState(IntEnum):
    """Where a service node stands; ``STOPPED`` and ``FAILED`` are final."""

    PENDING = 0
    STARTING = 1
    READY = 2
    DEGRADED = 3
    STOPPED = 4
    FAILED = 5

    @property
    def final(self) -> bool:
        """True if no other state can follow."""
        return self >= ServiceState.STOPPED

    def __str__(self) -> str:
        return self.name.lower()


class JobState(IntEnum):
    """Where a scheduler's job stands; from ``COMPLETED`` on it is final.

    ``HELD`` is held or suspended, by the user, an administrator or the scheduler.
    ``UNKNOWN`` is a state that no table has; such a job still counts as there.
    """

    PENDING = 0
    HELD = 1
    RUNNING = 2
    UNKNOWN = 3
    COMPLETED = 4
    FAILED = 5
    TIMEOUT = 6
    CANCELLED = 7

    @property
    def final(self) -> bool:
        """True if no other state can follow."""
        return self >= JobState.COMPLETED

    def __str__(self) -> str:
        return self.name.lower()


_S = TaskState
_ENDS = {_S.DONE, _S.FAILED, _S.CANCELLED}

#: Which states may follow a state. A worker reports that a task began only when it
#: can be seen from outside, so LAUNCHED may end without RUNNING; a retry or a task
#: taken back from a worker goes to READY (or PENDING while it waits out a back-off).
TASK_TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    _S.PENDING: frozenset({_S.READY, _S.DEP_FAILED, _S.CANCELLED, _S.FAILED, _S.MEMO_DONE}),
    _S.READY: frozenset({_S.LAUNCHED, _S.RUNNING, _S.PENDING, _S.MEMO_DONE} | _ENDS),
    _S.LAUNCHED: frozenset({_S.RUNNING, _S.READY, _S.PENDING, _S.JOINING} | _ENDS),
    _S.RUNNING: frozenset({_S.READY, _S.PENDING, _S.JOINING} | _ENDS),
    _S.JOINING: frozenset({_S.DEP_FAILED} | _ENDS),
    _S.DONE: frozenset(),
    _S.FAILED: frozenset(),
    _S.DEP_FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.MEMO_DONE: frozenset(),
}

#: The same as a table of bit masks, which is what the hot path reads.
ALLOWED: tuple[int, ...] = tuple(
    sum(1 << new for new in TASK_TRANSITIONS[old]) for old in TaskState
)


def check(old: TaskState, new: TaskState) -> bool:
    """Say whether a task may go from ``old`` to ``new``."""
    return bool(ALLOWED[old] >> new & 1)
