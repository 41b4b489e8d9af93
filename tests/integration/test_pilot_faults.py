# SPDX-License-Identifier: BSD-3-Clause
"""The pilot executor when managers, blocks, schedulers, networks and drivers die."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from ssdag.errors import BlockError, ProviderError, SubmitError, UnsupportedError, WorkerLostError
from ssdag.executors.pilot import contact
from ssdag.providers.local import LocalProvider
from ssdag.states import TaskState
from ssdag.tasks import AppSpec, Options
from tests.conftest import wait_until
from tests.integration import pilot_bodies as bodies
from tests.integration.pilots import (
    DEADLINE_S,
    Proxy,
    alive,
    environment,
    managers,
    one_manager,
    start,
    wait_for_managers,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ssdag.executors import PilotExecutor
    from ssdag.providers.base import JobSpec
    from ssdag.tasks import AppFuture


def lines(path: Path) -> Counter[str]:
    return Counter(path.read_text().split()) if path.exists() else Counter()


def is_running(future: AppFuture[Any]) -> bool:
    return future.state is TaskState.RUNNING


def has_line(path: Path, word: str) -> bool:
    return word in lines(path)


def runs(future: AppFuture[Any], folder: Path) -> bool:
    """Return True once the body has begun and we know it."""
    return future.state is TaskState.RUNNING and (folder / "on").exists()


# -- managers that die -------------------------------------------------------------------


def test_a_manager_killed_under_its_tasks(tmp_path: Path) -> None:
    """What ran fails, what had not begun runs elsewhere, once."""
    engine, _ = start(tmp_path, failures_allowed=9)
    log = tmp_path / "log"
    with engine:
        held = [
            engine.submit(bodies.hold, str(tmp_path / f"on{i}"), str(tmp_path / "never"))
            for i in range(2)
        ]
        waiting = [engine.submit(bodies.note, str(log), f"t{i}") for i in range(20)]
        for future in held:
            wait_until(partial(is_running, future), DEADLINE_S, "it runs")
        manager = one_manager()
        pids = [manager.pid, *(p.pid for p in manager.children())]
        manager.kill()
        for future in held:
            error = future.exception(DEADLINE_S)
            assert isinstance(error, WorkerLostError)
            assert "manager" in str(error)
            assert error.task_id == future.task_id
        assert [future.result(DEADLINE_S) for future in waiting] == [f"t{i}" for i in range(20)]
        assert lines(log) == Counter({f"t{i}": 1 for i in range(20)})
        wait_until(lambda: not alive(pids), what="its workers are gone too")


def test_tasks_of_a_killed_manager_are_retried(tmp_path: Path) -> None:
    engine, _ = start(tmp_path, retries=1, failures_allowed=9)
    with engine:
        future = engine.submit(bodies.hold, str(tmp_path / "on"), str(tmp_path / "go"), 7)
        wait_until(lambda: runs(future, tmp_path), DEADLINE_S, "it runs")
        (tmp_path / "on").unlink()
        one_manager().kill()
        wait_until((tmp_path / "on").exists, DEADLINE_S, "it runs again")
        (tmp_path / "go").touch()
        assert future.result(DEADLINE_S) == 7


def test_a_worker_that_is_killed(tmp_path: Path) -> None:
    engine, _ = start(tmp_path, 1)
    with engine:
        error = engine.submit(os._exit, 3).exception(DEADLINE_S)
        assert isinstance(error, WorkerLostError)
        assert error.exit_code == 3
        assert engine.submit(bodies.same, 1).result(DEADLINE_S) == 1
        assert len(managers()) == 1, "the manager has healed its pool"


def test_a_manager_that_was_suspended_for_a_while(tmp_path: Path) -> None:
    """A partition of the network that heals in time: nothing is lost, nothing runs twice."""
    engine, executor = start(tmp_path, heartbeat_limit_s=8.0)
    log = tmp_path / "log"
    with engine:
        wait_for_managers_of(engine, executor)
        manager = one_manager()
        futures = [engine.submit(bodies.note, str(log), f"t{i}") for i in range(300)]
        manager.suspend()
        more = [engine.submit(bodies.note, str(log), f"m{i}") for i in range(300)]
        with pytest.raises(TimeoutError):
            more[-1].result(1.5)
        manager.resume()
        assert all(future.result(DEADLINE_S) for future in [*futures, *more])
        assert set(lines(log).values()) == {1}
        assert len(lines(log)) == 600


def test_a_driver_that_computes_for_long(tmp_path: Path) -> None:
    """Its threads cannot beat while C code holds the interpreter lock; nobody gives up."""
    engine, executor = start(tmp_path, heartbeat_limit_s=2.0)
    with engine:
        wait_for_managers_of(engine, executor)
        pid = one_manager().pid
        futures = [engine.submit(bodies.stay, 0.05) for _ in range(20)]
        ctypes.PyDLL(None).sleep(5)
        assert {future.result(DEADLINE_S) for future in futures} == {"1"}
        assert one_manager().pid == pid


def wait_for_managers_of(engine: Any, executor: PilotExecutor) -> None:
    engine.submit(bodies.same, 1).result(DEADLINE_S)
    wait_for_managers(executor, 1)


def test_a_manager_that_was_given_up_ends_itself(tmp_path: Path) -> None:
    engine, _ = start(tmp_path, heartbeat_limit_s=1.0, failures_allowed=9)
    with engine:
        future = engine.submit(bodies.hold, str(tmp_path / "on"), str(tmp_path / "go"))
        wait_until(lambda: runs(future, tmp_path), DEADLINE_S, "it runs")
        manager = one_manager()
        workers = [p.pid for p in manager.children()]
        manager.suspend()
        error = future.exception(DEADLINE_S)
        assert isinstance(error, WorkerLostError)
        assert "silent" in str(error)
        manager.resume()
        wait_until(lambda: not alive([manager.pid, *workers]), DEADLINE_S, "it is gone")
        assert engine.submit(bodies.stay, 0.0).result(DEADLINE_S) == "2"


def test_a_block_whose_manager_hangs_for_ever_is_given_back(tmp_path: Path) -> None:
    engine, _ = start(tmp_path, heartbeat_limit_s=1.0, retries=1)
    with engine:
        future = engine.submit(bodies.hold, str(tmp_path / "on"), str(tmp_path / "go"))
        wait_until(lambda: runs(future, tmp_path), DEADLINE_S, "it runs")
        (tmp_path / "on").unlink()
        one_manager().suspend()
        wait_until((tmp_path / "on").exists, DEADLINE_S, "it runs in another block")
        (tmp_path / "go").touch()
        future.result(DEADLINE_S)
        assert engine.submit(bodies.stay, 0.0).result(DEADLINE_S) == "2"


# -- networks ----------------------------------------------------------------------------


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Proxy]]:
    """Let managers reach the hub by way of a proxy, which is the list's item."""
    proxies: list[Proxy] = []
    write = contact.RunFolder.write

    def through(self: contact.RunFolder, content: dict[str, Any]) -> None:
        proxies.append(Proxy(content["port"]))
        write(self, {**content, "port": proxies[0].port})

    monkeypatch.setattr(contact.RunFolder, "write", through)
    yield proxies
    for proxy in proxies:
        proxy.close()


