# SPDX-License-Identifier: BSD-3-Clause
"""The local executor when workers die, tasks misbehave, and users cancel."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

import ssdag
import tests.integration.fault_bodies as bodies
from ssdag.errors import (
    DependencyError,
    RemoteError,
    SerializationError,
    WalltimeExceededError,
    WorkerLostError,
)
from ssdag.executors import LocalExecutor
from ssdag.states import TaskState
from ssdag.tasks import AppSpec, Options
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.dataflow.engine import Engine
    from ssdag.tasks import AppFuture

DEADLINE_S = 30.0
MIB = 1 << 20


def start(workers: int = 2, **options: Any) -> tuple[Engine, LocalExecutor]:
    executor = LocalExecutor(workers, **options)
    return ssdag.load(ssdag.Config(executors=[executor])), executor


@pytest.fixture
def pool() -> Iterator[tuple[Engine, LocalExecutor]]:
    """An engine with two workers."""
    engine, executor = start()
    with engine:
        yield engine, executor


@pytest.fixture
def one() -> Iterator[tuple[Engine, LocalExecutor]]:
    """An engine with one worker."""
    engine, executor = start(1)
    with engine:
        yield engine, executor


class Gate:
    """A fifo on which :func:`fault_bodies.hold` blocks."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path)

    def wait(self) -> None:
        """Wait until a task holds here."""
        wait_until(Path(f"{self.path}.begun").exists, DEADLINE_S, "the task has begun")

    def is_entered(self) -> bool:
        """Return True while a task holds; its hold ends with that."""
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    def open(self) -> None:
        """Wait for the task, and let it go."""
        wait_until(self.is_entered, DEADLINE_S, "the task holds")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


def with_walltime(engine: Engine, func: Any, walltime_s: float, *args: Any) -> AppFuture[Any]:
    return engine.call(AppSpec(func, func.__name__, options=Options(walltime_s=walltime_s)), args)


def begun(task: AppFuture[Any]) -> bool:
    return task.state >= TaskState.RUNNING


def lines(path: Path) -> Counter[str]:
    return Counter(path.read_text().split("\n")[:-1]) if path.exists() else Counter()


def warm_up(engine: Engine, executor: LocalExecutor, gate: Gate) -> None:
    """Have both workers up, with tasks behind them."""
    held = engine.submit(bodies.hold, gate.path)
    engine.submit(bodies.pid_of).result(DEADLINE_S)
    gate.open()
    held.result(DEADLINE_S)
    assert len(executor.worker_pids()) == 2


# -- workers that die -------------------------------------------------------------------


def test_a_worker_killed_under_a_task_fails_it_and_the_pool_heals(
    one: tuple[Engine, LocalExecutor], gate: Gate
) -> None:
    engine, executor = one
    task = engine.submit(bodies.hold, gate.path)
    gate.wait()
    (pid,) = executor.worker_pids()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError, match="killed by SIGKILL") as caught:
        task.result(DEADLINE_S)
    assert caught.value.exit_code == -9
    assert caught.value.task_id == task.task_id
    assert engine.submit(bodies.pid_of).result(DEADLINE_S) != pid


def test_an_idle_worker_that_is_killed_costs_nothing(one: tuple[Engine, LocalExecutor]) -> None:
    engine, executor = one
    pid = engine.submit(bodies.pid_of).result(DEADLINE_S)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: executor.worker_pids() == [], DEADLINE_S, "the hub has seen it")
    assert engine.submit(bodies.pid_of).result(DEADLINE_S) != pid


def test_tasks_behind_a_dead_worker_run_exactly_once(
    one: tuple[Engine, LocalExecutor], gate: Gate, tmp_path: Path
) -> None:
    engine, executor = one
    notes = tmp_path / "notes"
    # Quick ones first, so that the worker is trusted with many at a time.
    for future in [engine.submit(bodies.note, str(notes), f"first {i}") for i in range(200)]:
        future.result(DEADLINE_S)
    victim = engine.submit(bodies.hold, gate.path)
    behind = [engine.submit(bodies.note, str(notes), f"behind {i}") for i in range(100)]
    gate.wait()
    os.kill(executor.worker_pids()[0], signal.SIGKILL)
    assert [f.result(DEADLINE_S) for f in behind] == [f"behind {i}" for i in range(100)]
    with pytest.raises(WorkerLostError):
        victim.result(DEADLINE_S)
    expected = [f"first {i}" for i in range(200)] + [f"behind {i}" for i in range(100)]
    assert lines(notes) == Counter(expected)


