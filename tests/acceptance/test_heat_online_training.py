# SPDX-License-Identifier: BSD-3-Clause
"""Online training as a user runs it: samples come, are learnt from, and are stopped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from examples.heat_online_training import heat

pytest.importorskip("matplotlib", reason="online training needs matplotlib")

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "examples.heat_online_training", *options],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def run(folder: Path, *options: str) -> str:
    with start(folder, *options) as process:
        output, errors = process.communicate(timeout=150)
    assert process.returncode == 0, output + errors
    assert errors == ""
    return output


def numbers(pattern: str, output: str) -> list[float]:
    found = re.search(rf"^{pattern}$", output, re.MULTILINE)
    assert found, output
    return [float(one) for one in found.groups()]


def test_the_plate_obeys_its_equation() -> None:
    spot = np.array([0.4, 0.6, 0.08])
    plate = heat.solve(spot).astype(float)
    theta = np.pad(plate + plate**2 / 2, 1)
    h = 1 / (heat.POINTS + 1)
    around = theta[:-2, 1:-1] + theta[2:, 1:-1] + theta[1:-1, :-2] + theta[1:-1, 2:]
    curved = (around - 4 * theta[1:-1, 1:-1]) / h**2
    x = np.arange(1, heat.POINTS + 1) * h
    away = (x[:, None] - spot[0]) ** 2 + (x[None, :] - spot[1]) ** 2
    heated = 200 * np.exp(-away / (2 * spot[2] ** 2))
    assert np.abs(curved + heated).max() < 0.05 * heated.max()


def test_it_learns_while_they_run_and_stops_them(tmp_path: Path) -> None:
    output = run(tmp_path, "--goal", "0.12")
    made, learnt = numbers(r"samples: (\d+) made, (\d+) learnt from, each of them once", output)
    assert made == learnt
    (waiting,) = numbers(r"in the stream: (\d+) at most \(capacity 16\)", output)
    assert waiting <= 16 + 2  # and one for each writer that waits
    (overlap,) = numbers(r"overlap: (\d+) % of the learner's time", output)
    assert overlap > 50
    stopped, late = numbers(r"stopped: (\d+) of 2 producers, each after at most (\d+) more", output)
    assert stopped == 2
    assert late <= 1
    wrong, average = numbers(r"error: ([0-9.]+) on unseen plates, ([0-9.]+) for .*", output)
    assert wrong <= 0.12 < average  # as printed
    assert (tmp_path / "heat-online-training" / "training.png").stat().st_size > 30_000


def test_without_a_goal_in_reach_all_are_made(tmp_path: Path) -> None:
    output = run(tmp_path, "--count", "20", "--producers", "1", "--goal", "0.0001")
    assert "samples: 20 made, 20 learnt from, each of them once" in output
    assert "stopped: 0 of 1 producers" in output


def test_a_killed_task_ends_it_with_a_reason(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        next(p for p in children if "-c" in p.cmdline()).kill()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert re.search(r"^heat_online_training: .*died", errors, re.MULTILINE), errors