def test_a_network_that_drops_everything_for_five_seconds(
    tmp_path: Path, proxied: list[Proxy]
) -> None:
    engine, executor = start(tmp_path, heartbeat_limit_s=15.0)
    log = tmp_path / "log"
    with engine:
        wait_for_managers_of(engine, executor)
        pid = one_manager().pid
        futures = [engine.submit(bodies.note, str(log), f"t{i}") for i in range(500)]
        proxied[0].hold_up()
        futures += [engine.submit(bodies.note, str(log), f"m{i}") for i in range(500)]
        with pytest.raises(TimeoutError):
            futures[-1].result(5.0)
        proxied[0].heal()
        assert all(future.result(DEADLINE_S) for future in futures)
        assert set(lines(log).values()) == {1}
        assert one_manager().pid == pid


def test_connections_that_break_and_come_back(tmp_path: Path, proxied: list[Proxy]) -> None:
    """What was on its way is lost, and is sent again."""
    engine, executor = start(tmp_path, heartbeat_limit_s=15.0)
    log = tmp_path / "log"
    with engine:
        wait_for_managers_of(engine, executor)
        futures = []
        for turn in range(4):
            futures += [engine.submit(bodies.note, str(log), f"{turn}-{i}") for i in range(1000)]
            wait_until(partial(has_line, log, f"{turn}-1"), DEADLINE_S, "they run")
            proxied[0].cut()
            futures += [engine.submit(bodies.note, str(log), f"{turn}+{i}") for i in range(100)]
            proxied[0].heal()
        assert all(future.result(DEADLINE_S) for future in futures)
        assert set(lines(log).values()) == {1}
        assert len(lines(log)) == 4400


@pytest.mark.parametrize("encrypt", [True, False])
def test_traffic_cannot_be_read(tmp_path: Path, proxied: list[Proxy], encrypt: bool) -> None:
    engine, _ = start(tmp_path, encrypt=encrypt)
    with engine:
        word = "OPEN-SESAME-" * 20
        assert engine.submit(bodies.same, [word]).result(DEADLINE_S) == [word]
        assert len(proxied[0].heard) > 500
        assert (word.encode() in proxied[0].heard) == (not encrypt)


