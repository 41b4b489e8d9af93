# SPDX-License-Identifier: BSD-3-Clause
"""The model in the loop as a user runs it: asked, checked, taught, trusted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from examples.sinx_loop import model, simulations
from ssdag.executors.allocation.mpi import find_launcher

pytest.importorskip("matplotlib", reason="the loop needs matplotlib")
pytest.importorskip("mpi4py", reason="the loop needs mpi4py")

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_launcher() is None, reason="no MPI here: pip install mpich mpi4py"),
]


def run(folder: Path, *options: str, code: int = 0) -> tuple[str, str]:
    answer = subprocess.run(
        [sys.executable, "-m", "examples.sinx_loop", *options],
        cwd=folder, text=True, capture_output=True, timeout=170, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert answer.returncode == code, answer.stdout + answer.stderr
    return answer.stdout, answer.stderr


def test_both_simulations_agree_with_the_sine() -> None:
    class Alone:
        rank, size = 0, 1

        def allreduce(self, value: float) -> float:
            return value

    for x in np.linspace(0.0, model.SPAN, 9):
        assert simulations.series(Alone(), float(x)) == pytest.approx(np.sin(x), abs=1e-6)
    places = np.linspace(0.0, model.SPAN, 9)
    assert np.allclose(simulations.pendulum(places), np.sin(places), atol=1e-9)


def test_it_is_taught_until_it_is_right(tmp_path: Path) -> None:
    output, errors = run(tmp_path)
    assert errors == ""
    verdicts = re.findall(r"^x = .* (right|wrong)", output, re.MULTILINE)
    assert verdicts[0] == "wrong"
    assert verdicts[-5:] == ["right"] * 5
    found = re.search(r"^questions: (\d+), lessons: (\d+)\npoints: (\d+)$", output, re.MULTILINE)
    assert found, output
    questions, lessons, points = map(int, found.groups())
    assert questions == len(verdicts)
    assert lessons == verdicts.count("wrong") >= 1
    assert points == 64 * lessons
    worst = re.search(r"^largest error: ([0-9.]+) on 1001 places$", output, re.MULTILINE)
    assert worst, output
    assert float(worst[1]) <= 0.03
    assert (tmp_path / "sinx-loop" / "loop.png").stat().st_size > 30_000


def test_it_gives_up_where_it_was_told_to(tmp_path: Path) -> None:
    output, _ = run(tmp_path, "--tolerance", "0", "--most", "1")
    assert "questions: 1, lessons: 1" in output
