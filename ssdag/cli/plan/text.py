# SPDX-License-Identifier: BSD-3-Clause
"""A configuration in words: scripts, submissions, launch lines, who works where."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from ssdag.cli.plan import steps
from ssdag.errors import SsdagError
from ssdag.executors.allocation import AllocationExecutor
from ssdag.executors.allocation.request import request_of
from ssdag.executors.batch import BatchExecutor
from ssdag.executors.local.executor import LocalExecutor
from ssdag.executors.pilot.executor import PilotExecutor
from ssdag.executors.threads import ThreadExecutor
from ssdag.providers.options import clock_of
from ssdag.providers.script import base_path
from ssdag.providers.ssh import SshRunner

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ssdag.executors.base import Executor
    from ssdag.executors.pilot.node import Wishes
    from ssdag.providers.base import JobSpec, Provider
    from ssdag.providers.options import BlockOptions

#: Width of the names in front of facts.
_NAME = 11
_MANY = 1 << 40


def fact(name: str, text: str) -> str:
    """Return a line that says one thing."""
    return f"  {name:<{_NAME}} {text}".rstrip()


def more(text: str) -> str:
    """Return a line that goes on with the fact above it."""
    return f"  {'':<{_NAME}} {text}".rstrip()


def many(number: int, word: str) -> str:
    """Return "1 node" or "2 nodes"."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def of_executor(executor: Executor) -> list[str]:
    """Return the lines of one executor: what it would submit and launch.

    Raises
    ------
    SsdagError
        Its provider or launcher cannot express what is asked for.
    """
    head = f"executor {executor.label!r} ({type(executor).__name__})"
    try:
        if isinstance(executor, PilotExecutor):
            return [f"{head}: workers in blocks of {_place(executor.provider)}", *_pilot(executor)]
        if isinstance(executor, AllocationExecutor):
            what = f"steps in an allocation of {executor.provider.name}"
            return [f"{head}: {what}", *steps.of_allocation(executor)]
        if isinstance(executor, BatchExecutor):
            return [f"{head}: tasks as jobs of {_place(executor.provider)}", *_batch(executor)]
    except SsdagError as error:
        raise type(error)(f"executor {executor.label!r}: {error}") from error
    if isinstance(executor, LocalExecutor):
        return [f"{head}: {many(executor.capacity, 'worker process')[:-1]}es on this machine"]
    if isinstance(executor, ThreadExecutor):
        return [f"{head}: {many(executor.capacity, 'thread')} of the driver"]
    return [f"{head}: it starts what it needs itself"]


def _place(provider: Provider) -> str:
    runner = getattr(provider, "runner", None)
    return f"{provider.name} on {runner.host}" if isinstance(runner, SshRunner) else provider.name


# -- pilots ------------------------------------------------------------------------------


def _pilot(executor: PilotExecutor) -> list[str]:
    provider = executor.provider
    return [
        *_blocks(provider.options),
        *_workers(executor.per_node, provider.options),
        *of_job(provider, executor.job(1)),
    ]


def _blocks(options: BlockOptions) -> Iterable[str]:
    start = max(options.init_blocks, options.min_blocks)
    yield fact(
        "blocks",
        f"{options.min_blocks} to {options.max_blocks} at a time, {start} at the start; each "
        f"{many(options.nodes_per_block, 'node')} for {clock_of(options.walltime_s)}",
    )
    room = "all" if options.parallelism == 1 else f"{options.parallelism:g} of all"
    yield fact("scaling", f"until there is room for {room} open tasks")


def workers_of(wishes: Wishes, options: BlockOptions) -> int | None:
    """Return the number of workers on a node; None if only the node can tell."""
    if options.cores_per_node is None and wishes.workers_per_node is None:
        return None
    return wishes.count(options.cores_per_node or _MANY, options.memory_per_node_bytes or _MANY)


def _workers(wishes: Wishes, options: BlockOptions) -> Iterable[str]:
    number = workers_of(wishes, options)
    per = f"{wishes.cores_per_worker:g} core{'' if wishes.cores_per_worker == 1 else 's'} each"
    if number is None:
        limit = f", {len(wishes.accelerators)} at most" if wishes.accelerators else ""
        yield fact("workers", f"as many as a node has room for, {per}{limit}")
        yield more("(cores_per_node in the provider's options makes that a number)")
        return
    yield fact("workers", f"{number} on each node, {per}")
    cores = range(options.cores_per_node or 0)
    for rank in range(number):
        bound = wishes.cores_of(rank, number, cores)
        parts = [f"cores {_ranges(bound)}"] if bound else []
        if wishes.accelerators:
            parts.append(f"accelerator {wishes.accelerators[rank % len(wishes.accelerators)]}")
        if parts:
            yield more(f"{rank}: {', '.join(parts)}")


def _ranges(cores: Iterable[int]) -> str:
    """Return "0-3,8" for 0, 1, 2, 3, 8."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


# -- jobs --------------------------------------------------------------------------------


def _batch(executor: BatchExecutor) -> Iterable[str]:
    options = executor.options
    yield fact(
        "jobs",
        f"{executor.max_jobs} at a time at most; each {many(options.nodes_per_block, 'node')} for "
        f"{clock_of(options.walltime_s)}",
    )
    slots = executor.slots or (options.nodes_per_block * (options.cores_per_node or 0))
    room = f"{slots} of them at a time" if slots else "as many at a time as its cores allow"
    yield fact("members", f"{executor.tasks_per_job} tasks in a job at most, {room}")
    folder = os.path.join(executor.parent_folder, f"{executor.label}-RUN", f"{executor.label}-1")
    command = ["python", os.path.join(folder, "runner.py"), folder]
    yield from of_job(
        executor.provider,
        executor.spec(f"{executor.label}-1", request_of(None), folder, command),
    )


def of_job(provider: Provider, job: JobSpec) -> list[str]:
    """Return the lines of a job: how it is submitted, what it launches, its script."""
    path = f"{base_path(job)}.sh"
    return [
        fact("submit", shlex.join(provider.submit_command(job, path))),
        *(fact("launch", line) for line in job.commands),
        fact("script", path),
        *(f"    {line}".rstrip() for line in provider.script(job).splitlines()),
    ]
