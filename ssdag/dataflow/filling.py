# SPDX-License-Identifier: BSD-3-Clause
"""Values in place of futures, just before tasks run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ssdag.arguments as arguments
from ssdag.futures import LOCK
from ssdag.states import TaskState
from ssdag.tasks import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.tasks import Task


def fill_arguments(tasks: Sequence[Task]) -> list[Outcome]:
    """Put values in place of futures, in all tasks with one hold of the lock.

    Every hold contends with the user's thread, which holds it once for each call.

    Returns
    -------
    list of Outcome
        The ends of tasks whose arguments cannot be built.
    """
    filled: list[tuple[Task, tuple[Any, ...], dict[str, Any] | None]] = []
    failed: list[Outcome] = []
    for task in tasks:
        if not task.has_futures or task.state == TaskState.JOINING:
            continue
        try:
            # Read without the lock: if a cancel drops them now, it is seen below.
            filled.append((task, *arguments.fill(task.args, task.kwargs)))
        except Exception as error:  # hashing a value that stands in a set is user code
            failed.append(Outcome(task, error=error, state=TaskState.FAILED))
    if filled:
        with LOCK:
            for task, args, kwargs in filled:
                if task.state < TaskState.DONE:
                    task.args, task.kwargs = args, kwargs
                    # What came from futures may be atoms now, or references.
                    task.simple = not kwargs and arguments.all_plain(args)
    return failed
