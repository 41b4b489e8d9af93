# SPDX-License-Identifier: BSD-3-Clause
"""Join bodies: they run beside the engine, and their tasks wait without a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ssdag.arguments as arguments
from ssdag.errors import CycleError
from ssdag.references import Reference
from ssdag.states import TaskState
from ssdag.tasks import AppFuture, AppSpec, Outcome, path_down

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from ssdag.dataflow.engine import Engine
    from ssdag.tasks import Task


def _item(value: Any, key: Any) -> Any:
    return value[key]


def _attribute(value: Any, name: str) -> Any:
    return getattr(value, name)


#: Apps behind ``future[key]`` and ``future.name``.
LIFTS = {
    "item": AppSpec(_item, "item", kind="lift"),
    "attribute": AppSpec(_attribute, "attribute", kind="lift"),
}


class JoinSink:
    """Takes the ends of join bodies (and lifted items) from the internal threads.

    Parameters
    ----------
    engine : Engine
        Gets what is final.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def running(self, tasks: Sequence[Task]) -> None:
        """Mark bodies as running."""
        self._engine.running(tasks)

    def finished(self, outcomes: Sequence[Outcome]) -> None:
        """Let tasks whose bodies returned futures wait for them; end the others."""
        for outcome in outcomes:
            task = outcome.task
            parts: list[Future[Any]] = []
            if outcome.error is None and task.app.kind == "join":
                try:
                    parts, waitables, _ = arguments.find((outcome.value,), None)
                    parts += [item.__ssdag_future__() for item in waitables]
                except Exception as error:  # a service that cannot start, or a bad container
                    outcome = Outcome(task, error=error)
                    parts = []
            if not parts:
                self._engine.finished((outcome,))
                continue
            self._engine.join(task, outcome.value, parts)
            # Afterwards, so that of two joins that return each other one sees it.
            path = find_cycle(task, parts)
            if path:
                shown = " -> ".join(map(str, path))
                cycle = CycleError(
                    f"join task {task.task_id} ({task.app.name}) returned a future that waits for "
                    f"the task itself: {shown}",
                    path,
                )
                self._engine.finished((Outcome(task, error=cycle),))


def find_cycle(task: Task, parts: Sequence[Future[Any]]) -> tuple[int, ...]:
    """Return the task ids from `task` down to a part that waits for it, or ()."""
    return path_down(task, [part._task for part in parts if isinstance(part, AppFuture)])


def collected(task: Task) -> Outcome:
    """Return the end of a joining task whose parts are all done."""
    assert task.extras is not None
    parts, task.extras.join_parts = task.extras.join_parts, None
    try:
        (value,), _ = arguments.fill((parts,), None)
        if not isinstance(value, Reference):  # one that is all of the value stays where it is
            (value,), _ = arguments.localize((value,), None)
    except Exception as error:  # hashing values that stand in a set is user code
        return Outcome(task, error=error, state=TaskState.FAILED)
    return Outcome(task, value)


def own_parts(task: Task) -> list[Task]:
    """Return the joined tasks that were made since the task was, that is by its body."""
    if task.extras is None:
        return []
    parts, _, _ = arguments.find((task.extras.join_parts,), None)
    return [
        part._task
        for part in parts
        if isinstance(part, AppFuture)
        and part._task.engine is task.engine
        and part.task_id > task.task_id
    ]
