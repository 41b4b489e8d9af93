# SPDX-License-Identifier: BSD-3-Clause
"""Live progress: bars on a terminal, a line now and then everywhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column

if TYPE_CHECKING:
    from .outcome import Evaluation

#: Lines that one stage prints where there is no terminal.
LINES = 10


class View:
    """Shows how far the stages of a run are; a context manager.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where to; None takes standard output. Bars appear only if it is a terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._stage = ""
        self._total = 0
        self._done: dict[str, int] = {}
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=6)),
            BarColumn(None, table_column=Column(ratio=1, max_width=40)),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=8)),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            # The last to get room: on a narrow terminal the counts matter more.
            TextColumn(
                "{task.fields[best]}", markup=False, table_column=Column(ratio=2, no_wrap=True)
            ),
            console=self._console,
            expand=True,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, stage: str, total: int) -> None:
        """Show a stage of `total` steps; a stage that was shown before goes on."""
        self._stage, self._total = stage, total
        if stage not in self._done:
            self._done[stage] = 0
            self._bars[stage] = self._progress.add_task(stage, total=total, best="")

    def advance(self, best: Evaluation | None) -> None:
        """Show one more step of the stage, and the best molecule so far."""
        stage = self._stage
        self._done[stage] += 1
        text = "" if best is None else f"best {best.energy_ev:.3f} eV  {best.smiles}"
        self._progress.update(self._bars[stage], advance=1, best=text)
        done, every = self._done[stage], max(1, self._total // LINES)
        if not self._console.is_terminal and (done % every == 0 or done == self._total):
            line = f"{stage:8} {done:5}/{self._total}  {text}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
