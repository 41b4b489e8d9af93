# SPDX-License-Identifier: BSD-3-Clause
"""Scripts of jobs, run by bash as a scheduler would: codes, second runs, quoting."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssdag.errors import UnsupportedError
from ssdag.providers.base import JobSpec
from ssdag.providers.script import build, exit_path, output_paths

if TYPE_CHECKING:
    from collections.abc import Mapping

ENV = {"PATH": os.environ["PATH"], "OWN": "5"}


def run(
    job: JobSpec, env: Mapping[str, str] = ENV, **options: object
) -> subprocess.CompletedProcess[str]:
    """Build a job's script and run it."""
    text = build(job, ["#X --directive"], own_id="$OWN", **options)  # type: ignore[arg-type]
    path = Path(job.folder, "script.sh")
    path.write_text(text)
    return subprocess.run(
        ["bash", path], env=dict(env), capture_output=True, text=True, check=False
    )


def kept(job: JobSpec) -> str | None:
    """Return the exit code that the script has written down."""
    path = Path(exit_path(job, "5"))
    return path.read_text().strip() if path.exists() else None


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A folder with an odd name."""
    made = tmp_path / "a b'c\"d$e"
    made.mkdir()
    return str(made)


@pytest.mark.parametrize(
    ("commands", "code"),
    [
        (("true",), 0),
        (("false", "true"), 0),
        (("true", "false"), 1),
        (("exit 7", "true"), 7),
        (("(exit 9)",), 9),
        (("no_such_command_here",), 127),
        (("false  # a comment at the end", "# a last line"), 1),
        (("set -e", "false", "true"), 1),
        (("cat <<END", "false", "END"), 0),
        ((), 0),
    ],
)
def test_the_exit_code_is_that_of_the_last_command_and_is_kept(
    folder: str, commands: tuple[str, ...], code: int
) -> None:
    job = JobSpec("job", commands, folder)
    assert run(job).returncode == code
    assert kept(job) == str(code)


def test_what_ends_early_with_zero_is_not_taken_for_a_good_end(folder: str) -> None:
    # A script that a signal ends looks just so: bash then says 0 to the trap.
    job = JobSpec("job", ("true", "kill -TERM $$; sleep 5"), folder)
    assert run(job).returncode == -signal.SIGTERM
    assert kept(job) is None


def test_a_second_run_is_refused_unless_it_may_be(folder: str) -> None:
    job = JobSpec("job", ("echo ran",), folder)
    assert run(job).stdout == "ran\n"
    again = run(job)
    assert (again.returncode, again.stdout) == (75, "")
    assert "must not run twice" in again.stderr
    assert kept(job) == "0"
    assert run(job, {**ENV, "OWN": "6"}).returncode == 0  # another job of the same name
    twice = replace(job, name="twice", rerunnable=True)
    assert [run(twice).stdout, run(twice).stdout] == ["ran\n", "ran\n"]


@pytest.mark.parametrize(
    ("init", "words"),
    [
        ("false\nexport X=1", "exit code 1 at: false"),
        ("export X=1\nsource /does/not/exist", "at: source /does/not/exist"),
        ("no_such_command_here x", "exit code 127 at: no_such_command_here x"),
        ("(exit 9)", "exit code 9"),
    ],
)
def test_a_failing_line_of_worker_init_fails_the_job(folder: str, init: str, words: str) -> None:
    result = run(JobSpec("job", ("echo never",), folder, worker_init=init))
    assert result.returncode != 0
    assert result.stdout == ""
    assert "ssdag: worker_init failed with exit code" in result.stderr
    assert words in result.stderr


def test_worker_init_may_do_what_activate_scripts_do(folder: str) -> None:
    Path(folder, "activate").write_text("false\ngrep -q nothing /dev/null\nexport ACTIVE=yes\n")
    init = """
        source ./activate
        [ -n "$NOT_SET" ] && export X=1
        if ! true; then false; fi
        false || true
        helper() { false; echo helped; }
        helper
        set -- a b
    """
    result = run(JobSpec("job", ("echo $ACTIVE", "false", "echo end"), folder, worker_init=init))
    assert (result.returncode, result.stdout) == (0, "helped\nyes\nend\n")


def test_modules_are_loaded_and_missing_ones_fail_the_job(folder: str) -> None:
    modules = Path(folder, "init")
    modules.mkdir()
    (modules / "bash").write_text('module() { [ "$2" != bad ] && echo "$1 $2"; }\n')
    env = {**ENV, "MODULESHOME": folder}
    good = run(JobSpec("good", ("true",), folder, modules=("gcc/12", "a b")), env)
    assert (good.returncode, good.stdout) == (0, "load gcc/12\nload a b\n")
    bad = run(JobSpec("bad", ("echo never",), folder, modules=("bad",)), env)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "at: module load bad" in bad.stderr or "worker_init failed" in bad.stderr
    none = run(JobSpec("none", ("echo never",), folder, modules=("gcc",)))
    assert none.returncode == 127


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    value=st.text(st.characters(blacklist_characters="\0\r", blacklist_categories=["Cs"])),
    name=st.text(
        st.characters(min_codepoint=32, blacklist_characters="\x7f", blacklist_categories=["Cs"]),
        min_size=1,
        max_size=40,
    ),
)
def test_any_value_and_name_come_through(
    tmp_path_factory: pytest.TempPathFactory, value: str, name: str
) -> None:
    folder = str(tmp_path_factory.mktemp("any"))
    job = JobSpec(f"n{name}", ('printf %s "$VALUE"',), folder, env={"VALUE": value})
    result = run(job, redirect=True)
    assert result.returncode == 0, result.stderr
    out, err = output_paths(job)
    assert Path(out).read_bytes().decode() == value
    assert Path(err).read_text() == ""


def test_arrays_have_files_of_their_own(folder: str) -> None:
    job = JobSpec("many", ("echo $SSDAG_ARRAY_INDEX", "exit 4"), folder, array=3)
    result = run(job, {**ENV, "PLACE": "2"}, index="$((PLACE - 1))", redirect=True)
    assert result.returncode == 4
    assert Path(output_paths(job, 1)[0]).read_text() == "1\n"


def test_the_end_of_the_script_can_be_put_right(folder: str) -> None:
    fix = 'case "$ssdag_code" in 99|100) exit 98;; esac'
    for code, seen in ((99, 98), (100, 98), (5, 5), (0, 0)):
        job = JobSpec(f"job{code}", (f"exit {code}",), folder)
        assert run(job, at_exit=fix).returncode == seen


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a\nb"},
        {"name": "a\tb"},
        {"folder": "/tmp/a\nb"},
        {"commands": ("echo \0",)},
        {"array": 0},
        {"array": 2},
    ],
)
def test_what_cannot_be_written_is_refused(folder: str, changes: dict[str, object]) -> None:
    job = replace(JobSpec("job", ("true",), folder), **changes)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError):
        build(job, [], own_id="$OWN")


def test_a_folder_that_is_gone_fails_the_job(folder: str) -> None:
    job = JobSpec("job", ("echo never",), folder)
    text = build(replace(job, folder="/does/not/exist"), [], own_id="$OWN")
    result = subprocess.run(
        ["bash", "-c", text], env=ENV, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (1, "")
