# SPDX-License-Identifier: BSD-3-Clause
"""The small examples run as scripts, as their first lines say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def _run(name: str, folder: Path) -> str:
    """Run an example from another folder; return what it printed."""
    path = os.pathsep.join(filter(None, [str(EXAMPLES.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=folder, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_quickstart(tmp_path: Path) -> None:
    output = _run("quickstart.py", tmp_path)
    assert "peaks: [0.0, 0.841, 0.909, 0.141, -0.757, -0.959, -0.279, 0.657]" in output
    assert "model: 0.141" in output
    assert "DiGraph" in output
    assert "u.0 read by the driver: (64, 64)" in output


def test_parallel_pi(tmp_path: Path) -> None:
    found = re.search(
        r"pi = ([\d.]+) ± ([\d.]+) from ([\d,]+) darts", _run("parallel_pi.py", tmp_path)
    )
    assert found
    pi, error, darts = float(found[1]), float(found[2]), int(found[3].replace(",", ""))
    assert error <= 0.0006
    assert abs(pi - 3.14159265) < 4 * error
    assert darts == 8_000_000  # four rounds of eight tasks: the graph grew three times
