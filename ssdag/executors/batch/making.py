# SPDX-License-Identifier: BSD-3-Clause
"""Makes members of a job from tasks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ssdag.arguments import localize
from ssdag.errors import TaskError
from ssdag.executors.batch.job import Member
from ssdag.executors.calls import maker_of
from ssdag.executors.program import Call
from ssdag.tasks import Outcome, launch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.executors.allocation.request import Request
    from ssdag.executors.batch.lines import Lines
    from ssdag.tasks import Task


def by_priority(tasks: Sequence[Task]) -> list[Task]:
    """Return tasks in the order in which a job begins them."""
    return sorted(tasks, key=lambda task: -task.options.priority)


def make_members(
    tasks: Sequence[Task], request: Request, lines: Lines, folder: str
) -> tuple[list[Member], list[Outcome]]:
    """Launch tasks as members of a job; runs their bodies where these make commands.

    Parameters
    ----------
    tasks : sequence of Task
        Ready ones; those that were cancelled meanwhile are left out.
    request : Request
        What they need.
    lines : Lines
        Puts launchers in front.
    folder : str
        Of the job; made here.

    Returns
    -------
    tuple
        The members, and the ends of tasks of which none could be made.
    """
    os.mkdir(folder, 0o700)
    members: list[Member] = []
    failed: list[Outcome] = []
    for index, (task, args, kwargs) in enumerate(launch(tasks)):
        place = os.path.join(folder, "calls", str(index))
        try:
            members.append(_member(task, args, kwargs, request, lines, place))
        except BaseException as error:  # the body is user code
            if isinstance(error, TaskError):
                error.task_id = task.task_id
            failed.append(Outcome(task, error=error))
    return members, failed


def _member(
    task: Task,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
    request: Request,
    lines: Lines,
    place: str,
) -> Member:
    made: list[str] = []

    def make_folder() -> str:
        path = f"{place}-{len(made)}"
        os.makedirs(path, 0o700)
        made.append(path)
        return path

    args, kwargs = localize(args, kwargs)
    call = Call(args, kwargs or {}, task.app.name, task.task_id, request.ranks, make_folder)
    program = lines.program(maker_of(task)(call), request, f"{place}-launch")
    return Member(task, program, [*made, f"{place}-launch"])
