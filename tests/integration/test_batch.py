# SPDX-License-Identifier: BSD-3-Clause
"""Tasks as jobs: sweeps, slots, partial results, and every way in which a job may end."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import ssdag
from ssdag import (
    CommandError,
    Config,
    Resources,
    UnsupportedError,
    WalltimeExceededError,
    WorkerLostError,
    bash_app,
    mpi_app,
    python_app,
)
from ssdag.errors import ConfigError, JobError, ProviderError, SubmitError
from ssdag.executors.allocation.mpi import find_launcher
from ssdag.executors.batch import BatchExecutor, runner
from ssdag.executors.batch.watching import Watching
from ssdag.providers import LocalProvider, SlurmProvider
from ssdag.wire import reaper
from ssdag.wire.process import spawn
from tests.conftest import wait_until
from tests.contract import bodies
from tests.integration import step_bodies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ssdag.dataflow.engine import Engine
    from ssdag.providers import JobSpec
    from ssdag.tasks import AppFuture
    from tests.clusters.cluster import SlurmCluster

pytestmark = pytest.mark.usefixtures("no_old_segments")

DEADLINE_S = 60.0
needs_mpi = pytest.mark.skipif(
    find_launcher() is None or importlib.util.find_spec("mpi4py") is None,
    reason="no MPI here: pip install mpich mpi4py",
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Start engines with a batch executor; closed after the test."""
    engines: list[Engine] = []

    def make(provider: Any = None, *, retries: int = 0, **options: Any) -> Engine:
        options = {"folder": tmp_path / "runs", "coalesce_s": 0.05, "slots": 2, **options}
        executor = BatchExecutor(provider or LocalProvider(), **options)
        engines.append(ssdag.load(Config(executors=[executor], retries=retries)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@bash_app
def run(command: str, **_: Any) -> str:
    return command


def jobs(tmp_path: Path) -> list[Path]:
    """Return the folders of jobs."""
    return sorted((tmp_path / "runs").glob("*/job-*"))


def left(mark: str) -> list[int]:
    """Return the processes that have a word in their command line."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if mark in (process.info["cmdline"] or [])
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def test_a_sweep_is_one_job_with_slots(start: Callable[..., Engine], tmp_path: Path) -> None:
    start(slots=3)
    log = tmp_path / "log"
    text = f"echo + >> {log}; sleep 0.05; echo out {{0}}; echo - >> {log}; exit $(({{0}} % 4 / 3))"
    futures = [run(text.format(i)) for i in range(12)]
    errors = [future.exception(DEADLINE_S) for future in futures]
    assert [error is not None for error in errors] == [i % 4 == 3 for i in range(12)]
    (job,) = jobs(tmp_path)
    running = peak = 0
    for line in log.read_text().split():
        running += 1 if line == "+" else -1
        peak = max(peak, running)
    assert (running, peak) == (0, 3)
    said = [json.loads(line) for line in (job / "progress").read_text().splitlines()]
    codes = {words["end"]: words["exit_code"] for words in said if "end" in words}
    assert codes == {i: int(i % 4 == 3) for i in range(12)}
    assert (job / "logs" / "5.out").read_text() == "out 5\n"
    modes = [stat.S_IMODE((job / name).stat().st_mode) for name in ("", "members.json", "progress")]
    assert modes == [0o700, 0o600, 0o600]


def test_results_come_as_members_end(start: Callable[..., Engine], tmp_path: Path) -> None:
    start()
    held = run(f"until [ -e {tmp_path}/go ]; do sleep 0.02; done")
    assert run("true").result(DEADLINE_S) == 0
    wait_until(held.running, DEADLINE_S)
    assert not held.done()
    (tmp_path / "go").touch()
    assert held.result(DEADLINE_S) == 0
    assert len(jobs(tmp_path)) == 1


def test_a_task_that_comes_just_before_the_executor_waits(
    start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, put = threading.Event(), threading.Event()

    class Late(threading.Condition):
        """Lets the task come after the executor has looked around, and before it waits."""

        def __exit__(self, *words: Any) -> None:
            super().__exit__(*words)
            if threading.current_thread().name.startswith("ssdag-batch") and not looked.is_set():
                looked.set()
                put.wait(DEADLINE_S)

    made = Watching.__init__

    def make(self: Watching, *words: Any) -> None:
        made(self, *words)
        self._wake = Late()

    monkeypatch.setattr(Watching, "__init__", make)
    start()
    assert looked.wait(DEADLINE_S)
    task = run("true")
    put.set()
    assert task.result(DEADLINE_S) == 0


def test_jobs_are_no_larger_and_no_more_than_asked(
    start: Callable[..., Engine], tmp_path: Path
) -> None:
    start(tasks_per_job=4, max_jobs=1)
    log = tmp_path / "log"
    futures = [run(f"echo $SSDAG_JOB_ID >> {log}") for _ in range(10)]
    futures.append(run("true", resources=Resources(cores=2)))
    ssdag.gather(futures, timeout=DEADLINE_S)
    sizes = [len(json.loads((j / "members.json").read_text())["members"]) for j in jobs(tmp_path)]
    assert sorted(sizes) == [1, 2, 4, 4]
    names = log.read_text().split()
    assert all(names[i] == names[i - 1] for i in range(1, 10) if i not in (4, 8))


def test_ends_of_members(start: Callable[..., Engine], tmp_path: Path) -> None:
    start(slots=4)
    out = tmp_path / "new" / "out"
    failing = run("echo oops >&2; exit 3")
    late = run("sleep 604.1 & sleep 604.1", walltime=0.5)
    absent = run("no-such-program-xyz")
    written = run("echo one; echo two >&2", stdout=str(out), stderr=str(out))
    value = python_app(step_bodies.double)([1])
    wrong = python_app(bodies.trouble)(7)
    gone = python_app(step_bodies.dies)()
    error = failing.exception(DEADLINE_S)
    assert isinstance(error, CommandError)
    assert (error.exit_code, error.stderr_tail) == (3, "oops")
    assert isinstance(late.exception(DEADLINE_S), WalltimeExceededError)
    assert left("604.1") == []
    not_found = absent.exception(DEADLINE_S)
    assert isinstance(not_found, CommandError)
    assert not_found.exit_code == 127
    assert written.result(DEADLINE_S) == 0
    assert sorted(out.read_text().split()) == ["one", "two"]
    assert value.result(DEADLINE_S) == [1, 1]
    assert isinstance(wrong.exception(DEADLINE_S), bodies.Trouble)
    assert isinstance(gone.exception(DEADLINE_S), WorkerLostError)
    (job,) = jobs(tmp_path)
    assert list((job / "calls").iterdir()) == []


@needs_mpi
def test_ranks(start: Callable[..., Engine]) -> None:
    start()
    world = mpi_app(python=True, returns="all", resources=Resources(ranks=2))(step_bodies.world)
    ends = ssdag.gather([world(1), world(2)], timeout=DEADLINE_S)
    assert [[end[:3] for end in world] for world in ends] == [
        [(0, 2, 2 * n), (1, 2, 2 * n)] for n in (1, 2)
    ]


@needs_mpi
def test_a_command_may_launch_its_ranks_itself(
    start: Callable[..., Engine], tmp_path: Path
) -> None:
    start()
    out = tmp_path / "out"
    text = "echo start; $SSDAG_LAUNCH sh -c 'echo a rank'; echo end"
    assert run(text, stdout=str(out), resources=Resources(ranks=2)).result(DEADLINE_S) == 0
    assert out.read_text() == "start\na rank\na rank\nend\n"


def test_cancel_one_and_all(start: Callable[..., Engine], tmp_path: Path) -> None:
    start(slots=1)
    running = run(f"touch {tmp_path}/on; sleep 604.2")
    waiting = run(f"touch {tmp_path}/never")
    last = run("true")
    wait_until((tmp_path / "on").exists, DEADLINE_S)
    assert waiting.cancel()
    assert running.cancel()
    assert last.result(DEADLINE_S) == 0
    assert not (tmp_path / "never").exists()
    assert left("604.2") == []
    alone = run("sleep 604.2")
    wait_until(alone.running, DEADLINE_S)
    assert alone.cancel()
    wait_until(lambda: left("604.2") == [], DEADLINE_S, "its job is cancelled")
    never = run("sleep 604.2")
    assert never.cancel()
    assert never.cancelled()


# -- the end of a job --------------------------------------------------------------------


def test_a_job_that_reaches_its_limit(start: Callable[..., Engine], tmp_path: Path) -> None:
    start(LocalProvider(walltime_s=1.0), slots=1)
    futures = [run("true"), run("sleep 604.3"), run("true")]
    assert futures[0].result(DEADLINE_S) == 0
    for future, when in ((futures[1], "while it ran"), (futures[2], "before it began")):
        error = future.exception(DEADLINE_S)
        assert isinstance(error, JobError)
        assert error.transient
        assert error.state == "TIMEOUT"
        assert when in str(error)
        assert str(jobs(tmp_path)[0]) in str(error)
    assert left("604.3") == []


def test_tasks_of_a_lost_job_are_retried_in_another(
    start: Callable[..., Engine], tmp_path: Path
) -> None:
    start(retries=1)
    text = f"if [ -e {tmp_path}/second ]; then exit 0; fi; touch {tmp_path}/second; sleep 604.4"
    future = run(text)
    wait_until((tmp_path / "second").exists, DEADLINE_S)
    found = [p for p in psutil.process_iter() if "runner.py" in " ".join(_words(p))]
    (mine,) = [p for p in found if str(tmp_path) in " ".join(_words(p)) and "bash" not in p.name()]
    mine.kill()
    assert future.result(DEADLINE_S) == 0
    assert left("604.4") == []
    assert len(jobs(tmp_path)) == 2


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


class Refusing(LocalProvider):
    """Takes no jobs."""

    def submit(self, job: JobSpec) -> str:
        raise SubmitError("no jobs today", stderr_tail="no")


def test_a_scheduler_that_refuses(start: Callable[..., Engine]) -> None:
    start(Refusing())
    for future in [run("true") for _ in range(3)]:
        with pytest.raises(SubmitError, match="no jobs today"):
            future.result(DEADLINE_S)
    with pytest.raises(UnsupportedError, match="no second node"):
        run("true", resources=Resources(nodes=2))
    with pytest.raises(ConfigError, match="slots=0"):
        BatchExecutor(slots=0)


class Slow(LocalProvider):
    """Does not answer at first."""

    asked = 0

    def submit(self, job: JobSpec) -> str:
        self.asked += 1
        if self.asked < 3:
            raise ProviderError("no answer")
        return super().submit(job)


def test_a_scheduler_that_is_down_for_a_while(start: Callable[..., Engine]) -> None:
    provider = Slow()
    start(provider)
    assert run("true").result(DEADLINE_S) == 0
    assert provider.asked == 3
    provider.asked = -1000
    held = run("true")
    wait_until(lambda: provider.asked > -1000, DEADLINE_S)
    assert held.cancel()


def test_the_end_of_the_engine_ends_its_jobs(start: Callable[..., Engine], tmp_path: Path) -> None:
    engine = start()
    futures = [run(f"touch {tmp_path}/on; sleep 604.5") for _ in range(3)]
    wait_until((tmp_path / "on").exists, DEADLINE_S)
    engine.close()
    assert all(future.exception(0) is not None for future in futures)
    wait_until(lambda: left("604.5") == [], DEADLINE_S, "all is gone")


# -- the runner alone --------------------------------------------------------------------


def _job(folder: Path, commands: list[str], **more: Any) -> list[str]:
    """Write a job's folder by hand; return the command line of its runner."""
    (folder / "cancel").mkdir(parents=True)
    (folder / "alive").touch()
    members: list[dict[str, Any]] = [
        {"argv": ["sh", "-c", command], "env": {}, "cwd": str(folder), "walltime_s": None,
         "stdout": [str(folder / f"{i}.out"), "a"], "stderr": [str(folder / f"{i}.err"), "a"]}
        for i, command in enumerate(commands)
    ]  # fmt: skip
    job = {"members": members, "slots": 1, "cores": 1, "nodes": 1,
           "alive": str(folder / "alive"), "lost_after_s": 0, **more}  # fmt: skip
    (folder / "members.json").write_text(json.dumps(job))
    for module, name in ((runner, "runner.py"), (reaper, "reaper.py")):
        (folder / name).write_text(Path(str(module.__file__)).read_text())
    return [sys.executable, "-B", "-E", "-s", "-S", str(folder / "runner.py"), str(folder)]


def _ends(folder: Path) -> list[tuple[int, Any, str]]:
    lines = [json.loads(line) for line in (folder / "progress").read_text().splitlines()]
    return [(w["end"], w["exit_code"], w["why"]) for w in lines if "end" in w]


def test_a_job_that_is_started_again_repeats_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    argv = _job(folder, ["echo a >> a", "echo b >> b; sleep 604.6", "echo c >> c"])
    first = spawn(argv)
    wait_until((folder / "b").exists, DEADLINE_S)
    first.kill_session()
    second = spawn(argv)
    assert second.wait(DEADLINE_S) == 0
    assert _ends(folder) == [(0, 0, ""), (1, None, "lost"), (2, 0, "")]
    assert [(folder / name).read_text() for name in "abc"] == ["a\n", "b\n", "c\n"]


def test_a_job_that_was_submitted_twice(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    argv = _job(folder, ["touch on; until [ -e go ]; do sleep 0.02; done"])
    first = spawn(argv)
    wait_until((folder / "on").exists, DEADLINE_S)
    assert spawn(argv).wait(DEADLINE_S) == 1
    (folder / "go").touch()
    assert first.wait(DEADLINE_S) == 0
    assert _ends(folder) == [(0, 0, "")]


def test_a_runner_that_is_told_to_end(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    deaf = "trap '' TERM; touch on; while :; do sleep 0.05; done"
    process = spawn(_job(folder, [deaf, "touch never"]))
    wait_until((folder / "on").exists, DEADLINE_S)
    process.terminate()
    assert process.wait(DEADLINE_S) == 128 + signal.SIGTERM
    assert _ends(folder) == [(0, -signal.SIGKILL, "cut")]
    assert not (folder / "never").exists()


def test_a_runner_whose_driver_has_gone(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    process = spawn(_job(folder, ["touch on; sleep 604.7"], lost_after_s=1.0))
    wait_until((folder / "on").exists, DEADLINE_S)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:  # signs of life hold it up
        (folder / "alive").write_text(str(time.monotonic()))
        assert process.poll() is None
        time.sleep(0.1)
    process.wait(DEADLINE_S)
    assert _ends(folder)[0][2] == "cut"
    assert left("604.7") == []


# -- the driver dies ---------------------------------------------------------------------

DRIVER = """
import sys, time
import ssdag
from ssdag import Config, bash_app
from ssdag.executors.batch import BatchExecutor
from ssdag.providers import LocalProvider, SlurmProvider

@bash_app
def run(command):
    return command

provider = {"local": LocalProvider, "slurm": SlurmProvider}[sys.argv[2]]()
executor = BatchExecutor(provider, folder=sys.argv[1], lost_after_s=4.0)
ssdag.load(Config(executors=[executor]))
run(f"touch {sys.argv[1]}/on; sleep 604.8")
time.sleep(600)
"""


@pytest.fixture
def driver(tmp_path: Path) -> Callable[[str], None]:
    """Start a driver and kill it as soon as its task runs."""

    def kill(provider: str) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        argv = [sys.executable, "-c", DRIVER, str(tmp_path), provider]
        process = spawn(argv, env=env, stdout=subprocess.DEVNULL)
        try:
            wait_until((tmp_path / "on").exists, DEADLINE_S)
            os.kill(process.pid, signal.SIGKILL)
        finally:
            process.kill_session()

    return kill


def test_the_driver_is_killed(driver: Callable[[str], None]) -> None:
    driver("local")
    wait_until(lambda: left("604.8") == [], 15.0, "all is gone")


def test_the_driver_of_a_slurm_job_is_killed(
    driver: Callable[[str], None], slurm: SlurmCluster
) -> None:
    driver("slurm")
    wait_until(lambda: left("604.8") == [], 20.0, "the job has noticed")
    wait_until(lambda: not slurm.run("squeue", "-h"), DEADLINE_S, "it is over")


# -- a real Slurm ------------------------------------------------------------------------


def test_a_sweep_on_slurm(
    slurm: SlurmCluster, start: Callable[..., Engine], tmp_path: Path
) -> None:
    start(SlurmProvider(walltime_s=600), slots=None)
    text = f"touch {tmp_path}/on{{}}; until [ -e {tmp_path}/go ]; do sleep 0.02; done; exit {{}}"
    futures = [run(text.format(i, i % 2)) for i in range(8)]
    wait_until(lambda: len(list(tmp_path.glob("on*"))) == 4, DEADLINE_S, "a node's cores are busy")
    assert len(slurm.run("squeue", "-h", "-o", "%i").split()) == 1
    (tmp_path / "go").touch()
    errors = [future.exception(DEADLINE_S) for future in futures]
    assert [isinstance(error, CommandError) for error in errors] == [False, True] * 4
    double = python_app(step_bodies.double)
    assert ssdag.gather(double.map(range(3)), timeout=DEADLINE_S) == [0, 2, 4]


def test_results_come_while_the_scheduler_is_silent(
    slurm: SlurmCluster, start: Callable[..., Engine], tmp_path: Path
) -> None:
    start(SlurmProvider(walltime_s=600))
    held = run(f"touch {tmp_path}/on; until [ -e {tmp_path}/go ]; do sleep 0.02; done")
    wait_until((tmp_path / "on").exists, DEADLINE_S)
    with slurm.silent():
        (tmp_path / "go").touch()
        assert held.result(8.0) == 0
    assert run("true").result(DEADLINE_S) == 0


def test_steps_of_a_job_with_several_nodes(
    slurm: SlurmCluster, start: Callable[..., Engine], tmp_path: Path
) -> None:
    start(SlurmProvider(nodes_per_block=2, walltime_s=600), slots=8)

    def task(i: int) -> AppFuture[int]:
        return run("echo $SLURMD_NODENAME; sleep 0.2", stdout=str(tmp_path / f"out{i}"))

    assert ssdag.gather([task(i) for i in range(8)], timeout=DEADLINE_S) == [0] * 8
    assert {(tmp_path / f"out{i}").read_text() for i in range(8)} == {"n1\n", "n2\n"}
    ranks = run("echo $SLURM_PROCID", stdout=str(tmp_path / "r"), resources=Resources(ranks=6))
    assert ranks.result(DEADLINE_S) == 0
    assert sorted((tmp_path / "r").read_text().split()) == list("012345")
    text = "$SSDAG_LAUNCH sh -c 'echo $SLURMD_NODENAME' | sort"
    own = run(text, stdout=str(tmp_path / "o"), resources=Resources(nodes=2))
    assert own.result(DEADLINE_S) == 0
    assert (tmp_path / "o").read_text() == "n1\nn2\n"


def test_a_slurm_job_that_is_cancelled_by_hand(
    slurm: SlurmCluster, start: Callable[..., Engine]
) -> None:
    start(SlurmProvider(walltime_s=600), slots=1)
    futures = [run("sleep 604.9"), run("sleep 604.9")]
    wait_until(futures[0].running, DEADLINE_S)
    slurm.run("scancel", *slurm.run("squeue", "-h", "-o", "%i").split())
    for future in futures:
        error = future.exception(DEADLINE_S)
        assert isinstance(error, JobError)
        assert error.state == "CANCELLED"
    wait_until(lambda: left("604.9") == [], DEADLINE_S)
