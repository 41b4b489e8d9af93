# SPDX-License-Identifier: BSD-3-Clause
"""The ends of tasks: as errors of their children, as events, for their output files."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from ssdag.errors import DependencyError, EngineClosedError
from ssdag.monitoring.listeners import Event
from ssdag.states import TaskState
from ssdag.tasks import AppFuture, Outcome

if TYPE_CHECKING:
    from concurrent.futures import Future
    from typing import Any

    from ssdag.tasks import Task


def dep_failed(task: Task, parent: Future[Any]) -> Outcome:
    """Make the outcome of a task whose parent failed; the error stays flat."""
    error = parent._exception  # it is done: no lock is needed
    if error is None:
        error = CancelledError()
    if isinstance(error, DependencyError):  # also from an output file of a failed task
        cause, link = error.root_cause, error._link
    else:
        above = parent._task if isinstance(parent, AppFuture) else None
        ours = above is not None and above.engine is task.engine
        cause, link = error, (above.task_id if above is not None and ours else None, ())
    return Outcome(
        task,
        error=DependencyError(task.task_id, cause, (task.task_id, link)),
        state=TaskState.DEP_FAILED,
    )


def end_event(outcome: Outcome) -> Event:
    """Make the event of a task's end."""
    task = outcome.task
    label = task.executor.label if task.executor is not None else ""
    when = outcome.ended or time.perf_counter()
    return Event(task.task_id, outcome.state, when, task.app.name, label, outcome.started)


def finish_outputs(outcome: Outcome) -> None:
    """Complete the futures of a task's output files."""
    extras = outcome.task.extras
    assert extras is not None
    for output in extras.outputs:
        if outcome.state is TaskState.CANCELLED and outcome.error is None:
            output.cancel()
        elif outcome.error is not None:
            output._complete("FINISHED", None, outcome.error)
        else:
            output._complete("FINISHED", output.target, None)


def unfinished(task: Task) -> Outcome:
    """Make the outcome of a task that was open when the engine was closed."""
    error = EngineClosedError(
        f"the engine was closed before task {task.task_id} ({task.app.name}) was done"
    )
    return Outcome(task, error=error, state=TaskState.CANCELLED)
