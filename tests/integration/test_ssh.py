# SPDX-License-Identifier: BSD-3-Clause
"""Schedulers that ssh reaches: a real OpenSSH server on loopback, and what goes wrong there."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import psutil
import pytest

from ssdag.errors import ProviderError, SubmitError
from ssdag.providers.batch import BatchProvider, QueryError
from ssdag.providers.ssh import SshRunner
from ssdag.providers.ssh_connection import NotReachedError
from ssdag.states import JobState
from tests.clusters.sshd import LoopbackSshd
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ssdag.providers.base import Allocation, JobSpec, JobStatus
    from ssdag.providers.commands import Answer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackSshd]:
    made = LoopbackSshd({"SITE": "far away"})
    made.stop()
    yield made
    made.close()


@pytest.fixture
def sshd(server: LoopbackSshd) -> Iterator[LoopbackSshd]:
    """The server; tests do with it what they like."""
    server.start()
    yield server
    server.stop()


@pytest.fixture
def runner(sshd: LoopbackSshd, tmp_path: Path) -> Iterator[SshRunner]:
    made = SshRunner(sshd.host, str(tmp_path / "site"), options=sshd.options)
    yield made
    made.close()


class NoteProvider(BatchProvider):
    """A scheduler that runs jobs at once, on the host; submissions are counted in a file."""

    name = "notes"
    mark = "#NOTE"
    id_pattern = re.compile(r"^job (?P<id>\d+)$", re.MULTILINE)
    states: ClassVar[Mapping[str, JobState]] = {}
    own_id = "$NOTE_ID"
    redirect = True
    gone_pattern = re.compile("No such process")
    unreachable_pattern = re.compile("nobody there")
    launcher_name = "SingleLauncher"
    #: Shell text in front of a submission.
    before = ""

    def directives(self, job: JobSpec) -> list[str]:
        return []

    def submit_command(self, job: JobSpec, path: str) -> list[str]:
        text = (
            'echo "$1" >>"${1%/*}/submissions"; ' + self.before + " "
            'NOTE_ID=$$ setsid sh -c "$1; :" >/dev/null 2>&1 & echo job $$'
        )
        return ["sh", "-c", text, "sh", path]

    def status_command(self, job_ids: Sequence[str]) -> list[str]:
        return ["true"]

    def parse(self, answer: Answer, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        if answer.exit_code != 0:
            raise QueryError(answer.summary)
        return {}

    def cancel_command(self, job_ids: Sequence[str]) -> list[str]:
        return ["true"]

    def allocation(self) -> Allocation | None:
        return None


@pytest.fixture
def provider(runner: SshRunner) -> NoteProvider:
    return NoteProvider(runner=runner, timeout_s=20)


def masters() -> list[psutil.Process]:
    """Our ssh connections."""
    return [p for p in psutil.Process().children() if p.name() == "ssh" and "-M" in p.cmdline()]


def submissions(job: JobSpec) -> list[str]:
    return Path(job.folder, "submissions").read_text().splitlines()


# -- commands and files --------------------------------------------------------------------


def test_commands_run_there_over_one_connection(runner: SshRunner, sshd: LoopbackSshd) -> None:
    words = ["it's", "a b", "$HOME", "\\", "!x", "", "line\nbreak", "ü"]
    answer = runner.run(["printf", "%s|", "$SITE", *words], 20)
    assert (answer.exit_code, answer.stdout) == (0, "|".join(["$SITE", *words, ""]))
    answer = runner.run(["sh", "-c", 'cat; echo "$SITE" >&2; exit 3'], 20, stdin="in ü\n")
    assert (answer.exit_code, answer.stdout, answer.stderr) == (3, "in ü\n", "far away\n")
    with ThreadPoolExecutor(30) as threads:
        answers = list(threads.map(lambda n: runner.run(["echo", str(n)], 30), range(30)))
    assert [answer.stdout for answer in answers] == [f"{n}\n" for n in range(30)]
    assert len(sshd.connections()) == 1
    (master,) = masters()
    socket = Path(master.cmdline()[master.cmdline().index("-S") + 1])
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    runner.close()
    assert not socket.parent.exists()
    assert not masters()
    assert runner.run(["echo", "again"], 20).stdout == "again\n"


def test_ssh_exit_code_is_told_apart_from_the_command_s(
    runner: SshRunner, sshd: LoopbackSshd
) -> None:
    assert runner.run(["sh", "-c", "exit 255"], 20).exit_code == 255
    sshd.stop()
    answer = runner.run(["sh", "-c", "exit 0"], 20)
    assert answer.exit_code is None
    assert "refused" in answer.summary
    runner.close()
    answer = runner.run(["true"], 20)
    assert answer.exit_code is None
    assert "is not reached" in answer.summary


def test_a_connection_that_is_lost_under_a_command(runner: SshRunner, sshd: LoopbackSshd) -> None:
    with ThreadPoolExecutor(1) as thread:
        go = Path(runner.folder) / "began"
        text = f"mkdir -p {runner.folder}; echo half; touch {go}; sleep 5"
        asked = thread.submit(runner.run, ["sh", "-c", text], 20)
        wait_until(go.exists, 20, "the command runs")
        sshd.cut()
        answer = asked.result(10)
    assert answer.exit_code is None
    assert "was lost" in answer.stderr
    assert answer.stdout == ""  # half of an answer is none
    assert runner.run(["echo", "back"], 20).stdout == "back\n"


def test_a_command_that_takes_too_long(runner: SshRunner) -> None:
    assert runner.run(["true"], 20).exit_code == 0
    answer = runner.run(["sleep", "60"], 0.3)
    assert answer.exit_code is None
    assert "no answer within 0.3 s" in answer.stderr
    assert runner.run(["true"], 20).exit_code == 0


def test_files(runner: SshRunner, tmp_path: Path) -> None:
    path = f"{runner.folder}/new folder/it's"
    text = "a\nü\\" * 20000
    runner.write(path, text, 20)
    assert Path(path).read_text() == text
    assert Path(path).stat().st_mode & 0o777 == 0o700
    assert Path(path).parent.stat().st_mode & 0o777 == 0o700
    assert runner.read(path, 20) == text
    assert runner.read(f"{path}.nope", 20) is None
    assert runner.tail(path, 3, 20) == "ü\\"
    secret = tmp_path / "contact.json"
    secret.write_text("{}")
    runner.place(str(secret), f"{runner.folder}/job", 20)
    assert Path(runner.folder, "job", "contact.json").stat().st_mode & 0o077 == 0


def test_a_file_that_arrives_in_part_is_not_put_in_place(runner: SshRunner) -> None:
    from ssdag.providers import ssh_texts

    argv = ["/bin/sh", "-c", ssh_texts.WRITE, "sh", f"{runner.folder}/f", "100"]
    answer = runner.run(argv, 20, stdin="only this")
    assert answer.exit_code != 0
    assert "only a part" in answer.stderr
    assert os.listdir(runner.folder) == []


def test_a_file_on_a_full_disk(runner: SshRunner) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    Path(runner.folder).mkdir()
    Path(runner.folder, "f.part").symlink_to("/dev/full")
    with pytest.raises(ProviderError, match="No space left"):
        runner.write(f"{runner.folder}/f", "text", 20)
    assert not Path(runner.folder, "f").exists()


# -- jobs ----------------------------------------------------------------------------------


def test_a_job_runs_there(provider: NoteProvider, tmp_path: Path) -> None:
    spec = provider.job("one", ['echo "$SITE"', "echo words >&2", "exit 4"], tmp_path / "runs")
    job_id = provider.submit(spec)
    wait_until(lambda: provider.poll([job_id])[job_id].state.final, 20, "its end")
    status = provider.poll([job_id])[job_id]
    assert (status.state, status.exit_code) == (JobState.FAILED, 4)
    assert provider.runner.read(f"{spec.folder}/one.out", 20) == "far away\n"
    assert provider.last_words(spec) == "words\n"
    assert not (tmp_path / "runs").exists()
    assert [n for n in os.listdir(spec.folder) if "notes" in n] == []


def test_a_submission_whose_connection_is_lost_is_not_done_twice(
    provider: NoteProvider, sshd: LoopbackSshd, tmp_path: Path
) -> None:
    go, began = tmp_path / "go", tmp_path / "began"
    provider.before = f"touch {began}; until [ -e {go} ]; do sleep 0.05; done;"
    spec = provider.job("once", ["true"], "runs")
    with ThreadPoolExecutor(1) as thread:
        submitted = thread.submit(provider.submit, spec)
        wait_until(began.exists, 20, "the submission is under way")
        sshd.cut()  # the scheduler takes the job, and its answer reaches nobody
        go.touch()
        job_id = submitted.result(30)
    assert submissions(spec) == [f"{spec.folder}/once.sh"]
    wait_until(lambda: provider.poll([job_id])[job_id].state is JobState.COMPLETED, 20, "its end")


def test_a_host_that_stays_away_in_the_middle_of_a_submission(
    sshd: LoopbackSshd, tmp_path: Path
) -> None:
    runner = SshRunner(sshd.host, str(tmp_path / "site"), options=sshd.options, patience_s=0.5)
    provider = NoteProvider(runner=runner, timeout_s=20)
    runner.write(f"{runner.folder}/warm", "", 20)
    go, began = tmp_path / "go", tmp_path / "began"
    provider.before = f"touch {began}; until [ -e {go} ]; do sleep 0.05; done;"
    spec = provider.job("away", ["true"], "runs")
    try:
        provider.timeout_s = 3.0
        with ThreadPoolExecutor(1) as thread:
            submitted = thread.submit(provider.submit, spec)
            wait_until(began.exists, 20, "the submission is under way")
            sshd.stop()
            go.touch()
            error = submitted.exception(60)
        assert isinstance(error, SubmitError)
        assert not error.transient
        assert "whether the job was taken is not known" in str(error)
        sshd.start()
        provider.timeout_s = 20
        job_id = provider.submit(spec)  # the next attempt finds the answer of the first
        assert len(submissions(spec)) == 1
        wait_until(lambda: provider.poll([job_id])[job_id].state.final, 20, "its end")
    finally:
        runner.close()


def test_a_host_that_is_not_reached_at_all(
    provider: NoteProvider,
    sshd: LoopbackSshd,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    go = tmp_path / "go"
    spec = provider.job("late", [f"until [ -e {go} ]; do sleep 0.05; done"], "runs")
    job_id = provider.submit(spec)
    before = provider.poll([job_id])[job_id]
    sshd.stop()
    with pytest.raises(NotReachedError) as caught:
        provider.submit(provider.job("other", ["true"], "runs"))
    assert caught.value.transient
    for _ in range(3):
        assert provider.poll([job_id])[job_id] == before
    with pytest.raises(ProviderError, match="did not cancel"):
        provider.cancel([job_id])
    assert sum("does not say how jobs are" in text for text in caplog.messages) == 1
    sshd.start()
    go.touch()
    wait_until(lambda: provider.poll([job_id])[job_id].state.final, 20, "its end")
    assert provider.poll([job_id])[job_id].state is JobState.COMPLETED
    assert any("answers again" in text for text in caplog.messages)


def test_a_job_s_end_is_not_made_up_when_its_file_cannot_be_read(
    provider: NoteProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = provider.submit(provider.job("x", ["sleep 1"], "runs"))

    def read(path: str, timeout_s: float) -> str | None:
        raise NotReachedError("gone")

    monkeypatch.setattr(provider.runner, "read", read)
    provider._jobs.lost_after_s = 0.0
    for _ in range(3):
        assert provider.poll([job_id])[job_id].state is JobState.PENDING


def test_a_scheduler_that_is_silent_there(provider: NoteProvider, tmp_path: Path) -> None:
    go = tmp_path / "go"
    provider.before = f"until [ -e {go} ]; do sleep 0.05; done;"
    provider.runner.write(f"{tmp_path}/site/warm", "", 20)
    provider.timeout_s = 1.0
    spec = provider.job("slow", ["true"], "runs")
    with pytest.raises(SubmitError, match="is not known"):
        provider.submit(spec)
    go.touch()
    provider.timeout_s = 20
    provider.submit(spec)
    assert len(submissions(spec)) == 1


def test_a_submission_that_is_refused_keeps_the_scheduler_s_words(provider: NoteProvider) -> None:
    provider.before = "echo 'no such queue' >&2; exit 3;"
    spec = provider.job("bad", ["true"], "runs")
    for _ in range(2):  # a refusal is an answer: the next attempt is a new one
        with pytest.raises(SubmitError, match="no such queue") as caught:
            provider.submit(spec)
        assert caught.value.exit_code == 3
    assert len(submissions(spec)) == 2


def test_a_driver_that_is_killed_leaves_no_connection(sshd: LoopbackSshd, tmp_path: Path) -> None:
    script = (
        "import sys; from ssdag.providers.ssh import SshRunner\n"
        f"r = SshRunner({sshd.host!r}, '/x', options={sshd.options!r})\n"
        "r.run(['true'], 20); print(r._connection._socket, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as driver:
        assert driver.stdout is not None
        folder = Path(driver.stdout.readline().strip()).parent
        assert folder.is_dir()
        children = psutil.Process(driver.pid).children()
        os.kill(driver.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(children, 10)
    assert not alive
    wait_until(lambda: not folder.exists(), 10, "the socket's folder is removed")


def test_login_files_that_write_and_a_login_environment(sshd: LoopbackSshd, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".profile").write_text("echo welcome; export FROM_PROFILE=yes\n")
    from ssdag.providers.ssh_texts import between, remote_line

    line = remote_line(["sh", "-c", "echo $FROM_PROFILE"], "M", 9, login=True)
    done = subprocess.run(
        ["sh", "-c", line], env={**os.environ, "HOME": str(home)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert between(done.stdout, "M") == ("yes\n", 0)
    assert shlex.split(line)[2] == "-lc"
    runner = SshRunner(sshd.host, "/x", options=sshd.options, login=True)
    try:
        assert runner.run(["echo", "x"], 20).stdout == "x\n"
    finally:
        runner.close()


def test_threads_open_one_connection_together(runner: SshRunner, sshd: LoopbackSshd) -> None:
    start = threading.Barrier(6)

    def ask() -> int | None:
        start.wait()
        return runner.run(["true"], 30).exit_code

    with ThreadPoolExecutor(6) as threads:
        assert [f.result() for f in [threads.submit(ask) for _ in range(6)]] == [0] * 6
    assert len(masters()) == 1
