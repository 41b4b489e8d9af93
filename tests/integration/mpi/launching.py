# SPDX-License-Identifier: BSD-3-Clause
"""Starts the rank program by launch lines, and reads what its ranks saw."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdag.launchers import Launcher, Step
from ssdag.launchers.world import without_world

PROGRAM = Path(__file__).with_name("rank_program.py")
NASTY = {
    "SSDAG_T_LIST": "x,y,,z",
    "SSDAG_T_TEXT": "two  words ",
    "SSDAG_T_EMPTY": "",
    "SSDAG_T_EQ": "a=b=",
    "SSDAG_T_LINES": "l1\nl2\n",
    "SSDAG_T_QUOTES": 'it\'s "$HOME" `id` \\n;',
    "SSDAG_T_COLON": ":",
    "SSDAG_T_DASH": "-n",
}
WORDS = ("", ":", "-n", "two  words", 'it\'s "$HOME"', "l1\nl2", "*", "--", "ü")


@dataclass(frozen=True)
class Mpi:
    """A launcher and what its ranks need to load the library that belongs to it."""

    launcher: Launcher
    env: dict[str, str]


class Launch:
    """Starts steps of the rank program and reads what the ranks wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def step(self, mpi: Mpi, *words: str, **fields: Any) -> Step:
        fields["env"] = fields.get("env", {}) | mpi.env
        return Step(argv=(sys.executable, str(PROGRAM), str(self.folder), *words), **fields)

    def __call__(self, launcher: Launcher, *steps: Step) -> list[dict[str, Any]]:
        for name, text in launcher.files(*steps).items():
            (self.folder / name).write_text(text)
        line = launcher.command(*steps, folder=str(self.folder))
        answer = subprocess.run(
            line, env=without_world(), capture_output=True, text=True, timeout=60, check=False
        )
        assert answer.returncode == 0, answer.stderr
        return self.read(*steps, words=answer.stderr)

    def read(self, *steps: Step, words: str = "") -> list[dict[str, Any]]:
        """Return what the ranks of these steps saw, in their order."""
        found = sorted(self.folder.glob("*.json"), key=lambda path: int(path.stem))
        ranks = [json.loads(path.read_text()) for path in found]
        total = sum(step.ranks for step in steps)
        assert len(ranks) == total, words
        assert {(r["size"], r["sum"]) for r in ranks} == {(total, total * (total - 1) // 2)}
        return ranks
