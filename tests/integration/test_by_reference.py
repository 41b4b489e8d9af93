# SPDX-License-Identifier: BSD-3-Clause
"""Large values that pass from task to task by a store, and not by the driver."""

from __future__ import annotations

import concurrent.futures as cf
import gc
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ssdag
from ssdag.cli.plan.recording import record
from ssdag.connectors.directory import DirectoryConnector
from ssdag.connectors.stored import StoredValue
from ssdag.executors import FuturesExecutor, LocalExecutor, PilotExecutor, ThreadExecutor
from ssdag.executors.pilot.switchboard import Switchboard
from ssdag.providers.local import LocalProvider
from ssdag.providers.slurm import SlurmProvider
from ssdag.wire import frames
from ssdag.wire.shared import Handle, SegmentPool, SharedValue
from tests.conftest import wait_until
from tests.integration import value_bodies as bodies
from tests.integration.pilots import environment
from tests.integration.servers import address_outside
from tests.integration.value_bodies import stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ssdag.connectors.base import Connector
    from ssdag.executors.base import Executor
    from tests.clusters.cluster import SlurmCluster

N = 125_000  # a megabyte
BYTES = 8 * N


def pilot(folder: Path, workers: int = 2) -> PilotExecutor:
    return PilotExecutor(
        LocalProvider(),
        workers_per_node=workers,
        cores_per_worker=0.1,
        run_dir=folder / "runs",
    )


def load(store: Any, *executors: Executor, **options: Any) -> Any:
    return ssdag.load(ssdag.Config(executors=executors, store=store, **options))


@pytest.fixture
def folder(tmp_path: Path) -> DirectoryConnector:
    return DirectoryConnector(tmp_path / "store")


