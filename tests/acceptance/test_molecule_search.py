# SPDX-License-Identifier: BSD-3-Clause
"""The molecule search as a user runs it: real chemistry, real processes, real server."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

for _package in ("rdkit", "tblite", "sklearn", "matplotlib"):
    pytest.importorskip(_package, reason=f"the molecule search needs {_package} (ssdag[chem])")

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "examples.molecule_search")

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Run:
    """One finished run of the program."""

    code: int
    output: str
    errors: str
    wall_s: float
    out: Path

    def number(self, name: str) -> float:
        """Return the number behind ``name: `` at the start of a printed line."""
        found = re.search(rf"^{re.escape(name)}: ([0-9.]+)", self.output, re.MULTILINE)
        assert found, f"no line {name!r} in:\n{self.output}\n{self.errors}"
        return float(found[1])


def _search(out: Path, *options: str) -> Run:
    start = time.monotonic()
    done = subprocess.run(
        [*COMMAND, "--out", str(out), *options],
        cwd=ROOT, capture_output=True, text=True, timeout=170,
    )  # fmt: skip
    wall_s = time.monotonic() - start
    return Run(done.returncode, done.stdout, done.stderr, wall_s, out)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The program with its own settings: 220 evaluations, then all the rest."""
    return _search(tmp_path_factory.mktemp("search"), "--workers", "2")


def test_it_finds_most_of_the_best_molecules(first: Run) -> None:
    assert first.code == 0, first.errors
    assert re.search(r"^recall of the top 5 %: 0\.\d\d$", first.output, re.MULTILINE)
    assert first.number("recall of the top 5 %") >= 0.60
    assert first.number("random pick of the same size") == 0.21
    assert first.number("better than random") >= 2.5
    assert first.number("simulations from the checkpoint") == 0
    assert first.number("tasks/s") > 5
    assert first.number("utilisation") > 30
    assert first.wall_s < 180


def test_bad_molecules_were_replaced_and_are_listed(first: Run) -> None:
    assert first.number("evaluations") == 220
    listed = first.output.split("failed and replaced")[1]
    for smiles in ("C1CC", "CC(C)(C)(C)C", "c1cccc1", "formic acid"):
        assert f"  {smiles!r}: " in listed


def test_all_energies_agree_with_the_reference(first: Run) -> None:
    with (first.out / "energies.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    energies = {row["smiles"]: float(row["ionization_energy_ev"]) for row in rows}
    assert len(energies) == 1046
    assert rows[0]["smiles"] == "O=CO"  # formic acid
    assert round(energies["O=CO"], 2) == 11.83
    assert round(min(energies.values()), 2) == 6.29
    assert round(sum(energies.values()) / len(energies), 2) == 8.57
    numbers = sorted(int(row["evaluation"]) for row in rows if row["evaluation"])
    assert numbers == list(range(1, 221))


def test_pictures_and_graph_are_written(first: Run) -> None:
    assert (first.out / "search.png").stat().st_size > 30_000
    for name in ("search.svg", "graph.svg"):
        assert (first.out / name).read_text(encoding="utf-8").rstrip().endswith("</svg>")


def test_progress_is_plain_lines_where_there_is_no_terminal(first: Run) -> None:
    assert "\x1b" not in first.output + first.errors
    assert re.search(r"^search +220/220  best 1\d\.\d+ eV  \S+$", first.output, re.MULTILINE)
    assert re.search(r"^sweep +826/826  best", first.output, re.MULTILINE)


def test_a_second_run_computes_nothing_again(first: Run) -> None:
    second = _search(first.out, "--workers", "2")
    assert second.code == 0, second.errors
    assert second.number("simulations from the checkpoint") == 1046
    assert second.number("recall of the top 5 %") == first.number("recall of the top 5 %")
    assert second.wall_s < max(10.0, first.wall_s / 2)


def test_the_exit_code_tells_a_poor_search(first: Run, tmp_path: Path) -> None:
    checkpoint = str(first.out / "checkpoint.sqlite")
    poor = _search(tmp_path, "--checkpoint", checkpoint, "--evaluations", "40")
    assert poor.code == 1
    assert "--min-recall 0.60" in poor.errors
    assert len(poor.errors.splitlines()) == 1


def test_running_out_of_molecules_is_said(tmp_path: Path) -> None:
    stuck = _search(tmp_path, "--molecules", "30", "--evaluations", "40", "--no-sweep")
    assert stuck.code == 2
    assert "all 30 molecules are used up" in stuck.errors
    assert "recall" not in stuck.output
    assert "Traceback" not in stuck.errors


def test_ctrl_c_ends_with_what_was_found(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "--out", str(tmp_path), "--workers", "2"],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("search "):
                break
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert "best molecules" in output
    assert (tmp_path / "search.png").exists()
    assert (tmp_path / "graph.svg").exists()


def test_a_checkpoint_that_is_none_is_explained(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("shopping list " * 1000, encoding="utf-8")
    wrong = _search(tmp_path, "--checkpoint", str(tmp_path / "notes.txt"), "--no-sweep")
    assert wrong.code == 2
    assert "notes.txt" in wrong.errors
    assert "Traceback" not in wrong.errors
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8").startswith("shopping list")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch", "0"], "'0' is not a whole number of at least 1"),
        (["--workers", "two"], "'two' is not a whole number"),
        (["--evalautions=5"], "did you mean --evaluations?"),
        (["nonsense"], "unknown: nonsense"),
        (["--out", "/proc/nowhere"], "name another with --out"),
    ],
)
def test_wrong_options_are_explained_in_a_line(
    tmp_path: Path, options: list[str], said: str
) -> None:
    wrong = _search(tmp_path, *options)
    assert wrong.code == 2
    assert said in wrong.errors
    assert len(wrong.errors.splitlines()) == 1
