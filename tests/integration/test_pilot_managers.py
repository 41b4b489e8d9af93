# SPDX-License-Identifier: BSD-3-Clause
"""The real hub against managers that only talk: many, strange, doubled and foreign ones."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import zmq

import ssdag
from benchmarks.simulated import Crowd, SimulatedManager
from ssdag.errors import BlockError
from ssdag.executors import PilotExecutor
from ssdag.executors.pilot.protocol import Kind, plain
from ssdag.providers.base import JobStatus
from ssdag.providers.local import LocalProvider
from ssdag.states import JobState
from ssdag.tasks import AppSpec, Options
from tests.conftest import wait_until
from tests.integration import pilot_bodies as bodies
from tests.integration.pilots import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ssdag.dataflow.engine import Engine
    from ssdag.providers.base import JobSpec


class Nowhere(LocalProvider):
    """Grants blocks in which nothing runs: the tests are their managers."""

    def __init__(self, first: JobState = JobState.RUNNING, **options: Any) -> None:
        super().__init__(**options)
        self.first = first
        self.states: dict[str, JobState] = {}

    def submit(self, job: JobSpec) -> str:
        self.states[job.name] = self.first
        return job.name

    def poll(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        return {job_id: JobStatus(self.states[job_id]) for job_id in job_ids}

    def cancel(self, job_ids: Sequence[str]) -> None:
        self.states.update(dict.fromkeys(job_ids, JobState.CANCELLED))


class Stage:
    """An engine without any worker, and what is needed to play its managers."""

    def __init__(self, folder: Path, provider: Nowhere | None = None, **options: Any) -> None:
        self.provider = provider or Nowhere(init_blocks=1, max_blocks=2)
        self.executor = PilotExecutor(
            self.provider,
            workers_per_node=2,
            run_dir=folder,
            **{"heartbeat_s": 0.2, "heartbeat_limit_s": 5.0, **options},
        )
        self.engine: Engine = ssdag.load(ssdag.Config(executors=[self.executor]))
        assert self.executor._hub is not None
        self.hub = self.executor._hub
        self.endpoint = f"tcp://127.0.0.1:{self.hub.switchboard.port}"
        self.keys = self.hub.keys
        self.context: zmq.Context[Any] = zmq.Context()
        self.managers: list[SimulatedManager] = []
        blocks = self.executor._blocks
        wait_until(lambda: blocks is not None and blocks.job_ids(), what="a block was asked for")

    def manager(self, block: int = 1, node: str = "n1", **about: Any) -> SimulatedManager:
        one = SimulatedManager(self.context, self.endpoint, self.keys, block, node, 2, about)
        self.managers.append(one)
        return one

    def close(self) -> None:
        self.engine.close()
        for one in self.managers:
            one.close()
        self.context.destroy(0)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage whose hub encrypts."""
    made = Stage(tmp_path, encrypt=True)
    yield made
    made.close()


def until(one: SimulatedManager, done: Any, what: str, *, beat: bool = True) -> None:
    """Let a manager receive until something has happened."""

    def look() -> Any:
        one.receive()
        if beat and one.welcome is not None:
            one.beat()
        return done()

    wait_until(look, DEADLINE_S, what)


def test_a_manager_that_answers(stage: Stage) -> None:
    future = stage.engine.submit(bodies.same, 1)
    one = stage.manager()
    until(one, lambda: one.tasks, "it has the task")
    assert one.welcome is not None
    assert one.answer() == 1
    assert future.result(DEADLINE_S) == 0, "the task's id, as simulated managers answer"


@pytest.mark.parametrize("about", [{"python": "3.7"}, {"ssdag": "0.0.1"}, {"protocol": 99}])
def test_another_version_is_refused(stage: Stage, about: dict[str, Any]) -> None:
    future = stage.engine.submit(bodies.same, 1)
    one = stage.manager(**about)
    until(one, lambda: one.refused, "it is refused")
    assert one.refused is not None
    assert "versions must be the same" in one.refused
    error = future.exception(DEADLINE_S)
    assert isinstance(error, BlockError)
    name, value = next(iter(about.items()))
    assert f"{name} {value} there" in str(error)


def test_a_block_that_nobody_asked_for(stage: Stage) -> None:
    one = stage.manager(block=77)
    until(one, lambda: one.refused, "it is refused")