@pytest.fixture(params=["folder", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    yield from a_store(request.param, tmp_path)


@pytest.fixture(params=["folder", "server", "redis-server", "none"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    yield from a_store(request.param, tmp_path)


def a_store(kind: str, folder: Path) -> Iterator[Any]:
    if kind.endswith("server"):
        if kind != "server" and shutil.which(kind) is None:
            pytest.skip(f"there is no {kind}")
        with ssdag.Orchestrator(server=None if kind == "server" else shutil.which(kind)) as db:
            yield db
    else:
        yield DirectoryConnector(folder / "store") if kind == "folder" else None


def is_empty(store: Connector) -> bool:
    gc.collect()
    return not store.keys()


# -- the way ---------------------------------------------------------------------------


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the bytes of each message between driver and managers."""
    passed = []
    send, messages = Switchboard.send, Switchboard.messages

    def count_sent(self: Switchboard, identity: bytes, parts: Any) -> bool:
        passed.append(sum(map(len, parts)))
        return send(self, identity, parts)

    def count_received(self: Switchboard) -> Iterator[Any]:
        for identity, parts in messages(self):
            passed.append(sum(map(len, parts)))
            yield identity, parts

    monkeypatch.setattr(Switchboard, "send", count_sent)
    monkeypatch.setattr(Switchboard, "messages", count_received)
    return passed


def test_a_chain_on_a_pilot_passes_by_the_driver(
    any_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = counting(monkeypatch)
    with load(any_store, pilot(tmp_path)) as engine:
        first = engine.submit(bodies.make, N)
        second = engine.submit(bodies.double, first)
        third = engine.submit(bodies.double, second)
        assert engine.submit(bodies.total, third).result() == 4 * N
        assert {type(f._result) for f in (first, second, third)} == {StoredValue}
    assert 0 < sum(passed) < BYTES / 10


@pytest.mark.parametrize("kind", ["folder", "server", "unasked"])
def test_nodes_of_a_cluster_hand_values_to_each_other(
    kind: str, tmp_path: Path, slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unasked, by an orchestrator that is started as a task needs it."""
    store: Any = DirectoryConnector(tmp_path / "store", scope="shared")
    db = None
    if kind == "server":
        store = ssdag.Orchestrator(interface=address_outside())
    elif kind == "unasked":
        store, db = None, ssdag.Orchestrator(interface=address_outside())
    passed = counting(monkeypatch)
    provider = SlurmProvider(walltime_s=600, nodes_per_block=2, init_blocks=1, max_blocks=1)
    executor = PilotExecutor(provider, workers_per_node=1, run_dir=tmp_path / "runs")
    with load(store, executor) as engine:
        doors = [str(tmp_path / str(i)) for i in range(2)]
        made = [engine.submit(bodies.meet_and_make, door, doors, N, db) for door in doors]
        ends = [engine.submit(bodies.nodes_of, made) for _ in range(2)]
        for end in ends:
            nodes, total = end.result(60)
            assert len(nodes) == 2
            assert total == 2 * N
        assert {type(future._result) for future in made} == {StoredValue}
    assert 0 < sum(passed) < BYTES / 10
    wait_until(lambda: not slurm.run("squeue", "-h"), 60, "no job is left")


def test_a_chain_on_local_workers_passes_by_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = []
    encode, parse = frames.encode, frames.FrameReader.take

    def count_sent(body: bytes, buffers: Any) -> Any:
        passed.append(len(body) + sum(map(len, buffers)))
        return encode(body, buffers)

    def count_received(self: frames.FrameReader) -> Any:
        frame = parse(self)
        if frame is not None:
            passed.append(len(frame.body) + sum(map(len, frame.buffers)))
        return frame

    def refuse(*args: Any) -> Any:
        raise AssertionError("the driver looks at a value")

    monkeypatch.setattr("ssdag.executors.local.dispatch.encode", count_sent)
    monkeypatch.setattr(frames.FrameReader, "take", count_received)
    with load(None, LocalExecutor(2)) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(Handle, "attach", refuse)
            patch.setattr(SegmentPool, "store", refuse)
            first = engine.submit(bodies.make, N)
            third = engine.submit(bodies.double, engine.submit(bodies.double, first))
            assert engine.submit(bodies.total, third).result() == 4 * N
        assert type(first._result) is SharedValue
        assert engine.submit(bodies.is_memory_of_this_machine, third).result()
    assert 0 < sum(passed) < BYTES / 10


def test_large_arguments_of_all_kinds_go_by_the_store(
    folder: DirectoryConnector, tmp_path: Path
) -> None:
    array = np.full(N, 1.0)
    with load(folder, pilot(tmp_path)) as engine:
        assert engine.submit(bodies.total, array).result() == N
        nested = engine.submit(bodies.totals, [array, np.ones(3)], more=2 * array)
        assert nested.result() == 3 * N + 3
        assert engine.submit(bodies.size, bytes(BYTES)).result() == BYTES
        pair = engine.submit(bodies.totals, [engine.submit(bodies.make, N), array])
        assert pair.result() == 2 * N
        assert {value.nbytes > BYTES for value in _live(engine)} <= {True}
        found = engine.submit(bodies.parts, N).result()
        assert (found["text"], found["many"][1][0]) == ("x" * N, 2.0)
        assert engine.submit(bodies.make_async, N).result()[5] == 1.0
        small = engine.submit(bodies.make, 10)
        assert small.result()[9] == 1.0
        assert type(small._result) is np.ndarray


def _live(engine: Any) -> list[StoredValue]:
    return [value for _, keeper in engine._values._keepers.values()
            for value in keeper.live.values()]  # fmt: skip


def test_what_was_put_once_serves_many_tasks(folder: DirectoryConnector, tmp_path: Path) -> None:
    with load(folder, pilot(tmp_path)) as engine:
        shared = engine.put(np.full(N, 1.0))
        assert len(stored(folder)) == 1
        assert [engine.submit(bodies.total, shared).result() for _ in range(3)] == [N] * 3
        assert len(stored(folder)) == 1
        assert shared.result()[0] == 1.0
        assert engine.put(5).result() == 5
        assert engine.put(np.arange(3)).result()[2] == 2
        del shared
        wait_until(lambda: not stored(folder), 10, "the value is deleted")
    with load(None, ThreadExecutor(1)) as engine:
        assert engine.submit(bodies.total, engine.put(np.full(N, 1.0))).result() == N
    with pytest.raises(ssdag.EngineClosedError):
        engine.put(1)


def test_a_result_of_local_workers_is_stored_once_for_all_who_are_elsewhere(
    folder: DirectoryConnector, tmp_path: Path
) -> None:
    local, far = LocalExecutor(1), pilot(tmp_path)
    with load(folder, local, far):
        make = ssdag.python_app(executors="local")(bodies.make)
        total = ssdag.python_app(executors="pilot")(bodies.total)
        made = make(N)
        assert [total(made).result() for _ in range(3)] == [N] * 3
        assert type(made._result) is SharedValue
        assert len(stored(folder)) == 1
        back = ssdag.python_app(executors="local")(bodies.total)
        assert back(ssdag.python_app(executors="pilot")(bodies.double)(made)).result() == 2 * N
        del made
        wait_until(lambda: not stored(folder), 10, "the values are deleted")


@pytest.mark.parametrize("kind", ["local", "threads"])
def test_an_app_may_have_a_store_of_its_own(folder: DirectoryConnector, kind: str) -> None:
    executor = LocalExecutor(1) if kind == "local" else ThreadExecutor(1)
    with load(None, executor) as engine:
        made = ssdag.python_app(store=folder)(bodies.make)(N)
        assert ssdag.python_app(bodies.total)(made).result() == N
        assert type(made._result) is StoredValue
        assert len(stored(folder)) == 1
        small = ssdag.python_app(store=folder)(bodies.parts)(5)
        assert small.result()["text"] == "xxxxx"
        with pytest.raises(ValueError, match=f"after {N}") as caught:
            ssdag.python_app(store=folder)(bodies.fail)(made).result()
        files = []
        trace = caught.value.__traceback__
        while trace is not None:
            files.append(trace.tb_frame.f_code.co_filename)
            trace = trace.tb_next
        assert not any(name.endswith("connectors/storing.py") for name in files)
        assert engine.open_tasks == 0


def test_an_app_may_refuse_the_store(folder: DirectoryConnector) -> None:
    with load(folder, FuturesExecutor(lambda: cf.ProcessPoolExecutor(1))):
        made = ssdag.python_app(store=False)(bodies.make)(N)
        assert made.result()[0] == 1.0
        assert type(made._result) is np.ndarray
        assert not stored(folder)
    with load(False, FuturesExecutor(lambda: cf.ProcessPoolExecutor(1))):
        made = ssdag.python_app(store=folder)(bodies.make)(N)
        assert made.result()[0] == 1.0
        assert type(made._result) is np.ndarray
        assert not stored(folder)


class Recipe:
    """Says that it is large, and is not."""

    nbytes = 1 << 40


def test_what_only_says_that_it_is_large_is_not_stored(folder: DirectoryConnector) -> None:
    with load(folder, FuturesExecutor(lambda: cf.ProcessPoolExecutor(1))) as engine:
        assert engine.submit(type, Recipe()).result() is Recipe
        assert not stored(folder)


SCRIPT = """
import ssdag
db = ssdag.Orchestrator()
make = ssdag.python_app(store=db)(lambda n: [n])
with ssdag.load(ssdag.Config(store=db)) as engine:
    make(3).result()
"""


def test_a_plan_needs_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # the script's folder comes first in it
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    found = record(script, [], ssdag.Config())
    assert found.ended == ""
    assert [planned.app for planned in found.executors[0].planned] == ["<lambda>"]


def test_pools_of_others_use_the_store(folder: DirectoryConnector) -> None:
    with load(folder, FuturesExecutor(lambda: cf.ProcessPoolExecutor(1))) as engine:
        made = engine.submit(bodies.make, N)
        assert engine.submit(bodies.total, engine.submit(bodies.double, made)).result() == 2 * N
        assert type(made._result) is StoredValue
        assert engine.submit(bodies.total, np.full(N, 1.0)).result() == N
    with load(None, FuturesExecutor(lambda: cf.ProcessPoolExecutor(1))) as engine:
        assert type((made := engine.submit(bodies.make, N)).result()) is np.ndarray
        assert type(made._result) is StoredValue  # by shared memory


def test_a_join_hands_a_stored_value_on_unseen(folder: DirectoryConnector) -> None:
    @ssdag.join_app
    def outer() -> Any:
        return ssdag.python_app(store=folder)(bodies.make)(N)

    with load(None, LocalExecutor(1)) as engine:
        joined = outer()
        assert engine.submit(bodies.total, joined).result() == N
        assert type(joined._result) is StoredValue
        assert joined[3].result() == 1.0
        assert joined.size.result() == N


# -- the end ---------------------------------------------------------------------------


def test_values_are_deleted_when_nothing_refers_to_them(store: Any) -> None:
    make = ssdag.python_app(store=store)(bodies.make)
    double = ssdag.python_app(store=store)(bodies.double)
    with load(None, LocalExecutor(1)) as engine:
        futures = [make(N) for _ in range(4)]
        engine.submit(bodies.totals, futures).result()
        ((_, keeper),) = engine._values._keepers.values()
        connector = keeper.place.connector
        assert len(connector.keys()) == 4
        del futures[0]
        wait_until(lambda: gc.collect() >= 0 and len(connector.keys()) == 3, 10, "one is deleted")
        engine.graph()
        chain = double(futures[0])
        del futures
        chain = engine.submit(bodies.total, chain)
        assert chain.result() == 2 * N
        wait_until(lambda: is_empty(connector), 10, "all are deleted")


def test_values_of_futures_in_use_outlive_their_engine(store: Any) -> None:
    make = ssdag.python_app(store=store)(bodies.make)
    with load(None, LocalExecutor(1)) as engine:
        made, gone = make(N), make(N)
        engine.wait()
        ((_, keeper),) = engine._values._keepers.values()
        connector = keeper.place.connector
        del gone
    if isinstance(store, DirectoryConnector):
        assert os.listdir(store.path) == [".parts"]
    else:
        assert is_empty(connector)
    assert made.result()[7] == 1.0
    made.result()[7] = 5
    assert made.result()[7] == 1.0


def test_too_much_for_the_driver_is_gone_with_the_engine_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ssdag.dataflow.values.KEEP_BYTES", 1000)
    store = bodies.HalfBlind(str(tmp_path / "store"), ())  # which is not mapped
    with load(None, LocalExecutor(1)) as engine:
        made = ssdag.python_app(store=store)(bodies.make)(N)
        engine.wait()
    assert "1 results" in caplog.text
    assert not store.keys()
    with pytest.raises(ssdag.MissingDataError, match="gone with its engine"):
        made.result()


def test_what_killed_attempts_have_stored_is_deleted_with_the_engine(store: Any) -> None:
    with load(None, LocalExecutor(1)) as engine:
        ssdag.python_app(store=store)(bodies.make)(N).result()
        ((_, keeper),) = engine._values._keepers.values()
        connector = keeper.place.connector
        connector.write(f"{keeper.prefix}0123", [b"of a worker that died before it could tell"])
        kept = store if isinstance(store, DirectoryConnector) else connector
        kept.write("somebody's", [b"own"])
    assert kept.keys() == ["somebody's"]
    if isinstance(store, DirectoryConnector):
        assert not stored(store)


KILLED = """
import os, signal, sys
import ssdag
from tests.integration import value_bodies as bodies
from tests.integration.test_by_reference import N
app = ssdag.python_app(store=sys.argv[1])(bodies.make)
made = app(N)
ssdag.load(ssdag.Config(executors=[ssdag.executors.LocalExecutor(1)]))
made = app(N)
made.result()
print(len(os.listdir(sys.argv[1])), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_driver_that_is_killed_leaves_no_values_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder)], env=environment(), capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    assert int(done.stdout) >= 2
    wait_until(lambda: os.listdir(folder) == [".parts"], 20, "the values are removed")


# -- stores that fail ------------------------------------------------------------------


@pytest.mark.parametrize("denied", ["write", "read"])
def test_what_workers_cannot_store_or_fetch_goes_by_the_driver(
    tmp_path: Path, denied: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = bodies.HalfBlind(str(tmp_path / "store"), (denied,))
    with load(store, pilot(tmp_path)) as engine:
        made = engine.submit(bodies.make, N)
        assert engine.submit(bodies.total, engine.submit(bodies.double, made)).result() == 2 * N
        assert engine.submit(bodies.total, np.full(N, 1.0)).result() == N
        assert made.result()[0] == 1.0
    if denied == "read":
        assert "goes by the driver" in caplog.text


def test_a_full_server_is_no_failure_of_tasks(tmp_path: Path) -> None:
    with (
        ssdag.Orchestrator(memory_limit_bytes=16 << 20) as db,
        load(db, pilot(tmp_path)) as engine,
    ):
        futures = [engine.submit(bodies.make, N) for _ in range(24)]
        sums = [engine.submit(bodies.total, future) for future in futures]
        assert [future.result() for future in sums] == [N] * 24
        assert {type(f._result) for f in futures} == {StoredValue, np.ndarray}


class FarPool(cf.Executor):
    """A pool of which one cannot see where its workers are."""

    def __init__(self, workers: int) -> None:
        self._inner = cf.ProcessPoolExecutor(workers)

    def submit(self, /, *call: Any, **kwargs: Any) -> cf.Future[Any]:
        return self._inner.submit(*call, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._inner.shutdown(wait, cancel_futures=cancel_futures)


def test_a_store_of_one_machine_is_not_used_for_arguments_of_workers_elsewhere(
    folder: DirectoryConnector, caplog: pytest.LogCaptureFixture
) -> None:
    with load(folder, FuturesExecutor(lambda: FarPool(1))) as engine:
        assert engine.submit(bodies.total, np.full(N, 1.0)).result() == N
        assert not stored(folder)
    assert "may have workers on other machines" in caplog.text


# -- lazy ------------------------------------------------------------------------------


def test_lazy_arguments_are_fetched_when_they_are_used(
    folder: DirectoryConnector, tmp_path: Path
) -> None:
    look = ssdag.python_app(lazy=True)(bodies.look)
    with load(folder, pilot(tmp_path)) as engine:
        made = engine.submit(bodies.make, N)
        assert look(made, True).result() == (False, True, N)
        assert look(made, False).result() == (False, False, 0.0)
        assert look(np.full(N, 1.0), False).result() == (False, False, 0.0)
        assert look(np.full(9, 1.0), True).result() == (True, True, 9.0)
        back = ssdag.python_app(lazy=True)(bodies.give_back)(made)
        assert type(back.result()) is np.ndarray
    with load(folder, ThreadExecutor(1)):
        far = ssdag.python_app(store=folder)(bodies.make)(N)
        assert look(far, True).result() == (False, True, N)


def test_a_lazy_argument_that_outlives_its_task_has_its_value(
    folder: DirectoryConnector, tmp_path: Path
) -> None:
    with load(folder, pilot(tmp_path, workers=1)) as engine:
        made = engine.submit(bodies.make, N)
        pid = ssdag.python_app(lazy=True)(bodies.leave)(made).result()
        del made
        wait_until(lambda: not stored(folder), 10, "the value is deleted")
        assert engine.submit(bodies.left).result() == (pid, N)


# -- options ---------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {"store": 5}, {"store": ""}, {"store": DirectoryConnector}, {"by_reference_bytes": 10},
    {"by_reference_bytes": True}, {"by_reference_bytes": 1e6},
])  # fmt: skip
def test_configurations_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ssdag.ConfigError):
        ssdag.Config(**options)


def test_apps_that_cannot_be() -> None:
    with pytest.raises(ssdag.AppDefinitionError, match="lazy"):
        ssdag.python_app(lazy=1)(bodies.make)
    with pytest.raises(ssdag.AppDefinitionError, match="bash_app has no store="):
        ssdag.bash_app(store="/tmp")(lambda: "true")
    with pytest.raises(ssdag.ConfigError):
        ssdag.python_app(store=3)(bodies.make)


def test_a_folder_or_an_address_is_a_store_too(tmp_path: Path) -> None:
    with load(str(tmp_path / "here"), pilot(tmp_path), by_reference_bytes=4096) as engine:
        made = engine.submit(bodies.make, 1000)
        engine.wait()
        assert type(made._result) is StoredValue
        assert made.result()[0] == 1.0
    with ssdag.Orchestrator() as db:
        store = db.client()
        with load(store, pilot(tmp_path)) as engine:
            assert engine.submit(bodies.total, engine.submit(bodies.make, N)).result() == N
