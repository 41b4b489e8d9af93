# SPDX-License-Identifier: BSD-3-Clause
"""The steered flow as a user runs it: watched, understood, stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytest.importorskip("matplotlib", reason="the steered flow needs matplotlib")

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "examples.lbm_steer", *options],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def run(folder: Path, *options: str, code: int = 0) -> tuple[str, str]:
    with start(folder, *options) as process:
        output, errors = process.communicate(timeout=150)
    assert process.returncode == code, output + errors
    return output, errors


def numbers(pattern: str, output: str) -> list[float]:
    found = re.search(rf"^{pattern}$", output, re.MULTILINE)
    assert found, output
    return [float(one) for one in found.groups()]


def test_it_is_stopped_when_the_wake_is_understood(tmp_path: Path) -> None:
    output, errors = run(tmp_path)
    assert errors == ""
    steps, planned, saved = numbers(r"steps: (\d+) of (\d+), (\d+) % saved", output)
    assert planned == 10_000
    assert saved >= 20
    known, stopped = numbers(r"known at step: (\d+), stopped at: (\d+)", output)
    # At most what may lie in the stream, and one message in work on each side.
    assert known <= stopped == steps <= known + 22 * 50
    taken, analysed = numbers(r"samples: (\d+) taken, (\d+) analysed", output)
    assert taken == analysed == steps / 5
    (online,) = numbers(r"Strouhal number: ([0-9.]+) while it ran", output)
    (offline,) = numbers(r"Strouhal number: ([0-9.]+) from the kept samples", output)
    assert online == offline
    assert online == pytest.approx(0.195, abs=0.02)
    assert "step    250  fastest" in output
    assert (tmp_path / "lbm-steer" / "wake.png").stat().st_size > 30_000


def test_a_run_that_is_too_short_says_so(tmp_path: Path) -> None:
    output, _ = run(tmp_path, "--steps", "500", "--out", "here")
    assert "Strouhal number: not known yet" in output
    assert (tmp_path / "here" / "wake.png").exists()


@pytest.mark.parametrize("victim", ["worker", "server"])
def test_what_dies_ends_it_with_a_reason(tmp_path: Path, victim: str) -> None:
    with start(tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        if victim == "server":
            (one,) = [p for p in children if "valkey" in p.name() or "redis" in p.name()]
        else:  # whichever of the two tasks it has
            one = next(p for p in children if "-c" in p.cmdline())
        one.kill()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert re.search(r"^lbm_steer: .*(lost|died|gone|cannot|killed)", errors, re.MULTILINE), errors


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "lbm_steer: interrupted; nothing is left running\n"
