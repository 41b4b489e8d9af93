# SPDX-License-Identifier: BSD-3-Clause
"""Cancelling a task, in whatever state it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdag.dataflow import joining
from ssdag.states import TaskState
from ssdag.tasks import Outcome

if TYPE_CHECKING:
    from ssdag.dataflow.engine import Engine
    from ssdag.tasks import Task


def cancel_alone(engine: Engine, task: Task) -> list[Task]:
    """Cancel a task if that is possible; return the tasks that it joined."""
    state = task.state
    if state.final:
        return []
    parts = joining.own_parts(task) if state == TaskState.JOINING else []
    began = state in (TaskState.LAUNCHED, TaskState.RUNNING)
    if began and not task.executor.cancel(task):
        return []
    engine.finished((Outcome(task, state=TaskState.CANCELLED),))
    if not began and not task.waiting and task.executor is not None:
        task.executor.cancel(task)  # it may have been launched meanwhile
    return parts
