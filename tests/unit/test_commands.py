# SPDX-License-Identifier: BSD-3-Clause
"""Commands of schedulers: time limits, lost daemons, files, and our own environment."""

from __future__ import annotations

import os
import re
import stat
import time
from typing import TYPE_CHECKING

import pytest

from ssdag.errors import ProviderError
from ssdag.providers.commands import LocalRunner, Runner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ssdag.providers.commands import Answer


class Shell(LocalRunner):
    """A runner that reaches files by commands only, as one over ssh does."""

    write = Runner.write
    read = Runner.read


RUNNERS = [LocalRunner(), Shell()]


def test_output_and_exit_code() -> None:
    answer = LocalRunner().run(["sh", "-c", "cat; echo err >&2; exit 3"], 10, stdin="in ü")
    assert (answer.exit_code, answer.stdout, answer.stderr) == (3, "in ü", "err\n")
    assert answer.words == "err"
    assert "ended with exit code 3: err" in answer.summary


def test_a_command_that_does_not_exist_has_no_exit_code() -> None:
    answer = LocalRunner().run(["/does/not/exist", "x"], 10)
    assert answer.exit_code is None
    assert "No such file" in answer.summary


def test_a_command_that_does_not_end_is_killed() -> None:
    began = time.monotonic()
    answer = LocalRunner().run(["sh", "-c", "echo before; sleep 60"], 0.2)
    assert time.monotonic() - began < 5
    assert (answer.exit_code, answer.stdout) == (None, "before\n")
    assert "no answer within 0.2 s" in answer.stderr


def test_what_a_command_leaves_behind_does_not_hold_us_up() -> None:
    began = time.monotonic()
    answer = LocalRunner().run(["sh", "-c", "sleep 60 & echo done"], 30)
    assert time.monotonic() - began < 5
    assert (answer.exit_code, answer.stdout) == (0, "done\n")


def test_variables_can_be_kept_from_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "5")
    monkeypatch.setenv("SLURM_CONF", "/x")
    runner = LocalRunner(re.compile(r"SLURM_(?!CONF$)"))
    out = runner.run(["sh", "-c", 'echo "${SLURM_NTASKS-none} $SLURM_CONF"'], 10).stdout
    assert out == "none /x\n"


@pytest.mark.parametrize("runner", RUNNERS, ids=["here", "by shell"])
def test_files_are_ours_alone_and_whole(runner: Runner, tmp_path: Path) -> None:
    path = str(tmp_path / "a b'c.sh")
    runner.write(path, "one\n", 10)
    os.chmod(path, 0o777)
    runner.write(path, "two ü\n", 10)
    assert runner.read(path, 10) == "two ü\n"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    assert os.listdir(tmp_path) == ["a b'c.sh"]
    assert runner.read(str(tmp_path / "none"), 10) is None
    with pytest.raises(ProviderError, match="cannot write"):
        runner.write(str(tmp_path / "no" / "where"), "x", 10)


def test_the_shell_of_files_needs_no_quoting(tmp_path: Path) -> None:
    seen: list[Sequence[str]] = []

    class Watching(Shell):
        def run(self, argv: Sequence[str], timeout_s: float, stdin: str | None = None) -> Answer:
            seen.append(argv)
            return super().run(argv, timeout_s, stdin)

    Watching().write(str(tmp_path / "x"), "secret", 10)
    assert not any("secret" in word for argv in seen for word in argv)
