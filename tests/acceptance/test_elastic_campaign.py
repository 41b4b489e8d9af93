# SPDX-License-Identifier: BSD-3-Clause
"""The elastic campaign as a user runs it: blocks end, the campaign goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.clusters.cluster import SlurmCluster

pytest.importorskip("matplotlib", reason="the elastic campaign needs matplotlib")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "elastic_campaign"

pytestmark = pytest.mark.slow


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "examples.elastic_campaign", "--out", str(folder / "out"), *options],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def run(folder: Path, *options: str, code: int = 0) -> tuple[str, str]:
    with start(folder, *options) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == code, output + errors
    return output, errors


def number(name: str, output: str) -> float:
    found = re.search(rf"^{re.escape(name)}: ([0-9.]+)", output, re.MULTILINE)
    assert found, output
    return float(found[1])


def tries(folder: Path) -> list[Sequence[object]]:
    return [json.loads(line) for line in (folder / "out" / "tries.log").read_text().splitlines()]


def test_blocks_end_and_everything_is_done_once(tmp_path: Path) -> None:
    output, errors = run(tmp_path)
    assert errors == ""
    assert number("simulations", output) == 60
    assert number("blocks", output) >= 3
    cut = number("cut by the end of a block and run again", output)
    assert cut >= 1
    begun = tries(tmp_path)
    assert len(begun) == 60 + cut
    assert {one[0] for one in begun} == set(range(60))
    # Rates on the border of two kinds may fall to either side on other machines.
    kinds = re.search(
        r"^patterns: even (\d+), nothing (\d+), spots (\d+), stripes (\d+)$", output, re.M
    )
    assert kinds is not None
    for found, expected in zip(map(int, kinds.groups()), (20, 8, 13, 19), strict=True):
        assert abs(found - expected) <= 4
    assert re.search(r"^ *30/60  block \d+: F=0\.0", output, re.M)
    assert 50 < number("utilisation", output) <= 100
    assert (tmp_path / "out" / "campaign.png").stat().st_size > 30_000
    assert not list((tmp_path / "ssdag-runs").iterdir())  # nothing of the run is left


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--config", "none.toml"], "cannot be read"),
        (["--config", str(ROOT / "examples" / "configs" / "laptop.toml")], "'simulations'"),
        (["--feeds", "0"], "'0' is not a whole number"),
        (["--out", "/proc/nowhere"], "/proc/nowhere"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(tmp_path: Path, options: list[str], said: str) -> None:
    _, errors = run(tmp_path, *options, code=2)
    assert said in errors
    assert "Traceback" not in errors


def test_on_a_real_slurm_where_somebody_cancels_a_block(
    tmp_path: Path, slurm: SlurmCluster
) -> None:
    config = str(EXAMPLE / "slurm.toml")
    with start(tmp_path, "--config", config, "--feeds", "3", "--steps", "4000") as process:
        wait_until(
            lambda: (tmp_path / "out" / "tries.log").exists() and len(tries(tmp_path)) > 2,
            60, "simulations have begun",
        )  # fmt: skip
        slurm.run("scancel", slurm.run("squeue", "-h", "-t", "R", "-o", "%i").split()[0])
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    assert number("simulations", output) == 30
    assert number("blocks", output) >= 3
    assert {one[0] for one in tries(tmp_path)} == set(range(30))
    wait_until(lambda: not slurm.run("squeue", "-h"), 30, "no job is left")
