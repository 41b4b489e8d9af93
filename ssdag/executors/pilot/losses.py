# SPDX-License-Identifier: BSD-3-Clause
"""What becomes of tasks whose manager is gone.

What had surely not begun goes elsewhere, at no cost. What a worker held:

* The block came to its end (time limit, cancelled or preempted by the scheduler, told
  to end by a signal): it is run again elsewhere without counting as a failure, up to
  :data:`MOST_CUTS` times for a task. So a body may run twice, the first time in part.
* The manager or its node is lost: the task fails with
  :class:`~ssdag.WorkerLostError`, which is transient: whether it is run again is said
  by ``retries``.

A manager tells what its workers hold a few milliseconds after they got it. A task that
began in the last moments before the manager vanished is taken for one that has not.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ssdag.errors import WorkerLostError
from ssdag.tasks import Outcome

if TYPE_CHECKING:
    from ssdag.executors.pilot.hub import PilotHub
    from ssdag.executors.pilot.peers import Peer
    from ssdag.tasks import Task

#: A task is cut so often by the end of its block, and then fails.
MOST_CUTS = 3


def lost(hub: PilotHub, peer: Peer, why: str, *, cut: bool) -> None:
    """Deal with a manager that is gone.

    Parameters
    ----------
    hub : PilotHub
    peer : Peer
    why : str
        For the text of errors.
    cut : bool
        Its block came to its end, as blocks do.
    """
    if hub.peers.pop(peer.identity, None) is None:
        return
    hub.roomy.discard(peer)
    again: list[Task] = []
    outcomes: list[Outcome] = []
    for seq, task in peer.held.items():
        confirm = hub.confirms.pop(seq, None)
        if confirm is not None:
            confirm.set()
        if task.state.final:
            continue
        if seq not in peer.begun:
            again.append(task)
        elif cut and hub.cuts.get(task, 0) < MOST_CUTS:
            hub.cuts[task] = hub.cuts.get(task, 0) + 1
            again.append(task)
        else:
            hub.cuts.pop(task, None)
            outcomes.append(
                Outcome(task, error=_loss(peer, task, why, cut), ended=time.monotonic())
            )
    peer.held.clear()
    hub.requeue(again)
    if outcomes:
        hub.sink.finished(outcomes)
    hub.fail_if_hopeless()
    if hub.blocks is not None:
        hub.blocks.look()


def _loss(peer: Peer, task: Task, why: str, cut: bool) -> WorkerLostError:
    often = f" (for the {MOST_CUTS + 1}th time)" if cut else ""
    return WorkerLostError(
        f"task {task.task_id} ({task.app.name}): its manager on {peer.name} (block {peer.block}) "
        f"is gone{often}: {why}",
        task_id=task.task_id,
    )


def fail_waiting(hub: PilotHub, error: BaseException) -> None:
    """Fail all tasks that no manager holds."""
    parked, hub.parked = hub.parked, []
    outcomes = [Outcome(task, error=error) for task in (*parked, *hub.queue.drain())]
    if outcomes:
        hub.sink.finished(outcomes)


def fail_parked(hub: PilotHub, error: BaseException) -> None:
    """Fail the tasks that are too long for all managers that there will ever be."""
    longest = max(peer.ends for peer in hub.peers.values()) - time.monotonic()
    gone = [task for task in hub.parked if (task.options.walltime_s or 0.0) > longest]
    hub.parked = [task for task in hub.parked if (task.options.walltime_s or 0.0) <= longest]
    if gone:
        hub.sink.finished([Outcome(task, error=error) for task in gone])


def fail_everything(hub: PilotHub, error: BaseException) -> None:
    """Fail all tasks that the executor was given."""
    held = [task for peer in hub.peers.values() for task in peer.held.values()]
    for peer in hub.peers.values():
        peer.held.clear()
    if held:
        hub.sink.finished([Outcome(task, error=error) for task in held])
    fail_waiting(hub, error)