# -- blocks ------------------------------------------------------------------------------


def test_blocks_that_fail_at_once(tmp_path: Path) -> None:
    init = "echo 'no module named chem-42' >&2; exit 7"
    engine, _ = start(tmp_path, blocks={"worker_init": init, "max_blocks": 2})
    with engine:
        futures = [engine.submit(bodies.same, i) for i in range(10)]
        for future in futures:
            error = future.exception(DEADLINE_S)
            assert isinstance(error, BlockError)
            assert "3 blocks in a row failed" in str(error)
            assert "exit code 7" in str(error)
            assert "chem-42" in error.stderr_tail
            assert error.job_id
            assert pickle.loads(pickle.dumps(error)).stderr_tail == error.stderr_tail
        later = engine.submit(bodies.same, 1)
        assert isinstance(later.exception(DEADLINE_S), BlockError)
    kept = list((tmp_path / "runs").glob("*/*.err"))
    assert kept, "the last words of failed blocks stay"
    assert not list((tmp_path / "runs").glob("*/contact.json")), "and no key does"


def test_a_block_that_ends_well_without_a_manager(tmp_path: Path) -> None:
    engine, _ = start(tmp_path, blocks={"worker_init": "exit 0"})
    with engine:
        error = engine.submit(bodies.same, 1).exception(DEADLINE_S)
        assert isinstance(error, BlockError)


def test_later_blocks_fail_while_one_lives(tmp_path: Path) -> None:
    """Tasks that it can take go on; one that is too long for it does not hang."""
    init = f"mkdir {tmp_path}/first || exit 9"
    blocks = {"worker_init": init, "init_blocks": 1, "max_blocks": 2, "walltime_s": 60.0}
    engine, executor = start(tmp_path, blocks=blocks)
    with engine:
        wait_for_managers(executor, 1)
        assert engine.submit(bodies.stay, 1.0).result(DEADLINE_S) == "1"
        long = AppSpec(bodies.same, "long", options=Options(walltime_s=59.5))
        error = engine.call(long, (1,)).exception(DEADLINE_S)
        assert isinstance(error, BlockError)
        assert engine.submit(bodies.stay, 0.0).result(DEADLINE_S) == "1"
        one_manager().kill()
        assert isinstance(engine.submit(bodies.same, 1).exception(DEADLINE_S), BlockError)


def test_a_task_that_fits_into_no_block(tmp_path: Path) -> None:
    """The time that a block takes to begin is part of its own."""
    blocks = {"max_blocks": 3, "walltime_s": 20.0}
    engine, _ = start(tmp_path, blocks=blocks)
    with engine:
        long = AppSpec(bodies.same, "long", options=Options(walltime_s=19.999))
        error = engine.call(long, (1,)).exception(DEADLINE_S)
        assert isinstance(error, UnsupportedError)
        assert "fits into no block" in str(error)


def test_no_worker_fits_on_the_node(tmp_path: Path) -> None:
    engine, _ = start(tmp_path, memory_per_worker_bytes=1 << 60)
    with engine:
        error = engine.submit(bodies.same, 1).exception(DEADLINE_S)
        assert isinstance(error, BlockError)
        assert "no worker fits" in str(error)


def test_tasks_cut_by_the_end_of_their_block_run_again(tmp_path: Path) -> None:
    """Without any retries asked for."""
    engine, _ = start(tmp_path, 1, blocks={"walltime_s": 3.0})
    with engine:
        tries = tmp_path / "tries"
        future = engine.submit(bodies.hold_noted, str(tries), str(tmp_path / "go"))
        wait_until(lambda: sum(lines(tries).values()) == 2, DEADLINE_S, "it runs again")
        (tmp_path / "go").touch()
        assert future.result(DEADLINE_S) == 2


def test_a_task_that_is_always_cut_ends(tmp_path: Path) -> None:
    engine, _ = start(tmp_path, 1, blocks={"walltime_s": 1.5})
    with engine:
        error = engine.submit(bodies.hold, str(tmp_path / "on"), str(tmp_path / "go")).exception(
            2 * DEADLINE_S
        )
        assert isinstance(error, WorkerLostError)
        assert "for the 4th time" in str(error)