@pytest.mark.parametrize(
    ("body", "args", "text"),
    [
        (bodies.exit_at_once, (3,), "exit code 3"),
        (bodies.exit_at_once, (0,), "exit code 0"),
        (bodies.segfault, (), "SIGSEGV"),
        (bodies.kill_self, (), "SIGKILL"),
    ],
)
def test_how_a_worker_died_is_told(
    one: tuple[Engine, LocalExecutor], body: Any, args: tuple[Any, ...], text: str
) -> None:
    engine, _ = one
    with pytest.raises(WorkerLostError, match=text):
        engine.submit(body, *args).result(DEADLINE_S)
    assert engine.submit(bodies.same, 1).result(DEADLINE_S) == 1


def test_a_row_of_deadly_tasks_does_not_condemn_the_others(
    one: tuple[Engine, LocalExecutor],
) -> None:
    engine, _ = one
    futures = [
        engine.submit(bodies.exit_at_once, 1) if i % 2 else engine.submit(bodies.same, i)
        for i in range(12)
    ]
    for i, future in enumerate(futures):
        if i % 2:
            with pytest.raises(WorkerLostError, match="exit code 1"):
                future.result(DEADLINE_S)
        else:
            assert future.result(DEADLINE_S) == i


def test_a_worker_that_closes_its_connection_is_replaced(
    one: tuple[Engine, LocalExecutor], gate: Gate
) -> None:
    engine, executor = one
    task = engine.submit(bodies.close_everything, gate.path)
    with pytest.raises(WorkerLostError, match="closed its connection"):
        task.result(DEADLINE_S)
    assert engine.submit(bodies.same, 1).result(DEADLINE_S) == 1
    assert len(executor.worker_pids()) == 1


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_that_die_as_they_start_are_an_error(
    workers: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(77)")
    engine, executor = start(workers, env={"PYTHONPATH": str(tmp_path)})
    with engine:
        futures = [engine.submit(bodies.same, i) for i in range(10)]
        for future in futures:
            with pytest.raises(WorkerLostError, match=r"died as they started.*exit code 77"):
                future.result(DEADLINE_S)
        wait_until(lambda: executor.worker_pids() == [], DEADLINE_S)
        with pytest.raises(WorkerLostError, match="died as they started"):
            engine.submit(bodies.same, 1).result(DEADLINE_S)
    capfd.readouterr()


def test_a_python_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = start()
    with engine:
        monkeypatch.setattr(sys, "executable", "/no/such/python")
        with pytest.raises(WorkerLostError, match=r"cannot start a worker.*/no/such/python"):
            engine.submit(bodies.same, 1).result(DEADLINE_S)


# -- what cannot be sent ------------------------------------------------------------------


def test_an_argument_that_cannot_be_pickled_fails_its_task_alone(
    one: tuple[Engine, LocalExecutor],
) -> None:
    engine, _ = one
    bad = [
        engine.submit(bodies.same, bodies.Refuses()),
        engine.submit(bodies.same, value=bodies.Refuses()),
        engine.submit(bodies.same, threading.Lock()),
    ]
    good = engine.submit(bodies.same, [1])
    with pytest.raises(SerializationError, match=r"argument 0 \(a Refuses\).*I stay here"):
        bad[0].result(DEADLINE_S)
    with pytest.raises(SerializationError, match="argument 'value'"):
        bad[1].result(DEADLINE_S)
    with pytest.raises(SerializationError, match="lock"):
        bad[2].result(DEADLINE_S)
    assert good.result(DEADLINE_S) == [1]


def test_an_argument_whose_pickling_exits_is_no_harm(one: tuple[Engine, LocalExecutor]) -> None:
    engine, _ = one
    with pytest.raises(SerializationError, match="SystemExit"):
        engine.submit(bodies.same, bodies.ExitsWhenPickled()).result(DEADLINE_S)
    assert engine.submit(bodies.same, 2).result(DEADLINE_S) == 2


def test_an_argument_that_cannot_be_loaded_raises_in_the_task(
    one: tuple[Engine, LocalExecutor],
) -> None:
    engine, _ = one
    with pytest.raises(OSError, match="I do not come"):
        engine.submit(bodies.same, bodies.RefusesToLoad()).result(DEADLINE_S)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("refuses", "I stay here"), ("load", "I do not come"), ("exit", "SystemExit")],
)
def test_a_result_that_cannot_come(one: tuple[Engine, LocalExecutor], kind: str, text: str) -> None:
    engine, executor = one
    with pytest.raises((SerializationError, RuntimeError), match=text):
        engine.submit(bodies.make, kind).result(DEADLINE_S)
    assert engine.submit(bodies.same, 3).result(DEADLINE_S) == 3
    assert len(executor.worker_pids()) == 1


