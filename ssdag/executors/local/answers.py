# SPDX-License-Identifier: BSD-3-Clause
"""Frames of a worker to outcomes of tasks."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from ssdag.errors import SerializationError
from ssdag.executors.local.messages import ERROR, PICKLED, PLAIN, SKIPPED, collect
from ssdag.tasks import Outcome
from ssdag.wire.serialize import load_error, loads
from ssdag.wire.shared import SharedValue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.executors.local.hub import Hub
    from ssdag.executors.local.link import Link
    from ssdag.tasks import Task
    from ssdag.wire.frames import Frame


def parse(frame: Frame) -> tuple[list[tuple[Any, ...]], list[str]]:
    """Return the answers of a frame and the segments that the worker reads no more.

    Raises
    ------
    Exception
        The frame is damaged.
    """
    results, released = pickle.loads(frame.body)
    return results, released


def read(
    hub: Hub, link: Link, answer: tuple[list[tuple[Any, ...]], list[str]], own: list[bytearray]
) -> list[Outcome]:
    """Match the answers of a frame with the tasks that the worker was given."""
    results, released = answer
    buffers = iter(own)
    outcomes: list[Outcome] = []
    again: list[Task] = []
    fifo = link.fifo
    ran = total_ns = 0
    for code, value, entries, started_ns, ended_ns in results:
        task = fifo.popleft()
        if code == SKIPPED:
            if task is not None:
                again.append(task)
            continue
        ran += 1
        total_ns += ended_ns - started_ns
        error: BaseException | None = None
        if code != PLAIN:
            value, error = hub.unpack(link, code, value, entries, buffers)
        if task is not None:
            if task.options.walltime_s is not None:
                hub.timed -= 1
            outcomes.append(Outcome(task, value, error, started_ns / 1e9, ended_ns / 1e9))
    link.done += len(results)
    if ran:
        link.learn(ran, total_ns)
    for path in released:
        held = link.leases.get(path)
        if held:
            held.pop()
            if not held:
                del link.leases[path]
    if again:
        hub.requeue(again)
    return outcomes


def load(
    link: Link, code: int, payload: bytes, entries: list[Any] | None, buffers: Iterator[Any]
) -> tuple[Any, BaseException | None]:
    """Return the value of a result, or its error; a value with segments stays as it came."""
    if code == ERROR:
        return None, load_error(payload)
    assert code == PICKLED
    try:
        if not entries:
            return loads(payload), None
        own = collect(entries, buffers, link.lend)
        if any(entry != -1 for entry in entries):
            return SharedValue(payload, own), None
        return loads(payload, own), None
    except BaseException as error:  # the classes of user values load themselves
        wrapped = SerializationError(
            f"a task's result cannot be loaded here: {type(error).__name__}: {error}"
        )
        wrapped.__cause__ = error
        return None, wrapped