def test_a_block_that_is_told_to_end(tmp_path: Path) -> None:
    """SIGTERM, as schedulers send it before they kill: all goes elsewhere."""
    engine, _ = start(tmp_path, 1)
    with engine:
        future = engine.submit(bodies.hold, str(tmp_path / "on"), str(tmp_path / "go"), 5)
        queued = engine.submit(bodies.stay, 0.0)
        wait_until(lambda: runs(future, tmp_path), DEADLINE_S, "it runs")
        one_manager().terminate()
        (tmp_path / "on").unlink()
        wait_until((tmp_path / "on").exists, DEADLINE_S, "it runs again")
        (tmp_path / "go").touch()
        assert future.result(DEADLINE_S) == 5
        assert queued.result(DEADLINE_S) == "2"


# -- schedulers --------------------------------------------------------------------------


class Moody(LocalProvider):
    """A scheduler that takes no job, for a while or for ever."""

    def __init__(self, errors: Sequence[Exception], **options: Any) -> None:
        super().__init__(**options)
        self.errors = list(errors)

    def submit(self, job: JobSpec) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return super().submit(job)


def test_a_scheduler_that_is_away_for_a_while(tmp_path: Path) -> None:
    away = [ProviderError("Unable to contact slurm controller") for _ in range(4)]
    engine, _ = start(tmp_path, provider=Moody(away), failures_allowed=2)
    with engine:
        assert engine.submit(bodies.same, 1).result(DEADLINE_S) == 1


def test_a_scheduler_that_refuses_jobs(tmp_path: Path) -> None:
    words = "Invalid account or account/partition combination specified"
    refusals = [SubmitError(f"sbatch: {words}", stderr_tail=words) for _ in range(9)]
    engine, _ = start(tmp_path, provider=Moody(refusals))
    with engine:
        error = engine.submit(bodies.same, 1).exception(DEADLINE_S)
        assert isinstance(error, BlockError)
        assert words in str(error)
        assert error.stderr_tail == words


def test_a_provider_with_a_bug(tmp_path: Path) -> None:
    engine, _ = start(tmp_path, provider=Moody([RuntimeError("oops")]))
    with engine:
        error = engine.submit(bodies.same, 1).exception(DEADLINE_S)
        assert isinstance(error, BlockError)
        assert "oops" in str(error)


# -- drivers -----------------------------------------------------------------------------

SCRIPT = """
import os, subprocess, sys, time
import ssdag
from ssdag.executors import PilotExecutor
from ssdag.providers.local import LocalProvider
from tests.integration import pilot_bodies as bodies

class Detached(LocalProvider):
    '''Starts jobs that nobody guards, as on another machine.'''
    def submit(self, job):
        path = os.path.join(job.folder, job.name + ".sh")
        with open(path, "w") as file:
            file.write(self.script(job))
        subprocess.Popen(["bash", path], start_new_session=True, stdin=subprocess.DEVNULL,
                         env={**os.environ, "SSDAG_JOB_ID": job.name})
        return job.name
    def poll(self, job_ids):
        return {}
    def cancel(self, job_ids):
        pass

executor = PilotExecutor(Detached(), workers_per_node=1, run_dir=sys.argv[1],
                         heartbeat_s=0.2, heartbeat_limit_s=2.0)
engine = ssdag.load(ssdag.Config(executors=[executor]))
future = engine.submit(bodies.hold, sys.argv[1] + "/on", sys.argv[1] + "/never")
future.result()
"""


def test_a_driver_that_is_killed(tmp_path: Path) -> None:
    """Managers end themselves, with their workers; the keys are removed."""
    driver = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment(), cwd=tmp_path
    )
    try:
        wait_until((tmp_path / "on").exists, DEADLINE_S, "its task runs")
        ours = [
            process.pid
            for process in psutil.process_iter(["cmdline"])
            if any(str(tmp_path) in word for word in process.info["cmdline"] or ())
        ]
        ours += [child.pid for pid in ours for child in psutil.Process(pid).children()]
        assert len(set(ours)) >= 4, "driver, script, manager, worker"
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    wait_until(lambda: not alive(ours), 10.0, "all are gone")
    wait_until(lambda: not list(tmp_path.glob("*/contact.json")), what="the keys are gone")


def test_leaving_while_everything_is_busy(tmp_path: Path) -> None:
    """The end of an engine waits for its blocks, and only for them."""
    engine, _ = start(tmp_path, blocks={"init_blocks": 3, "max_blocks": 3})
    futures = [
        engine.submit(bodies.hold, str(tmp_path / f"on{i}"), str(tmp_path / "never"))
        for i in range(20)
    ]
    wait_until((tmp_path / "on0").exists, DEADLINE_S, "one runs")
    pids = [p.pid for m in managers() for p in (m, *m.children())]
    engine.close()
    assert not alive(pids)
    assert all(future.done() for future in futures)
    assert not list((tmp_path / "runs").glob("*"))
