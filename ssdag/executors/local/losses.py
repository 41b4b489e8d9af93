# SPDX-License-Identifier: BSD-3-Clause
"""What becomes of tasks whose worker died, or whose executor cannot go on."""

from __future__ import annotations

import logging
import signal
import time
from typing import TYPE_CHECKING

from ssdag.errors import WorkerLostError
from ssdag.states import TaskState
from ssdag.tasks import Outcome

if TYPE_CHECKING:
    from ssdag.executors.local.hub import Hub
    from ssdag.executors.local.link import Link
    from ssdag.tasks import Task

_log = logging.getLogger("ssdag.executors")

#: Workers that die in a row before they begin anything, until the executor gives up.
_BAD_STARTS = 3
#: A worker that closed its connection has so long to end by itself, with its own exit code.
_EXIT_S = 0.1


def lost(hub: Hub, link: Link) -> None:
    """Deal with a worker that died or is to be killed.

    The shared page tells what it had begun: that fails. What it had not begun goes back
    to the queue.
    """
    if not link.alive:
        return
    hub.forget(link)
    by_itself = bool(link.dooms) or _ends_by_itself(link)
    exit_code = link.close()
    counters = link.page.counters
    started, finished = counters[1], counters[2]
    outcomes: list[Outcome] = []
    again: list[Task] = []
    for number, task in enumerate(link.fifo, link.done + 1):
        if task is None:
            continue
        if number > started or link.page.was_skipped(number):
            again.append(task)
            continue
        hub.timed -= task.options.walltime_s is not None
        begin = counters[0] / 1e9 if number == started else 0.0
        if any(item.task is task and item.error is None for item in link.dooms):
            outcome = Outcome(task, state=TaskState.CANCELLED, started=begin)
        else:
            how = _exit_text(exit_code, by_itself)
            error = _loss(link, task, how, exit_code, number <= finished)
            outcome = Outcome(task, error=error, started=begin)
        outcome.ended = time.monotonic()
        outcomes.append(outcome)
    link.fifo.clear()
    hub.requeue(again)
    if outcomes:
        hub.sink.finished(outcomes)
    if started:
        hub.bad_starts = 0
    else:
        _bad_start(hub, exit_code, by_itself)


def _ends_by_itself(link: Link) -> bool:
    try:
        link.process.wait(_EXIT_S)
    except TimeoutError:
        return False
    return True


def _bad_start(hub: Hub, exit_code: int | None, by_itself: bool) -> None:
    """Count a worker that died before it began anything; stop trying after some."""
    hub.bad_starts += 1
    if hub.bad_starts < _BAD_STARTS:
        return
    working = sum(link.page.counters[1] > 0 for link in hub.links)
    if working:
        _log.warning(
            "workers of executor %r die as they start; it goes on with %d", hub.label, working
        )
        hub.max_workers = len(hub.links)
        return
    fail_queue(hub, WorkerLostError(
        f"{_BAD_STARTS} workers of executor {hub.label!r} died as they started (the last one: "
        f"{_exit_text(exit_code, by_itself)}); what they wrote to stderr says why",
        exit_code=exit_code,
    ))  # fmt: skip


def _loss(link: Link, task: Task, how: str, exit_code: int | None, ended: bool) -> BaseException:
    for item in link.dooms:
        if item.task is task:
            assert item.error is not None  # else it was cancelled
            return item.error
    what = "died after the task, before its result was sent" if ended else "died under it"
    return WorkerLostError(
        f"task {task.task_id} ({task.app.name}): its worker process {what} ({how})",
        exit_code=exit_code,
        task_id=task.task_id,
    )


def fail_queue(hub: Hub, error: BaseException) -> None:
    """Fail all tasks that wait for a worker."""
    outcomes = [Outcome(task, error=error) for task in hub.queue.drain()]
    if outcomes:
        hub.sink.finished(outcomes)


def fail_everything(hub: Hub, error: BaseException) -> None:
    """Fail all tasks that the executor was given."""
    held = [task for link in hub.links for task in link.fifo if task is not None]
    for link in hub.links:
        link.fifo.clear()
    if held:
        hub.sink.finished([Outcome(task, error=error) for task in held])
    fail_queue(hub, error)


def _exit_text(exit_code: int | None, by_itself: bool) -> str:
    if exit_code is None:
        return "exit code unknown"
    if exit_code >= 0:
        return f"exit code {exit_code}"
    if not by_itself:
        return "it closed its connection, and was killed"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = str(-exit_code)
    hint = "; the kernel kills so when memory runs out" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"
