# SPDX-License-Identifier: BSD-3-Clause
"""Stored values that are lost: made again where that is allowed, else a clear error."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ssdag
from ssdag.connectors.directory import DirectoryConnector
from ssdag.connectors.stored import StoredValue
from ssdag.executors import LocalExecutor, PilotExecutor, ThreadExecutor
from ssdag.providers.local import LocalProvider
from tests.conftest import wait_until
from tests.integration import value_bodies as bodies
from tests.integration.value_bodies import lose, stored

if TYPE_CHECKING:
    from pathlib import Path

    from ssdag.executors.base import Executor

N = 125_000
DEADLINE_S = 30.0


@pytest.fixture
def folder(tmp_path: Path) -> DirectoryConnector:
    return DirectoryConnector(tmp_path / "store")


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """A file in which bodies leave a mark for each run."""
    path = tmp_path / "marks"
    path.touch()
    return path


def load(store: Any, *executors: Executor, retries: int = 1) -> Any:
    return ssdag.load(ssdag.Config(executors=executors, store=store, retries=retries))


def pilot(folder: Path) -> PilotExecutor:
    return PilotExecutor(LocalProvider(), workers_per_node=2, cores_per_worker=0.1,
                         run_dir=folder / "runs")  # fmt: skip


def local_app(body: Any, store: Any, **options: Any) -> Any:
    """An app whose results are stored also by local workers, which start quickly."""
    return ssdag.python_app(store=store, **options)(body)


def test_a_lost_argument_is_made_again(
    folder: DirectoryConnector, marks: Path, tmp_path: Path
) -> None:
    with load(folder, pilot(tmp_path)) as engine:
        made = engine.submit(bodies.note, str(marks), N)
        engine.wait()
        key = made._result.key
        lose(folder)
        sums = [engine.submit(bodies.total, made) for _ in range(4)]
        assert [future.result(DEADLINE_S) for future in sums] == [N] * 4
        assert marks.read_text() == "xx"
        assert type(made._result) is StoredValue
        assert made._result.key != key
        assert made.result()[3] == 1.0
        del made, sums
        wait_until(lambda: not stored(folder), 10, "it is deleted")


def test_a_lost_result_is_made_again_for_the_user(folder: DirectoryConnector, marks: Path) -> None:
    with load(None, LocalExecutor(1)) as engine:
        made = local_app(bodies.note, folder)(str(marks), N)
        engine.wait()
        lose(folder)
        assert made.result(DEADLINE_S)[3] == 1.0
        assert made.result(DEADLINE_S)[3] == 1.0
    assert marks.read_text() == "xx"
    assert made.result()[3] == 1.0


def test_a_cached_app_makes_its_result_again_and_remembers_the_new_one(
    folder: DirectoryConnector, marks: Path
) -> None:
    with load(None, LocalExecutor(1), retries=0) as engine:
        note = local_app(bodies.note, folder, cache=True)
        made = note(str(marks), N)
        engine.wait()
        lose(folder)
        assert engine.submit(bodies.total, note(str(marks), N)).result(DEADLINE_S) == N
        assert note(str(marks), N).result(DEADLINE_S)[0] == 1.0
        assert made.result(DEADLINE_S)[0] == 1.0
    assert marks.read_text() == "xx"


def test_a_cached_app_with_a_lost_argument_waits_for_it(
    folder: DirectoryConnector, marks: Path
) -> None:
    with load(None, LocalExecutor(1), retries=1) as engine:
        made = local_app(bodies.note, folder)(str(marks), N)
        total = ssdag.python_app(cache=True)(bodies.total)
        engine.wait()
        lose(folder)
        assert [total(made).result(DEADLINE_S) for _ in range(2)] == [N, N]
    assert marks.read_text() == "xx"


def test_inputs_that_were_freed_are_made_again_too(folder: DirectoryConnector, marks: Path) -> None:
    with load(None, LocalExecutor(1)) as engine:
        made = local_app(bodies.note, folder)(str(marks), N)
        double = local_app(bodies.note_and_double, folder)
        end = double(str(marks), double(str(marks), made))
        engine.wait()
        del made
        wait_until(lambda: len(stored(folder)) == 1, 10, "inputs are freed")
        lose(folder)
        assert engine.submit(bodies.total, end).result(DEADLINE_S) == 4 * N
        assert marks.read_text() == "x" * 6
        wait_until(lambda: len(stored(folder)) == 1, 10, "they are again")


def test_inputs_that_are_lost_as_well_are_made_again_once(
    folder: DirectoryConnector, marks: Path
) -> None:
    with load(None, LocalExecutor(2)) as engine:
        made = local_app(bodies.note, folder)(str(marks), N)
        doubled = [local_app(bodies.double, folder)(made) for _ in range(3)]
        engine.wait()
        lose(folder)
        sums = [engine.submit(bodies.total, future) for future in doubled]
        assert [future.result(DEADLINE_S) for future in sums] == [2 * N] * 3
    assert marks.read_text() == "xx"


def test_what_may_not_be_run_again_is_a_clear_error(
    folder: DirectoryConnector, marks: Path
) -> None:
    with load(None, LocalExecutor(1), retries=0) as engine:
        made = local_app(bodies.note, folder)(str(marks), N)
        engine.wait()
        lose(folder)
        with pytest.raises(ssdag.LostValueError, match="retries or cache=True") as caught:
            engine.submit(bodies.total, made).result(DEADLINE_S)
        assert caught.value.key == made._result.key
        with pytest.raises(ssdag.MissingDataError, match="retries or cache=True"):
            made.result(DEADLINE_S)
    assert marks.read_text() == "x"


def test_a_lost_argument_that_the_driver_has_is_sent_again(
    folder: DirectoryConnector, tmp_path: Path
) -> None:
    with load(folder, pilot(tmp_path), retries=0) as engine:
        array = np.full(N, 1.0)
        held, gone = engine.put(array), engine.put(bytes(8 * N))
        lose(folder)
        assert engine.submit(bodies.total, held).result(DEADLINE_S) == N
        assert held.result()[0] == 1.0
        with pytest.raises(ssdag.LostValueError):
            engine.submit(bodies.size, gone).result(DEADLINE_S)


def test_heavy_arguments_are_not_kept_to_make_a_value_again(folder: DirectoryConnector) -> None:
    with load(None, LocalExecutor(1)) as engine:
        made = local_app(bodies.double, folder)(np.full(N, 1.0))
        engine.wait()
        lose(folder)
        with pytest.raises(ssdag.LostValueError, match="small arguments"):
            engine.submit(bodies.total, made).result(DEADLINE_S)


def test_a_value_that_is_lost_all_the_time_is_given_up(tmp_path: Path, marks: Path) -> None:
    store = bodies.Forgetful(str(tmp_path / "store"))
    with load(None, LocalExecutor(1)) as engine:
        made = local_app(bodies.note, store)(str(marks), N)
        with pytest.raises(ssdag.LostValueError, match="again 3 times"):
            engine.submit(bodies.total, made).result(DEADLINE_S)
    assert marks.read_text() == "x" * 4


def test_the_error_of_the_second_run_is_told(folder: DirectoryConnector, marks: Path) -> None:
    with load(None, LocalExecutor(1)) as engine:
        made = local_app(bodies.fail_second_time, folder, retries=1)(str(marks), N)
        engine.wait()
        lose(folder)
        with pytest.raises(ssdag.LostValueError, match="making it again failed") as caught:
            engine.submit(bodies.total, made).result(DEADLINE_S)
        assert str(caught.value.__cause__) == "not again"


def test_one_thread_that_needs_a_lost_value_of_its_own_does_not_wait_for_itself(
    folder: DirectoryConnector, marks: Path
) -> None:
    with load(None, ThreadExecutor(1)) as engine:
        made = local_app(bodies.note, folder)(str(marks), N)
        engine.wait()
        lose(folder)
        assert engine.submit(bodies.total, made).result(DEADLINE_S) == N
        lose(folder)
        assert made[3].result(DEADLINE_S) == 1.0
    assert marks.read_text() == "xxx"


@pytest.mark.parametrize("retries", [0, 1])
def test_a_body_that_meets_a_lost_value_is_run_again_as_retries_say(
    folder: DirectoryConnector, marks: Path, tmp_path: Path, retries: int
) -> None:
    late = tmp_path / "late"
    with load(None, LocalExecutor(1), retries=0) as engine:
        made = local_app(bodies.note, folder, cache=True)(str(marks), N)
        engine.wait()
        lose(folder)
        used = ssdag.python_app(lazy=True, retries=retries)(bodies.use_late)(str(late), made)
        if retries:
            assert used.result(DEADLINE_S) == N
        else:
            with pytest.raises(ssdag.LostValueError):
                used.result(DEADLINE_S)
    assert late.read_text() == "x" * (1 + retries)


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_a_task_that_waits_for_a_lost_value_can_be_ended(
    folder: DirectoryConnector, marks: Path, tmp_path: Path, end: str
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    with load(None, LocalExecutor(2)) as engine:
        made = local_app(bodies.hold_second_time, folder)(str(marks), str(gate), N)
        engine.wait()
        lose(folder)
        waits = engine.submit(bodies.total, made)
        wait_until(lambda: marks.read_text() == "xx", DEADLINE_S, "it is being made again")
        if end == "cancel":
            assert waits.cancel()
            gate.unlink()
            assert made.result(DEADLINE_S)[0] == 1.0
        else:
            engine.close()
            with pytest.raises(ssdag.EngineClosedError):
                waits.result(DEADLINE_S)


def test_a_user_who_waits_for_a_lost_value_hears_of_the_end_of_the_engine(
    folder: DirectoryConnector, marks: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    errors: list[BaseException] = []
    with load(None, LocalExecutor(1)) as engine:
        made = local_app(bodies.hold_second_time, folder)(str(marks), str(gate), N)
        engine.wait()
        lose(folder)

        def ask() -> None:
            try:
                made.result()
            except BaseException as error:
                errors.append(error)

        user = threading.Thread(target=ask)
        user.start()
        wait_until(lambda: marks.read_text() == "xx", DEADLINE_S, "it is being made again")
        engine.close()
        user.join(DEADLINE_S)
    assert [type(error) for error in errors] == [ssdag.EngineClosedError]


# -- servers that die and hang ---------------------------------------------------------


def test_tasks_go_on_without_a_server_that_was_killed(tmp_path: Path, marks: Path) -> None:
    with load(db := ssdag.Orchestrator(), pilot(tmp_path), retries=2) as engine:
        made = engine.submit(bodies.note, str(marks), N)
        engine.wait()
        assert type(made._result) is StoredValue
        assert db.pid is not None
        os.kill(db.pid, signal.SIGKILL)
        assert engine.submit(bodies.total, made).result(DEADLINE_S) == N
        assert engine.submit(bodies.total, np.full(N, 1.0)).result(DEADLINE_S) == N
        assert engine.submit(bodies.total, engine.submit(bodies.make, N)).result(DEADLINE_S) == N
        assert made.result(DEADLINE_S)[0] == 1.0
    assert marks.read_text() == "xx"


def test_a_server_that_stands_still_for_a_moment_loses_nothing(tmp_path: Path, marks: Path) -> None:
    with load(db := ssdag.Orchestrator(), pilot(tmp_path), retries=0) as engine:
        made = engine.submit(bodies.note, str(marks), N)
        engine.wait()
        assert db.pid is not None
        os.kill(db.pid, signal.SIGSTOP)
        wake = threading.Timer(1.5, os.kill, (db.pid, signal.SIGCONT))
        wake.start()
        double = engine.submit(bodies.double, made)
        assert engine.submit(bodies.total, double).result(DEADLINE_S) == 2 * N
        wake.join()
    assert marks.read_text() == "x"
    assert made.result()[0] == 1.0


def test_a_server_that_stands_still_does_not_keep_an_engine_from_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ssdag.dataflow.values.PATIENCE_S", 0.5)
    with load(None, LocalExecutor(1)) as engine:
        db = ssdag.Orchestrator()  # it ends with the engine
        made, gone = (local_app(bodies.make, db)(N) for _ in range(2))
        engine.wait()
        assert db.pid is not None
        os.kill(db.pid, signal.SIGSTOP)
        del gone
    assert "has not answered" in caplog.text
    with pytest.raises(ssdag.LostValueError, match="gone with its engine"):
        made.result()


def test_a_worker_that_is_killed_while_it_holds_a_value_costs_a_retry(
    folder: DirectoryConnector, tmp_path: Path
) -> None:
    with load(folder, pilot(tmp_path), retries=1) as engine:
        made = engine.submit(bodies.make, N)
        with pytest.raises(ssdag.WorkerLostError):
            engine.submit(bodies.die_with, made).result(DEADLINE_S)
        assert engine.submit(bodies.total, made).result(DEADLINE_S) == N
        del made
        wait_until(lambda: not stored(folder), 10, "it is deleted")