def test_a_second_start_of_a_job_whose_manager_lives(stage: Stage) -> None:
    first = stage.manager()
    until(first, lambda: first.welcome, "the first is welcome")
    second = stage.manager()

    def refused() -> str | None:
        first.beat()
        second.receive()
        return second.refused

    wait_until(refused, DEADLINE_S, "the second is refused")
    assert len(stage.hub.peers) == 1
    other = stage.manager(node="n2")
    until(other, lambda: other.welcome, "another node of the block is welcome")


def test_a_second_start_of_a_job_whose_manager_is_gone(stage: Stage) -> None:
    """The first one is fenced: should it live after all, nobody believes it any more."""
    future = stage.engine.submit(bodies.same, 1)
    first = stage.manager()
    until(first, lambda: first.tasks, "the first has the task")
    time.sleep(0.5)  # it is silent
    second = stage.manager()
    until(second, lambda: second.tasks, "the second has it now")
    assert first.answer() == 1
    until(first, lambda: first.refused, "the first is told to end")
    assert not future.done()
    assert second.answer() == 1
    assert future.result(DEADLINE_S) == 0


def test_an_answer_that_comes_twice(stage: Stage) -> None:
    futures = [stage.engine.submit(bodies.same, i) for i in range(2)]
    one = stage.manager()
    until(one, lambda: len(one.tasks) == 2, "it has the tasks")
    tasks = list(one.tasks)
    one.answer()
    one.tasks = tasks
    one.answer()
    assert [future.result(DEADLINE_S) for future in futures] == [0, 1]
    until(one, lambda: stage.executor.outstanding == 0, "nothing is left")


def test_messages_that_make_no_sense(stage: Stage) -> None:
    future = stage.engine.submit(bodies.same, 1)
    mad = stage.manager()
    until(mad, lambda: mad.tasks, "it has the task")
    mad.socket.send_multipart([b"x"])
    mad.socket.send_multipart(plain(stage.keys.manager_token, Kind.HELLO, b"{}"))
    assert stage.hub.peers
    mad.channel.post(Kind.RESULTS, b"no pickle")
    until(mad, lambda: mad.refused, "it is told to end", beat=True)
    one = stage.manager()
    until(one, lambda: one.tasks, "another one has the task")
    one.answer()
    assert future.result(DEADLINE_S) == 0


def test_who_has_no_key_gets_nothing(stage: Stage) -> None:
    stage.engine.submit(bodies.same, 1)
    strangers = []
    other = type(stage.keys).make(encrypt=True)
    for keys in (
        replace(stage.keys, server_public=None),  # no encryption at all
        replace(stage.keys, client_public=other.client_public, client_secret=other.client_secret),
        replace(stage.keys, manager_token=other.manager_token),  # a key, but not the token
    ):
        one = SimulatedManager(stage.context, stage.endpoint, keys, 1, "n1", 2)
        stage.managers.append(one)
        strangers.append(one)
    ours = stage.manager()
    until(ours, lambda: ours.tasks, "who has them gets the task")
    for one in strangers:
        assert one.receive() == 0
    assert len(stage.hub.peers) == 1


def test_the_time_of_a_block_begins_with_its_job(tmp_path: Path) -> None:
    """However long it has waited in the queue before."""
    provider = Nowhere(JobState.PENDING, init_blocks=1, max_blocks=1, walltime_s=2.0)
    stage = Stage(tmp_path, provider)
    try:
        app = AppSpec(bodies.same, "same", options=Options(walltime_s=0.5))
        future = stage.engine.call(app, (1,))
        with pytest.raises(TimeoutError):
            future.result(2.5)
        job = next(iter(provider.states))
        provider.states[job] = JobState.RUNNING
        one = stage.manager()
        until(one, lambda: one.tasks, "it has the task")
        one.answer()
        assert future.result(DEADLINE_S) == 0
    finally:
        stage.close()


def test_two_hundred_managers(tmp_path: Path) -> None:
    stage = Stage(tmp_path, heartbeat_s=2.0, heartbeat_limit_s=20.0)
    crowd = Crowd(stage.endpoint, stage.keys, 200, workers=8)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            crowd.turn(0.05)

    thread = threading.Thread(target=serve, name="crowd")
    thread.start()
    try:
        wait_until(lambda: len(stage.hub.peers) == 200, DEADLINE_S, "all have come")
        futures = [stage.engine.submit(bodies.same, i) for i in range(20_000)]
        assert [future.result(DEADLINE_S) for future in futures] == list(range(20_000))
        assert sum(peer.done > 0 for peer in stage.hub.peers.values()) == 200
    finally:
        stop.set()
        thread.join()
        stage.close()
        crowd.close()
