# SPDX-License-Identifier: BSD-3-Clause
"""Failed attempts that are made again: the decision, the delay, the next attempt."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ssdag.dataflow.retry import from_config
from ssdag.dataflow.timers import Timers
from ssdag.futures import LOCK
from ssdag.states import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.config import Config
    from ssdag.tasks import Options, Outcome, Task

_log = logging.getLogger("ssdag")


class Retrying:
    """Tries tasks again.

    Parameters
    ----------
    config : Config
        The engine's rule, for apps that have none of their own.
    hand_over : callable
        Takes a ready task to an executor.
    """

    def __init__(self, config: Config, hand_over: Callable[[Task], None]) -> None:
        self._rule = from_config(config)
        self._hand_over = hand_over
        self._timers = Timers()
        self._closed = False

    def takes(self, outcome: Outcome) -> bool:
        """Return True if a failed attempt is not the end: there will be another one."""
        task, error = outcome.task, outcome.error
        assert error is not None
        # Only what an executor ran: a task that failed before has no arguments to run with.
        if self._closed or task.state not in (TaskState.LAUNCHED, TaskState.RUNNING):
            return False
        rule = task.options.retry or self._rule
        try:
            delay = rule.delay_s(error, task)
        except Exception as raised:  # the handler is user code
            raised.__cause__ = error
            outcome.error = raised
            return False
        if delay is None:
            return False
        with LOCK:
            if not task.move(TaskState.PENDING if delay else TaskState.READY):
                return False
        _log.info("task %d (%s) is tried again in %.3g s", task.task_id, task.app.name, delay)
        if delay:
            self._timers.after(delay, lambda: self._again(task))
        else:
            self._hand_over(task)
        return True

    def budget(self, options: Options) -> float:
        """Return how many failures may be retried; 1 where a rule of the user's own decides."""
        return float(getattr(options.retry or self._rule, "budget", 1))

    def _again(self, task: Task) -> None:
        with LOCK:
            if not task.move(TaskState.READY):
                return  # cancelled meanwhile
        self._hand_over(task)

    def close(self) -> None:
        """Try nothing again any more."""
        self._closed = True
        self._timers.close()
