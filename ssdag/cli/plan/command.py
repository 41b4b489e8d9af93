# SPDX-License-Identifier: BSD-3-Clause
"""What ``ssdag plan`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdag.cli.plan import recording, steps, text
from ssdag.config import Config
from ssdag.executors.allocation import AllocationExecutor
from ssdag.executors.batch import BatchExecutor
from ssdag.executors.local.executor import LocalExecutor
from ssdag.executors.pilot.executor import PilotExecutor
from ssdag.executors.pilot.scaling import Limits, wanted_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ssdag.cli.plan.recording import Planned, Recording, RecordingExecutor


def plan(script: Path | None, config_path: Path | None, arguments: Sequence[str] = ()) -> str:
    """Return the plan of a configuration, and of a script that runs on it.

    Nothing is submitted, launched or started.

    Parameters
    ----------
    script : Path, optional
        Its own code runs, see :func:`ssdag.cli.plan.recording.record`; its tasks do not.
    config_path : Path, optional
        A TOML file; without one the script's own configuration, or local processes.
    arguments : sequence of str
        For the script.

    Raises
    ------
    SsdagError
        The configuration is wrong, or cannot be expressed.
    """
    config = Config.from_toml(config_path) if config_path is not None else Config()
    if script is None:
        parts = [text.of_executor(one) for one in config.executors or (LocalExecutor(),)]
        return "\n\n".join("\n".join(lines) for lines in parts) + "\n"
    for executor in config.executors:
        if isinstance(executor, AllocationExecutor):
            steps.prepare(executor)  # its check needs to know how large it is
    found = recording.record(script, arguments, config)
    parts = [[*text.of_executor(one.real), *_tasks(one)] for one in found.executors]
    parts += [[f"service {name!r} would be started"] for name in found.services]
    parts.append([_summary(found)])
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _summary(found: Recording) -> str:
    count = sum(len(one.planned) for one in found.executors)
    if found.ended:
        return f"{text.many(count, 'task')} planned; the plan goes up to here: {found.ended}"
    if not found.executors:
        return "the script starts no engine"
    return f"{text.many(count, 'task')} planned, to the end of the script"


def _tasks(one: RecordingExecutor) -> list[str]:
    """Return the lines of an executor's tasks: equal ones together, the first as example."""
    if not one.planned:
        return [text.fact("tasks", "none")]
    groups: dict[tuple[object, ...], list[Planned]] = {}
    for task in sorted(one.planned, key=lambda task: task.task_id):
        groups.setdefault((task.app, task.kind, task.options.resources), []).append(task)
    lines = [
        text.fact("tasks", f"{len(one.planned)}, at most {one.widest} of them side by side"),
        *_wanted(one),
    ]
    for tasks in groups.values():
        first = tasks[0]
        lines.append(text.more(f"{len(tasks)} x {first.app} ({first.kind}_app){_limit(first)}"))
        if isinstance(one.real, AllocationExecutor):
            need, line = steps.of_task(one.real, first)
            lines += [text.more(f"  needs {need}"), text.more(f"  {line}")]
        elif isinstance(one.real, BatchExecutor):
            need, line = steps.of_member(one.real, first)
            lines += [text.more(f"  needs {need}"), text.more(f"  {line}")]
            jobs = -(-len(tasks) // one.real.tasks_per_job)
            lines.append(text.more(f"  in {text.many(jobs, 'job')}, or more if not ready at once"))
        elif first.command is not None:
            lines.append(text.more(f"  {first.command}"))
    return lines


def _limit(task: Planned) -> str:
    seconds = task.options.walltime_s
    return f", killed after {seconds:g} s" if seconds is not None else ""


def _wanted(one: RecordingExecutor) -> list[str]:
    if not isinstance(one.real, PilotExecutor):
        return []
    options = one.real.provider.options
    workers = text.workers_of(one.real.per_node, options)
    if workers is None:
        return []
    slots = max(1, workers) * options.nodes_per_block
    limits = Limits(options.min_blocks, options.max_blocks, options.parallelism)
    wanted = wanted_blocks(limits, one.widest, slots)
    return [text.more(f"so {text.many(wanted, 'block')}, of {slots} workers each")]
