# SPDX-License-Identifier: BSD-3-Clause
"""Launch lines of steps, on nodes that may not exist."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from ssdag.apps.bodies import shell_argv
from ssdag.errors import SsdagError
from ssdag.executors.allocation.request import Request, request_of, shown
from ssdag.executors.allocation.slots import SlotTable
from ssdag.executors.batch.lines import Lines
from ssdag.executors.program import LAUNCH_VARIABLE, Program
from ssdag.providers.base import Node

if TYPE_CHECKING:
    from ssdag.cli.plan.recording import Planned
    from ssdag.executors.allocation import AllocationExecutor
    from ssdag.executors.batch import BatchExecutor

#: Cores of a node of which nothing is known.
_CORES = 64
_FOLDER = ".ssdag-steps"


def of_allocation(executor: AllocationExecutor) -> list[str]:
    """Return the lines of an allocation executor."""
    from ssdag.cli.plan.text import fact, many, more

    prepare(executor)
    nodes = executor.nodes
    invented = all(node.host.startswith("NODE") for node in nodes)
    first = nodes[0]
    size = f"{many(first.cores, 'core')}, {many(len(first.gpus), 'GPU')}"
    lines = [fact("nodes", f"{len(nodes)}: {', '.join(n.host for n in nodes[:4])}"
                  f"{', ...' if len(nodes) > 4 else ''}; {size} each")]  # fmt: skip
    if invented:
        lines.append(more("assumed, as this is no allocation: nodes_per_block, cores_per_node and"))
        lines.append(more("gpus_per_node in the provider's options say what it will be"))
    gpus = 1 if first.gpus else 0
    for what, request in (
        ("one rank", Request(launched=True)),
        (
            f"{many(len(nodes), 'node')}, a rank for each {'GPU' if gpus else 'core'}",
            Request(
                ranks=len(nodes) * (len(first.gpus) or first.cores),
                ranks_per_node=len(first.gpus) or first.cores,
                nodes=len(nodes),
                gpus_per_rank=gpus,
                launched=True,
            ),
        ),
    ):
        lines.append(fact("launch", f"{what}:"))
        lines.append(more(f"  {_line(executor, ('program',), 'program', request)}"))
    return lines


def prepare(executor: AllocationExecutor) -> None:
    """Give an executor nodes: those of the allocation that we are in, or invented ones."""
    if executor.nodes:
        return
    provider = executor.provider
    invented: tuple[Node, ...] = ()
    if not executor.asked_nodes and provider.allocation() is None:
        options = provider.options
        gpus = tuple(str(index) for index in range(options.gpus_per_node or 0))
        invented = tuple(
            Node(f"NODE{i + 1}", options.cores_per_node or _CORES, gpus,
                 options.memory_per_node_bytes)
            for i in range(options.nodes_per_block)
        )  # fmt: skip
    executor.assume(invented)


def of_task(executor: AllocationExecutor, task: Planned) -> list[str]:
    """Return what a task needs and the launch line that it gets in an idle allocation."""
    request = request_of(task.options.resources, mpi=task.kind == "mpi")
    argv, text = _command(task)
    return [shown(request), _line(executor, argv, text, request)]


def of_member(executor: BatchExecutor, task: Planned) -> list[str]:
    """Return what a task needs and the command line that it gets in its job."""
    request = request_of(task.options.resources, mpi=task.kind == "mpi")
    argv, _ = _command(task)
    try:
        line = shlex.join(Lines(executor.provider, executor.options).argv(argv, request, {}))
    except SsdagError as error:
        line = f"(it cannot be launched: {error})"
    return [shown(request), line]


def _command(task: Planned) -> tuple[tuple[str, ...], str]:
    """Return argument list and text of a task's command."""
    if task.command is None:
        argv: tuple[str, ...] = ("python", f"{task.app}()")
        return argv, " ".join(argv)
    if isinstance(task.command, str):
        return shell_argv(task.command, task.app), task.command
    return task.command, shlex.join(task.command)


def _line(executor: AllocationExecutor, argv: tuple[str, ...], text: str, request: Request) -> str:
    placement = SlotTable(executor.nodes).place(request)
    if placement is None:
        return "(it does not fit)"
    program = Program(argv, text, lambda code, tail: code, launches=LAUNCH_VARIABLE in text)
    try:
        launch = executor.assume().launch(program, request, placement, _FOLDER)
    except SsdagError as error:
        return f"(it cannot be launched: {error})"
    if program.launches or (request.nodes is not None and not request.launched):
        return f"{LAUNCH_VARIABLE}={shlex.quote(launch.env[LAUNCH_VARIABLE])} {text}"
    return shlex.join(launch.argv)
