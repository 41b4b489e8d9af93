# SPDX-License-Identifier: BSD-3-Clause
"""Tasks that a worker was given and shall not run, or not to the end.

The hub sets a flag in the shared page; the worker, before it begins a task, writes the
task's number there and then reads the flag. Each writes, then reads what the other
wrote, so after a moment (:data:`CONFIRM_S`) one of them has seen the other: a task whose
number is not there by then will never begin in that worker.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ssdag.errors import WalltimeExceededError
from ssdag.executors.local.link import Doom
from ssdag.executors.local.losses import lost

if TYPE_CHECKING:
    from ssdag.executors.local.hub import Hub
    from ssdag.executors.local.link import Link
    from ssdag.tasks import Task

#: A running task that blocks others behind it for so long has them taken back.
_STEAL_NS = 3_000_000
#: A revocation is believed this long after it was written.
CONFIRM_S = 0.001
#: Results that a doomed worker has finished may arrive for so long before it is killed.
_LAST_WORDS_S = 0.1
#: How often a walltime is looked at where its task may begin any moment, behind others.
_WALLTIME_POLL_S = 0.01
_LONGEST_POLL_S = 0.05
TICK_S = 0.002


def tick(hub: Hub) -> float | None:
    """Do what is due; return seconds until the next time, or None."""
    due: float | None = None
    for link in tuple(hub.links):
        left: float | None = None
        if link.taken_back:
            left = TICK_S
            _confirm(hub, link)
        if link.dooms:
            left = TICK_S
            _kill_if_due(hub, link)
        elif hub.timed and link.fifo:
            left = min(_check_walltime(hub, link), left or _LONGEST_POLL_S)
        if left is not None and (due is None or left < due):
            due = left
    if steal(hub):
        due = TICK_S if due is None else min(due, TICK_S)
    return due


def cancel(hub: Hub, task: Task) -> None:
    """Take a task back from its worker, or kill the worker if it runs."""
    for link in hub.links:
        place = link.place_of(task)
        if place >= 0:
            take_back(link, place, task, kill=True)
            if link.done + 1 + place <= link.page.counters[1]:
                doom(link, task, None)
                _kill_if_due(hub, link)
            return


def steal(hub: Hub) -> bool:
    """Take tasks back that wait behind a slow one while another worker is idle.

    Returns
    -------
    bool
        True if there are such tasks, or may be soon.
    """
    if len(hub.queue):
        return False
    if len(hub.links) >= hub.max_workers and all(link.fifo for link in hub.links):
        return False
    crowded = False
    for link in hub.links:
        if len(link.fifo) < 2 or link.taken_back or link.dooms:
            continue
        task, place, since_ns = link.running()
        if task is None:  # between two
            crowded = True
            continue
        fifo = link.fifo
        behind = [at for at in range(place + 1, len(fifo)) if fifo[at] is not None]
        crowded = crowded or bool(behind)
        if time.monotonic_ns() - since_ns < _STEAL_NS:
            continue
        for at in behind[len(behind) // 2 :]:
            held = fifo[at]
            assert held is not None
            take_back(link, at, held, kill=False)
    return crowded


def take_back(link: Link, place: int, task: Task, *, kill: bool) -> None:
    """Take a task back from a worker, unless it has begun; with `kill` also then."""
    number = link.done + 1 + place
    link.page.revoke(number)
    link.taken_back.append((number, task, kill))
    link.taken_back_at = time.monotonic()


def _confirm(hub: Hub, link: Link) -> None:
    """Requeue revoked tasks that the worker has surely not begun."""
    if time.monotonic() - link.taken_back_at < CONFIRM_S:
        return
    started = link.page.counters[1]
    again = []
    taken_back, link.taken_back = link.taken_back, []
    for number, task, kill in taken_back:
        at = number - link.done - 1
        if not 0 <= at < len(link.fifo) or link.fifo[at] is not task:
            continue
        if number > started:
            link.fifo[at] = None
            again.append(task)
        elif kill and not link.page.was_skipped(number):
            doom(link, task, None)
    hub.requeue(again)


def doom(link: Link, task: Task, error: BaseException | None) -> None:
    """Have a worker killed for the sake of its running task, once earlier results are here.

    Parameters
    ----------
    link : Link
        The worker.
    task : Task
        What it runs.
    error : BaseException or None
        What the task ends with.
    """
    if any(other.task is task for other in link.dooms):
        return
    link.dooms.append(Doom(task, error, time.monotonic()))
    # Should it end by itself before the kill, those behind it must not begin.
    for at in range(link.place_of(task) + 1, len(link.fifo)):
        link.page.revoke(link.done + 1 + at)


def _kill_if_due(hub: Hub, link: Link) -> None:
    for item in tuple(link.dooms):
        place = link.place_of(item.task)
        if place < 0:  # it ended by itself
            link.dooms.remove(item)
            continue
        age_s = time.monotonic() - item.since
        if age_s < CONFIRM_S and place + 1 < len(link.fifo):
            continue
        number = link.done + 1 + place
        started, finished = link.page.counters[1], link.page.counters[2]
        # Where another has begun, this one has ended and its answer is on its way.
        running = started == number and finished < number
        if (running and place == 0) or (started == number and age_s > _LAST_WORDS_S):
            lost(hub, link)
            return


def _check_walltime(hub: Hub, link: Link) -> float:
    """Doom a worker whose task is overdue; return seconds until the next look."""
    task, _, since_ns = link.running()
    if task is None or task.options.walltime_s is None:
        return _WALLTIME_POLL_S  # a task with a walltime may begin behind it
    limit = task.options.walltime_s
    left = limit - (time.monotonic_ns() - since_ns) / 1e9
    if left > 0:
        return min(left, _LONGEST_POLL_S) if len(link.fifo) > 1 else left
    error = WalltimeExceededError(
        f"task {task.task_id} ({task.app.name}) ran longer than its walltime of {limit:g} s "
        "and was killed",
        walltime_s=limit,
        task_id=task.task_id,
    )
    doom(link, task, error)
    _kill_if_due(hub, link)
    return TICK_S
