# SPDX-License-Identifier: BSD-3-Clause
"""Tasks to workers: who gets how many, and the frame that carries them."""

from __future__ import annotations

import pickle
import sys
from typing import TYPE_CHECKING, Any

from ssdag.errors import SerializationError
from ssdag.executors.local.link import absolute
from ssdag.executors.local.losses import lost
from ssdag.executors.local.messages import PATH, Packer
from ssdag.tasks import Outcome, launch
from ssdag.wire.frames import encode
from ssdag.wire.serialize import name_culprit
from ssdag.wire.shared import LEASES

if TYPE_CHECKING:
    from ssdag.executors.local.hub import Hub
    from ssdag.executors.local.link import Link
    from ssdag.tasks import Task
    from ssdag.wire.shared import Handle

#: A frame is closed when it holds so many bytes; the rest waits for the next one.
FRAME_BYTES = 32 << 20


def feed(hub: Hub) -> None:
    """Give queued tasks to all workers that have room; start workers as needed."""
    while waiting := len(hub.queue):
        roomy = [link for link in hub.links if link.room]
        if not roomy:
            if len(hub.links) >= hub.max_workers:
                return
            link = hub.spawn()
            if link is None:
                return
            roomy = [link]
        elif len(roomy) < waiting and len(hub.links) < hub.max_workers:
            hub.spawn()  # it gets its share in the next turn
        share = -(-waiting // len(roomy))
        for link in roomy:
            _give(hub, link, min(link.room, share))
    # Segments are given back even when there is no work to send with it.
    for link in hub.links:
        if len(link.to_release) > 64:
            _send(hub, link, [], [], [])


def _give(hub: Hub, link: Link, limit: int) -> None:
    batch = launch(hub.queue.pop(limit))
    if not batch:
        return
    packer = Packer(hub.pool, hub.threshold)
    functions: list[tuple[int, bytes]] = []
    messages: list[tuple[Any, ...]] = []
    failed: list[Outcome] = []
    number = link.done + len(link.fifo)
    was_empty = not link.fifo
    for index, (task, args, kwargs) in enumerate(batch):
        if packer.nbytes > FRAME_BYTES:
            rest = [item[0] for item in batch[index:]]
            hub.timed += sum(t.options.walltime_s is not None for t in rest)
            hub.requeue(rest)
            break
        try:
            function = hub.functions.number(task.app.func)
            if task.simple:
                arguments: Any = args
                entries = None
            else:
                arguments, entries = hub.pack(link, packer, task, args, kwargs)
        except BaseException as raised:  # __reduce__ is user code, and may even exit
            failed.append(unsendable(task, raised))
            continue
        if function not in link.known:
            link.known.add(function)
            if link.path != sys.path:  # the function's module may lie in a folder added since
                link.path = [*sys.path]
                functions.append((PATH, pickle.dumps(absolute(link.path), 5)))
            functions.append((function, hub.functions.blob(function)))
        messages.append((function, arguments, entries))
        number += 1
        link.page.clear(number)
        link.fifo.append(task)
        if task.options.walltime_s is not None:
            hub.timed += 1
    link.heavy = packer.nbytes > FRAME_BYTES
    if messages:
        _send(hub, link, functions, messages, packer.buffers)
    if failed:
        hub.sink.finished(failed)
    if was_empty:
        hub.show_running(link)


def pack(
    hub: Hub,
    link: Link,
    packer: Packer,
    task: Task,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
) -> tuple[bytes, Any]:
    """Pickle a task's arguments; note which segments the worker will hold for it."""
    taken: list[Handle] = []
    LEASES.taken = taken
    try:
        payload, entries = pickled(packer, task, args, kwargs)
    finally:
        LEASES.taken = None
    return payload, lease(hub, link, entries, taken)


def pickled(
    packer: Packer, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any] | None
) -> tuple[bytes, list[Any] | None]:
    """Pickle a task's arguments; an error says which of them is the culprit."""
    try:
        return packer.pack((args, kwargs))
    except SerializationError as error:
        culprit = name_culprit(args, kwargs)
        raise SerializationError(
            f"task {task.task_id} ({task.app.name}): {culprit} cannot be sent to a worker: {error}"
        ) from error


def unsendable(task: Task, raised: BaseException) -> Outcome:
    """Make the outcome of a task that cannot be sent."""
    if isinstance(raised, SerializationError):
        raised.task_id = task.task_id
        return Outcome(task, error=raised)
    failure = SerializationError(
        f"task {task.task_id} ({task.app.name}) cannot be sent to a worker: pickling it "
        f"raised {type(raised).__name__}"
    )
    failure.__cause__ = raised
    return Outcome(task, error=failure)


def lease(hub: Hub, link: Link, entries: list[Any] | None, taken: list[Handle]) -> Any:
    """Note which segments a worker will hold for a task; return what to tell it of them."""
    if entries:
        taken += [hub.own_handle(*entry) for entry in entries if entry != -1]
    if not taken:
        return entries
    for handle in taken:
        link.leases.setdefault(handle.path, []).append(handle)
    return entries or [], [handle.path for handle in taken]


def _send(
    hub: Hub,
    link: Link,
    functions: list[tuple[int, bytes]],
    messages: list[tuple[Any, ...]],
    buffers: list[memoryview],
) -> None:
    released, link.to_release = link.to_release, []
    body = pickle.dumps((functions, messages, released), 5)
    try:
        link.writer.send(encode(body, buffers))
    except OSError:
        lost(hub, link)
        return
    if link.writer.backlog:
        hub.watch_writes(link)
