# SPDX-License-Identifier: BSD-3-Clause
"""The engine against its peers: interleaved rounds, each in fresh processes.

Round after round every backend is measured once (A B C, A B C, ...), so that what else
the machine does falls on all of them alike. A backend that is missing or fails costs one
line; what the others gave stays.
"""

from __future__ import annotations

import datetime
import json
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import machine, tree
from benchmarks.launch import NAMES
from benchmarks.peers import BACKENDS
from benchmarks.peers import title as backend_title
from benchmarks.runner import ROOT, Outcome, run_child

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

RESULTS = ROOT / "benchmarks" / "results"
FORMAT = 1


def title(name: str) -> str:
    """How the tables call `name`, a backend or a way of starting programs."""
    return NAMES[name][0] if name in NAMES else backend_title(name)


@dataclass
class Run:
    """The figures of one run, all rounds."""

    quick: bool
    rounds: int
    created: str = ""
    machine: dict[str, str] = field(default_factory=dict)
    load: list[float] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    #: backend -> ``measure.figure`` -> one value a round
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    #: backend -> measure -> what went wrong last
    errors: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, name: str, outcome: Outcome) -> None:
        """Take in what one process reported."""
        for key, value in outcome.figures.items():
            self.values.setdefault(name, {}).setdefault(key, []).append(value)
        if outcome.errors:
            self.errors.setdefault(name, {}).update(outcome.errors)
        if outcome.version:
            self.versions[name] = outcome.version

    def median(self, name: str, key: str) -> float | None:
        """The median of a figure over the rounds; None where there is none."""
        values = self.values.get(name, {}).get(key)
        return statistics.median(values) if values else None

    def save(self, path: Path) -> None:
        """Write everything as JSON, aside and then renamed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp")
        text = json.dumps({"format": FORMAT, **vars(self)}, indent=1, ensure_ascii=False)
        aside.write_text(text + "\n", encoding="utf-8")
        aside.replace(path)

    @classmethod
    def read(cls, path: Path) -> Run:
        """Read what :meth:`save` wrote."""
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("format", None) != FORMAT:
            raise ValueError(f"{path} was written by another version: run the benchmark again")
        return cls(**data)


@dataclass(frozen=True)
class Job:
    """One process to run."""

    name: str
    measures: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        """For the progress line."""
        return f"{title(self.name)} {' '.join(self.measures)}".strip()


def plan(names: Sequence[str], measures: Sequence[str] = ()) -> list[Job]:
    """The processes of one round; memory is measured in a process of its own."""
    jobs = []
    for name in names:
        rest = tuple(m for m in measures if m != "pending")
        if rest or not measures:
            jobs.append(Job(name, rest))
        if name in BACKENDS and name != "joblib" and (not measures or "pending" in measures):
            jobs.append(Job(name, ("pending",)))
    return jobs


def measure(
    names: Sequence[str],
    *,
    rounds: int,
    quick: bool,
    console: Console,
    measures: Sequence[str] = (),
    save_to: Path | None = None,
) -> Run:
    """Measure all `names`, `rounds` times, showing progress on `console`.

    With `save_to`, what was measured so far is written there after each process.
    """
    tree.adopt_orphans()
    run = Run(quick, rounds, created=_now(), machine=machine.facts())
    budget_s = 0.25 if quick else 1.0
    jobs = [(i, job) for i in range(rounds) for job in plan(names, measures)]
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/"
               "{task.total}"), TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=len(jobs))
        for i, job in jobs:
            head = f"round {i + 1}/{rounds}  {job.what}"
            progress.update(bar, description=head)
            run.load.append(round(machine.load_average(), 2))
            outcome = run_child(
                job.name,
                budget_s=budget_s,
                quick=quick,
                measures=job.measures,
                deadline_s=90 + 120 * budget_s,
                on_begin=lambda m, head=head: progress.update(  # type: ignore[misc]
                    bar, description=f"{head}: {m}"
                ),
            )
            run.add(job.name, outcome)
            if save_to is not None:
                run.save(save_to)
            progress.advance(bar)
            progress.console.print(f"{head}: {_summary(outcome)}", highlight=False, markup=False)
    return run


def _summary(outcome: Outcome) -> str:
    if "start" in outcome.errors:
        return f"not measured: {outcome.errors['start']}"
    parts = [f"{k} {v:.4g}" for k, v in outcome.figures.items() if k in _SHOWN]
    parts += [f"{measure} failed: {why}" for measure, why in outcome.errors.items()]
    return ", ".join(parts)


_SHOWN = {
    "noop.tasks_per_s",
    "noop.foreign",
    "latency.p50_us",
    "layered.us_per_node",
    "pending.bytes_per_task",
    "true8.per_s",
}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
