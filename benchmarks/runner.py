# SPDX-License-Identifier: BSD-3-Clause
"""Run one measuring process to its end, or to its deadline, and end its tree."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import tree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Outcome:
    """What one process reported: figures by ``measure.figure``, and what failed."""

    figures: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    version: str = ""


def run_child(
    name: str,
    *,
    budget_s: float,
    quick: bool,
    measures: Sequence[str] = (),
    deadline_s: float,
    on_begin: Callable[[str], None] = lambda measure: None,
) -> Outcome:
    """Measure `name` in a fresh process; never raises for what happens in there.

    Parameters
    ----------
    name : str
        A backend of :data:`benchmarks.peers.BACKENDS` or :data:`benchmarks.launch.NAMES`.
    budget_s : float
        Time of the main run of each measure.
    quick : bool
        Smaller sizes where the time does not set them.
    measures : sequence of str
        Take these only; empty for all.
    deadline_s : float
        After this time the process and all that it started are killed.
    on_begin : callable
        Called with the name of each measure as it begins.
    """
    outcome = Outcome()
    process: subprocess.Popen[bytes] | None = None
    folder = Path(tempfile.mkdtemp(prefix="ssdag-bench-"))
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "benchmarks.child", name, "--fd", str(writing)]
    command += ["--budget", str(budget_s), "--measures", ",".join(measures)]
    command += ["--quick"] if quick else []
    try:
        with open(folder / "log", "wb") as log, os.fdopen(reading, "rb", buffering=0) as pipe:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                cwd=folder,
                env=_environment(folder),
                start_new_session=True,
            )
            os.close(writing)
            current = _read(pipe.fileno(), outcome, time.monotonic() + deadline_s, on_begin)
        if current != "stop":
            # A process that crashed closes the pipe a moment before it ends.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
            code = process.returncode
            why = (
                f"no answer within {deadline_s:.0f} s"
                if code is None
                else f"ended with {code}: {_last_line(folder / 'log')}"
            )
            if current not in outcome.errors:
                outcome.errors[current] = why
    finally:
        if process is not None:
            process.kill()
        tree.end_descendants()
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _environment(folder: Path) -> dict[str, str]:
    environment = dict(os.environ)
    environment["PYTHONPATH"] = str(ROOT)
    environment["TMPDIR"] = str(folder)
    # Parsl starts its helper programs by name.
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '')}"
    return environment


def _read(fd: int, outcome: Outcome, end: float, on_begin: Callable[[str], None]) -> str:
    """Take in lines until the pipe closes or the time is over; the last measure begun."""
    current, rest = "start", b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while selector.select(max(0.0, end - time.monotonic())):
            data = os.read(fd, 65536)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                current = _take(json.loads(line), outcome, current)
                on_begin(current)
    return current


def _take(line: dict[str, Any], outcome: Outcome, current: str) -> str:
    if "begin" in line:
        return str(line["begin"])
    measure = str(line["measure"])
    if "error" in line:
        outcome.errors[measure] = str(line["error"])
    for figure, value in line.get("figures", {}).items():
        outcome.figures[f"{measure}.{figure}"] = float(value)
    outcome.version = line.get("version", outcome.version)
    return current


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "without a word"