def test_an_exception_with_another_init_arrives_whole(one: tuple[Engine, LocalExecutor]) -> None:
    engine, _ = one
    with pytest.raises(bodies.OddError) as caught:
        engine.submit(bodies.raise_odd).result(DEADLINE_S)
    assert (caught.value.code, caught.value.where) == (7, "there")
    trace = caught.value.__traceback__
    names = set()
    while trace is not None:
        names.add(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert "raise_odd" in names


def test_causes_and_notes_arrive(one: tuple[Engine, LocalExecutor]) -> None:
    engine, _ = one
    with pytest.raises(ValueError, match="outer") as caught:
        engine.submit(bodies.raise_chained).result(DEADLINE_S)
    cause = caught.value.__cause__
    assert isinstance(cause, bodies.OddError)
    assert cause.__notes__ == ["a note"]


def test_an_exception_that_cannot_be_pickled_comes_as_text(
    one: tuple[Engine, LocalExecutor],
) -> None:
    engine, _ = one
    with pytest.raises(RemoteError, match=r"held.*LockedError") as caught:
        engine.submit(bodies.raise_locked).result(DEADLINE_S)
    assert "raise_locked" in caught.value.traceback_text


@pytest.mark.parametrize("argument", [0, 3, "bye", None, bodies.Refuses()])
def test_system_exit_ends_the_task_and_not_the_worker(
    one: tuple[Engine, LocalExecutor], argument: object
) -> None:
    engine, executor = one
    pid = engine.submit(bodies.pid_of).result(DEADLINE_S)
    if isinstance(argument, bodies.Refuses):
        future = engine.submit(eval, "(_ for _ in ()).throw(SystemExit(object()))")
    else:
        future = engine.submit(bodies.raise_system_exit, argument)
    with pytest.raises(RuntimeError, match="the task raised SystemExit"):
        future.result(DEADLINE_S)
    assert engine.submit(bodies.pid_of).result(DEADLINE_S) == pid
    assert executor.worker_pids() == [pid]


# -- children -----------------------------------------------------------------------------


def children_of(pids: Path) -> list[psutil.Process]:
    def all_noted() -> bool:
        return pids.exists() and pids.read_text().count("\n") == 3

    wait_until(all_noted, DEADLINE_S, "the task has started its children")
    return [psutil.Process(int(line)) for line in pids.read_text().split()]


def all_gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def test_cancel_kills_the_children_of_the_task(
    one: tuple[Engine, LocalExecutor], gate: Gate, tmp_path: Path
) -> None:
    engine, _ = one
    task = engine.submit(bodies.start_children, str(tmp_path / "pids"), gate.path)
    children = children_of(tmp_path / "pids")
    assert task.cancel()
    wait_until(lambda: all_gone(children), 5.0, "the children are gone")
    assert task.state == TaskState.CANCELLED
    assert engine.submit(bodies.same, 1).result(DEADLINE_S) == 1


def test_walltime_kills_the_children_of_the_task(
    one: tuple[Engine, LocalExecutor], gate: Gate, tmp_path: Path
) -> None:
    engine, _ = one
    engine.submit(bodies.pid_of).result(DEADLINE_S)
    task = with_walltime(engine, bodies.start_children, 2.0, str(tmp_path / "pids"), gate.path)
    children = children_of(tmp_path / "pids")
    with pytest.raises(WalltimeExceededError):
        task.result(DEADLINE_S)
    wait_until(lambda: all_gone(children), 5.0, "the children are gone")


def test_walltime_counts_from_the_start_of_the_task_not_of_the_queue(
    one: tuple[Engine, LocalExecutor], gate: Gate
) -> None:
    engine, _ = one
    for future in [engine.submit(bodies.same, i) for i in range(100)]:
        future.result(DEADLINE_S)
    first = engine.submit(bodies.pause, 0.6)
    second = with_walltime(engine, bodies.same, 0.3, "in time")
    third = with_walltime(engine, bodies.hold, 0.3, gate.path)
    fourth = engine.submit(bodies.same, "behind")
    assert second.result(DEADLINE_S) == "in time"
    with pytest.raises(WalltimeExceededError, match=r"walltime of 0\.3 s"):
        third.result(DEADLINE_S)
    assert fourth.result(DEADLINE_S) == "behind"
    assert first.done()


def test_the_count_of_timed_tasks_returns_to_zero(
    pool: tuple[Engine, LocalExecutor], gate: Gate
) -> None:
    engine, executor = pool
    futures = [with_walltime(engine, bodies.same, 60.0, i) for i in range(300)]
    futures.append(with_walltime(engine, bodies.same, 60.0, bodies.Refuses()))
    futures.append(with_walltime(engine, bodies.exit_at_once, 60.0, 1))
    futures.append(with_walltime(engine, bodies.hold, 0.2, gate.path))
    held = with_walltime(engine, bodies.hold, 60.0, gate.path + "2")
    os.mkfifo(gate.path + "2")
    futures += [with_walltime(engine, bodies.same, 60.0, i) for i in range(50)]
    held.cancel()
    for future in futures[:300]:
        future.exception(DEADLINE_S)
    for future in futures[300:]:
        future.exception(DEADLINE_S)
    assert executor._hub is not None
    hub = executor._hub
    wait_until(lambda: hub.timed == 0, 5.0, "no timed task is left")


# -- uneven tasks -------------------------------------------------------------------------


def test_all_tasks_behind_a_slow_one_go_to_the_idle_worker(
    pool: tuple[Engine, LocalExecutor], gate: Gate, tmp_path: Path
) -> None:
    engine, executor = pool
    notes = tmp_path / "notes"
    warm_up(engine, executor, gate)
    for future in [engine.submit(bodies.same, i) for i in range(2000)]:
        future.result(DEADLINE_S)
    slow = engine.submit(bodies.hold, gate.path, "slow")
    quick = [engine.submit(bodies.note, str(notes), str(i)) for i in range(300)]
    # The gate stays shut until all of them are done: none may be stuck behind it.
    assert [f.result(DEADLINE_S) for f in quick] == [str(i) for i in range(300)]
    assert not slow.done()
    gate.open()
    assert slow.result(DEADLINE_S) == "slow"
    assert lines(notes) == Counter(str(i) for i in range(300))


def test_a_stuck_worker_and_an_idle_one_cost_little(
    pool: tuple[Engine, LocalExecutor], gate: Gate
) -> None:
    engine, executor = pool
    warm_up(engine, executor, gate)
    slow = engine.submit(bodies.hold, gate.path)
    for future in [engine.submit(bodies.same, i) for i in range(100)]:
        future.result(DEADLINE_S)
    hub = executor._hub
    assert hub is not None
    wait_until(lambda: not hub._poll.closed and bool(hub._hungry), DEADLINE_S)
    before = time.thread_time(), time.process_time()
    threading.Event().wait(0.5)
    used = time.process_time() - before[1]
    assert used < 0.05, f"{used:.3f} s of CPU in 0.5 s of waiting"
    gate.open()
    slow.result(DEADLINE_S)


def test_cancel_of_a_queued_task_does_not_harm_its_neighbours(
    one: tuple[Engine, LocalExecutor], gate: Gate, tmp_path: Path
) -> None:
    engine, executor = one
    notes = tmp_path / "notes"
    for future in [engine.submit(bodies.same, i) for i in range(500)]:
        future.result(DEADLINE_S)
    pid = executor.worker_pids()[0]
    engine.submit(bodies.hold, gate.path)
    queued = [engine.submit(bodies.note, str(notes), str(i)) for i in range(100)]
    gate.wait()
    assert all(future.cancel() for future in queued[::2])
    gate.open()
    for i, future in enumerate(queued):
        assert future.cancelled() if i % 2 == 0 else future.result(DEADLINE_S) == str(i)
    assert lines(notes) == Counter(str(i) for i in range(1, 100, 2))
    assert executor.worker_pids() == [pid]


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.002, 0.004])
def test_a_task_cancelled_as_it_ends_takes_nobody_along(
    one: tuple[Engine, LocalExecutor], seconds: float, tmp_path: Path
) -> None:
    engine, _ = one
    notes = tmp_path / "notes"
    expected: Counter[str] = Counter()
    for round_ in range(15):
        victim = engine.submit(bodies.pause, seconds)
        others = [engine.submit(bodies.note, str(notes), f"{round_} {i}") for i in range(20)]
        expected.update(f"{round_} {i}" for i in range(20))
        wait_until(functools.partial(begun, victim), DEADLINE_S)
        victim.cancel()
        for other in others:
            other.result(DEADLINE_S)
    assert lines(notes) == expected


# -- large values -------------------------------------------------------------------------


def test_many_large_arrays_both_ways(pool: tuple[Engine, LocalExecutor]) -> None:
    engine, _ = pool
    arrays = [np.full(10_000_000 // 8, float(i)) for i in range(4)]
    futures = [engine.submit(bodies.double, arrays[i % 4]) for i in range(100)]
    for i, future in enumerate(futures):
        assert future.result(DEADLINE_S)[-1] == 2.0 * (i % 4)


def test_large_arrays_by_socket_do_not_block_either_side() -> None:
    engine, executor = start(2, threshold_bytes=1 << 40)
    with engine:
        array = np.ones(10_000_000 // 8)
        futures = [engine.submit(bodies.double, array) for _ in range(60)]
        assert all(f.result(DEADLINE_S)[0] == 2.0 for f in futures)
    assert executor.worker_pids() == []


def test_a_result_outlives_its_worker(one: tuple[Engine, LocalExecutor]) -> None:
    engine, executor = one
    held = engine.submit(bodies.filled, 3.0, MIB)
    held.exception(DEADLINE_S)
    dropped = [engine.submit(bodies.filled, 1.0, MIB) for _ in range(5)]
    for future in dropped:
        future.exception(DEADLINE_S)
    del dropped, future
    os.kill(executor.worker_pids()[0], signal.SIGKILL)
    folder = executor._folder
    assert folder is not None

    def left() -> int:
        return sum(name.startswith("w1-") for name in os.listdir(folder))

    wait_until(lambda: left() == 1, 5.0, "only the segment in use stays")
    assert held.result()[0] == 3.0
    # As an argument it still travels by reference, to the new worker.
    assert engine.submit(bodies.first_and_sum, held).result(DEADLINE_S) == (3.0, 3.0 * MIB)
    del held
    wait_until(lambda: left() == 0, 5.0, "the segment is removed with its last reader")


def test_a_result_outlives_its_engine() -> None:
    engine, executor = start(1)
    with engine:
        future = engine.submit(bodies.filled, 4.0, MIB)
    assert executor._folder is None
    first, second = future.result(), future.result()
    assert first[0] == 4.0
    first[:] = 0
    assert second.sum() == 4.0 * MIB
    other, _ = start(1)
    with other:
        assert other.submit(bodies.first_and_sum, future).result(DEADLINE_S)[0] == 4.0


def test_two_thousand_large_results_at_once(pool: tuple[Engine, LocalExecutor]) -> None:
    engine, _ = pool
    before = len(os.listdir("/proc/self/fd"))
    futures = [engine.submit(bodies.filled, float(i), MIB // 8) for i in range(2000)]
    values = [future.result(DEADLINE_S) for future in futures]
    assert [v[-1] for v in values] == [float(i) for i in range(2000)]
    assert len(os.listdir("/proc/self/fd")) < before + 50, "a mapping holds no descriptor"


def test_segments_are_used_again(one: tuple[Engine, LocalExecutor]) -> None:
    engine, executor = one
    array = np.ones(MIB)
    for _ in range(200):
        assert engine.submit(bodies.double, array).result(DEADLINE_S)[0] == 2.0
    assert executor._folder is not None
    assert len(os.listdir(executor._folder)) < 90


def test_segments_of_failed_and_skipped_tasks_come_back(
    one: tuple[Engine, LocalExecutor], gate: Gate
) -> None:
    engine, executor = one
    shared = engine.submit(bodies.filled, 1.0, MIB)
    shared.exception(DEADLINE_S)
    array = np.ones(MIB // 4)
    # Loading fails before the segments are reached, and after.
    for future in [
        *(engine.submit(bodies.pair, bodies.RefusesToLoad(), shared) for _ in range(5)),
        *(engine.submit(bodies.pair, array, bodies.RefusesToLoad()) for _ in range(5)),
        *(engine.submit(bodies.raise_odd, shared, array) for _ in range(5)),
    ]:
        assert future.exception(DEADLINE_S) is not None
    for future in [engine.submit(bodies.same, i) for i in range(500)]:
        future.result(DEADLINE_S)
    slow = engine.submit(bodies.hold, gate.path)
    skipped = [engine.submit(bodies.pair, shared, array) for _ in range(5)]
    gate.wait()
    for future in skipped:
        assert future.cancel()
    gate.open()
    slow.result(DEADLINE_S)
    hub = executor._hub
    assert hub is not None
    wait_until(
        lambda: (
            engine.submit(bodies.same, 0).result(DEADLINE_S) == 0
            and not any(link.leases for link in hub.links)
        ),
        DEADLINE_S,
        "no lease is left",
    )
    del skipped, future
    # All views are gone: the result's segment goes back to the worker.
    del shared
    assert not hub.lent._handles


def test_leases_of_main_arguments_are_counted_once(one: tuple[Engine, LocalExecutor]) -> None:
    """Arguments with a class by value are pickled twice."""
    engine, executor = one
    shared = engine.submit(bodies.filled, 1.0, MIB)
    shared.exception(DEADLINE_S)
    engine.submit(bodies.pair, shared, lambda: 1).result(DEADLINE_S)
    hub = executor._hub
    assert hub is not None
    wait_until(
        lambda: (
            engine.submit(bodies.same, 0).result(DEADLINE_S) == 0
            and not any(link.leases for link in hub.links)
        ),
        DEADLINE_S,
        "no lease is left",
    )


def test_the_same_array_comes_back(pool: tuple[Engine, LocalExecutor]) -> None:
    engine, _ = pool
    for size in (10, 5_000, 50_000, MIB):
        array = np.arange(size, dtype=float)
        back = engine.submit(bodies.same, array).result(DEADLINE_S)
        assert back is not array
        assert np.array_equal(back, array)
        again = engine.submit(bodies.same, engine.submit(bodies.same, array)).result(DEADLINE_S)
        assert np.array_equal(again, array)


@pytest.mark.parametrize("size", [100, 50_000, MIB])
def test_a_task_that_changes_its_argument_changes_nobody_elses(
    pool: tuple[Engine, LocalExecutor], size: int
) -> None:
    engine, _ = pool
    array = np.ones(size)
    future = engine.submit(bodies.same, array)
    for _ in range(3):
        assert engine.submit(bodies.spoil, future).result(DEADLINE_S) == size
        assert engine.submit(bodies.spoil, array).result(DEADLINE_S) == size
    assert future.result().sum() == size
    assert array.sum() == size


def test_each_look_at_a_large_result_is_a_copy_of_its_own(
    one: tuple[Engine, LocalExecutor],
) -> None:
    engine, _ = one
    future = engine.submit(bodies.filled, 1.0, MIB)
    future.result(DEADLINE_S)[:] = 5
    assert future.result().sum() == MIB
    assert engine.submit(bodies.first_and_sum, future).result(DEADLINE_S)[0] == 1.0


def test_a_worker_that_dies_with_a_large_argument(one: tuple[Engine, LocalExecutor]) -> None:
    engine, executor = one
    array = np.ones(MIB)
    for _ in range(3):
        with pytest.raises(WorkerLostError):
            engine.submit(bodies.die_holding, array).result(DEADLINE_S)
    assert engine.submit(bodies.first_and_sum, array).result(DEADLINE_S) == (1.0, float(MIB))
    assert executor._folder is not None
    assert len(os.listdir(executor._folder)) <= 2


# -- forks, threads, streams ----------------------------------------------------------------


def test_a_child_that_stays_does_not_hide_the_death_of_its_worker(
    one: tuple[Engine, LocalExecutor], gate: Gate, tmp_path: Path
) -> None:
    engine, executor = one
    child = psutil.Process(
        engine.submit(bodies.fork_child_that_stays, gate.path).result(DEADLINE_S)
    )
    inner = Gate(tmp_path / "inner")
    task = engine.submit(bodies.hold, inner.path)
    inner.wait()
    os.kill(executor.worker_pids()[0], signal.SIGKILL)
    with pytest.raises(WorkerLostError):
        task.result(DEADLINE_S)
    wait_until(lambda: all_gone([child]), 5.0, "the child is gone too")


def test_a_forked_child_that_returns_from_the_task_is_ended(
    one: tuple[Engine, LocalExecutor], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    engine, executor = one
    notes = tmp_path / "notes"
    for future in [engine.submit(bodies.same, i) for i in range(100)]:
        future.result(DEADLINE_S)
    forking = engine.submit(bodies.fork_and_return, str(notes))
    behind = [engine.submit(bodies.note, str(notes), f"behind {i}") for i in range(20)]
    assert forking.result(DEADLINE_S) == executor.worker_pids()[0]
    for future in behind:
        future.result(DEADLINE_S)
    assert lines(notes) == Counter(["child returned", *(f"behind {i}" for i in range(20))])
    assert "returning from it" in capfd.readouterr().err


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_in_a_task(one: tuple[Engine, LocalExecutor], method: str) -> None:
    engine, _ = one
    assert engine.submit(bodies.use_multiprocessing, method).result(DEADLINE_S) == [1, 2, 3]


def test_threads_left_behind_do_not_keep_the_worker(tmp_path: Path) -> None:
    engine, executor = start(1)
    with engine:
        engine.submit(bodies.leave_thread, str(tmp_path / "notes")).result(DEADLINE_S)
        worker = psutil.Process(executor.worker_pids()[0])
    assert all_gone([worker])


def test_what_tasks_print_appears(
    one: tuple[Engine, LocalExecutor], capfd: pytest.CaptureFixture[str]
) -> None:
    engine, _ = one
    engine.submit(bodies.print_lines, 100).result(DEADLINE_S)
    with pytest.raises(WorkerLostError):
        engine.submit(bodies.print_and_die).result(DEADLINE_S)
    out = capfd.readouterr().out.splitlines()
    assert out == [*(f"line {i} of a task" for i in range(100)), "last words"]


def test_a_task_may_close_stdout(one: tuple[Engine, LocalExecutor]) -> None:
    engine, _ = one
    pid = engine.submit(bodies.pid_of).result(DEADLINE_S)
    engine.submit(bodies.close_stdout).result(DEADLINE_S)
    assert engine.submit(bodies.pid_of).result(DEADLINE_S) == pid


def test_a_flood_on_stderr(
    one: tuple[Engine, LocalExecutor], capfd: pytest.CaptureFixture[str]
) -> None:
    engine, _ = one
    assert engine.submit(bodies.write_stderr, 5 * MIB).result(DEADLINE_S) == 5 * MIB
    assert len(capfd.readouterr().err) >= 5 * MIB


# -- the hub itself ---------------------------------------------------------------------------


def test_a_callback_that_waits_for_another_task_is_refused(
    one: tuple[Engine, LocalExecutor], gate: Gate
) -> None:
    engine, _ = one
    told: list[BaseException | None] = []
    called = threading.Event()
    first = engine.submit(bodies.hold, gate.path)
    second = engine.submit(bodies.same, 2)

    def callback(_: object) -> None:
        try:
            engine.submit(bodies.same, 3).result()
        except ssdag.errors.WouldDeadlockError as error:
            told.append(error)
        called.set()

    first.add_done_callback(callback)
    gate.open()
    assert called.wait(DEADLINE_S)
    assert told, "result() in a callback raises"
    assert second.result(DEADLINE_S) == 2


def test_callbacks_that_exit_or_close_the_engine(gate: Gate) -> None:
    engine, executor = start(1)
    first = engine.submit(bodies.hold, gate.path)
    ended = threading.Event()

    def close(_: object) -> None:
        engine.close()
        ended.set()

    first.add_done_callback(lambda _: sys.exit(3))
    first.add_done_callback(close)
    gate.open()
    assert ended.wait(DEADLINE_S)
    assert engine.closed
    wait_until(lambda: executor.worker_pids() == [], DEADLINE_S)


def test_a_hub_that_fails_fails_its_tasks(
    one: tuple[Engine, LocalExecutor],
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine, executor = one
    running = engine.submit(bodies.hold, gate.path)
    gate.wait()
    queued = [engine.submit(bodies.same, i) for i in range(5)]

    def explode() -> None:
        raise RuntimeError("a bug")

    assert executor._hub is not None
    executor._hub.call(explode)
    for future in [running, *queued, engine.submit(bodies.same, 1)]:
        with pytest.raises(WorkerLostError, match="a bug"):
            future.result(DEADLINE_S)
    executor._hub.join(DEADLINE_S)
    with pytest.raises(WorkerLostError, match="a bug"):
        engine.submit(bodies.same, 1).result(DEADLINE_S)
    assert running.cancel() is False
    assert "the hub of executor 'local' failed" in caplog.text


def test_dependents_of_a_lost_task_say_why(one: tuple[Engine, LocalExecutor]) -> None:
    engine, _ = one
    child = engine.submit(bodies.same, engine.submit(bodies.exit_at_once, 4))
    with pytest.raises(DependencyError) as caught:
        child.result(DEADLINE_S)
    assert isinstance(caught.value.root_cause, WorkerLostError)


def test_closing_while_other_threads_submit(gate: Gate) -> None:
    engine, _ = start(2)
    futures: list[AppFuture[Any]] = []
    refused = threading.Barrier(4)

    def submit() -> None:
        while True:
            try:
                futures.append(engine.submit(bodies.same, len(futures)))
            except ssdag.errors.EngineClosedError:
                break
        refused.wait(DEADLINE_S)

    threads = [threading.Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(futures) > 500, DEADLINE_S)
    engine.close()
    refused.wait(DEADLINE_S)
    for thread in threads:
        thread.join(DEADLINE_S)
    assert all(future.done() for future in futures)
    ends = Counter(future.state for future in futures)
    assert set(ends) <= {TaskState.DONE, TaskState.CANCELLED}


def test_two_engines_leave_the_switch_interval_as_it_was() -> None:
    before = sys.getswitchinterval()
    first, _ = start(1)
    second, _ = start(1)
    assert sys.getswitchinterval() < before or before <= 0.0005
    first.close()
    assert sys.getswitchinterval() <= 0.0005 + 1e-9
    second.close()
    assert sys.getswitchinterval() == pytest.approx(before)


def test_a_folder_added_to_the_path_later_is_known_to_old_workers(
    one: tuple[Engine, LocalExecutor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = one
    engine.submit(bodies.same, 1).result(DEADLINE_S)
    (tmp_path / "module_added_later.py").write_text("def answer():\n    return 42\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import module_added_later  # type: ignore[import-not-found]

    assert engine.submit(module_added_later.answer).result(DEADLINE_S) == 42
