# SPDX-License-Identifier: BSD-3-Clause
"""Steering, step counters and checkpoints, by many ranks at once."""

from __future__ import annotations

import inspect
import os
import pickle
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ssdag.client import Client
from ssdag.errors import ConfigError, DataFormatError, DataTimeoutError, MissingDataError
from ssdag.services.orchestrator import Orchestrator
from tests.conftest import wait_until
from tests.integration.servers import SERVERS
from tests.integration.test_client_faults import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

RANKS = 4


@pytest.fixture(scope="module", params=SERVERS)
def db(request: pytest.FixtureRequest) -> Iterator[Orchestrator]:
    with Orchestrator(server=request.param) as service:
        yield service


@pytest.fixture
def client(db: Orchestrator) -> Iterator[Client]:
    with Client(db.address, password_file=db.password_file) as made:
        made.call("FLUSHDB")
        yield made


# -- steering -------------------------------------------------------------------------


def test_a_command_arrives_once(client: Client) -> None:
    steering = client.steering()
    assert steering.check() == []
    assert client.steer("dt", 0.5) == 0
    client.steer("field", np.arange(3))
    client.steer("stop")
    found = steering.check()
    assert [one.name for one in found] == ["dt", "field", "stop"]
    assert found[0].value == 0.5
    assert found[1].value.tolist() == [0, 1, 2]
    assert found[2].value is None
    assert steering.stopped
    assert steering.check() == []
    assert [one.name for one in client.steering().check(0)] == ["dt", "field", "stop"]
    steering.clear()
    assert not steering.stopped
    assert client.steering().check() == []


def test_the_driver_steers_by_the_orchestrator(client: Client, db: Orchestrator) -> None:
    for name in ("steer", "steering", "step_counter", "checkpoint"):
        mine, theirs = (inspect.signature(getattr(one, name)) for one in (Orchestrator, Client))
        assert mine == theirs
    assert db.steer("dt", 0.5, channel="a") == 0
    assert client.steering("a").check()[0] == ("dt", 0.5, 0)
    client.steer("stop")
    assert [one.name for one in db.steering().check(0)] == ["stop"]
    assert client.step_counter("a", 1).done(3) == 3
    assert db.step_counter("a").wait(3, timeout_s=20) == 3
    assert db.checkpoint("a", ranks=1, keep=2).save(1, np.arange(3))
    assert client.checkpoint("a").load().value.tolist() == [0, 1, 2]


def test_channels_are_apart(client: Client) -> None:
    client.steer("stop", channel="a")
    assert client.steering("b").check() == []
    assert client.steering("a").check()[0].name == "stop"
    with pytest.raises(DataFormatError):
        client.steering("")
    with pytest.raises(DataFormatError, match="brace"):
        client.steering("}a")


def test_a_command_counts_from_a_step_that_nobody_has_seen(client: Client) -> None:
    fast, slow = client.steering(), client.steering()
    assert fast.check(7) == []
    assert slow.check(3) == []
    assert client.steer("stop") == 8
    assert slow.check(7) == []
    assert fast.check(8) == slow.check(8) == [("stop", None, 8)]


def test_all_ranks_stop_in_the_same_step(client: Client) -> None:
    """Ranks run freely, a command comes at any time: none stops sooner or later."""
    begun = threading.Barrier(RANKS + 1)

    def run(rank: int) -> int:
        steering = client.steering("race")
        begun.wait()
        for step in range(1_000_000):
            steering.check(step)
            if steering.stopped:
                return step
        return -1

    for _ in range(5):
        client.steering("race").clear()
        with ThreadPoolExecutor(RANKS) as pool:
            ranks = [pool.submit(run, rank) for rank in range(RANKS)]
            begun.wait()
            asked = client.steering("race")
            threading.Event().wait(random.random() / 50)  # any time will do
            first = client.steer("stop", channel="race")
            assert {rank.result(20) for rank in ranks} == {first}
            assert asked.check(first)[0].name == "stop"


def test_wait_for_a_command(client: Client) -> None:
    steering = client.steering()
    with pytest.raises(DataTimeoutError):
        steering.wait(0.01)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(steering.wait, 20)
        client.steer("go", {"to": [1, 2]})
        assert waiting.result(20) == [("go", {"to": [1, 2]}, 0)]
    with pytest.raises(DataFormatError, match="1048576 at most"):
        client.steer("large", np.zeros(1 << 18))
    with pytest.raises(ConfigError):
        steering.check(-1)


def test_lost_answer_to_a_command(client: Client, db: Orchestrator) -> None:
    with (
        Proxy(db.client().address.removeprefix("unix://")) as proxy,
        Client(proxy.address, password_file=db.password_file) as far,
    ):
        proxy.cuts = [(None, len(b"+OK\r\n") + 1)]
        assert far.steer("stop") == 0
        assert proxy.connections == 2
    assert len(client.steering().check()) == 1


# -- steps ----------------------------------------------------------------------------


def test_a_step_is_done_when_all_have_done_it(client: Client) -> None:
    counter = client.step_counter("sim", ranks=3)
    assert counter.step == -1
    assert counter.done(0, rank=0) == -1
    assert counter.done(4, rank=1) == -1
    assert counter.done(2, rank=2) == 0
    assert counter.done(3, rank=0) == 2
    assert counter.done(1, rank=2) == 2  # started anew: it has done that before
    assert counter.done(9, rank=2) == 3
    assert client.step_counter("sim").step == 3
    counter.clear()
    assert counter.step == -1
    assert counter.done(1, rank=0) == -1


def test_wait_for_a_step(client: Client) -> None:
    counter = client.step_counter(ranks=2)
    with pytest.raises(DataTimeoutError, match="all ranks have is -1"):
        counter.wait(0, timeout_s=0.01)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.step_counter().wait, 5, 20)
        for step in range(6):
            for rank in range(2):
                assert not waiting.done()
                counter.done(step, rank)
        assert waiting.result(20) == 5
    assert counter.wait(2) == 5


def test_wrong_ranks(client: Client) -> None:
    counter = client.step_counter(ranks=2)
    counter.done(0)
    with pytest.raises(ConfigError, match="has 2 ranks"):
        counter.done(0, rank=2)
    with pytest.raises(ConfigError, match="has 2 ranks, not 3"):
        client.step_counter(ranks=3).done(0)
    with pytest.raises(ConfigError, match="ranks=0"):
        client.step_counter(ranks=0)
    with pytest.raises(ConfigError, match="step="):
        counter.done(1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(3))
def test_the_step_is_that_of_the_slowest(client: Client, seed: int) -> None:
    """Any order of any steps: against the minimum of all."""
    choose = random.Random(seed)
    counter = client.step_counter(ranks=RANKS)
    steps = [-1] * RANKS
    for _ in range(200):
        rank = choose.randrange(RANKS)
        steps[rank] = max(steps[rank], steps[rank] + choose.randrange(-1, 4))
        if steps[rank] >= 0:
            assert counter.done(steps[rank], rank) == min(steps)
    assert client.step_counter().step == min(steps)


# -- checkpoints ----------------------------------------------------------------------


def payloads(client: Client) -> int:
    return sum(key.count(b":") == 4 for key in client.call("KEYS", "{run}:checkpoint:*"))


def test_a_checkpoint_is_whole_or_not_there(client: Client) -> None:
    checkpoint = client.checkpoint(ranks=2)
    with pytest.raises(MissingDataError):
        checkpoint.load()
    assert not checkpoint.save(10, {"u": np.arange(5000.0), "t": 0.1}, rank=0)
    with pytest.raises(MissingDataError, match="rank 0"):
        checkpoint.load()
    assert checkpoint.save(10, {"u": np.zeros(1), "t": 0.1}, rank=1)
    step, state = client.checkpoint().load(rank=0)
    assert (step, state["t"]) == (10, 0.1)
    assert (state["u"] == np.arange(5000.0)).all()
    # The next one replaces it when it is whole, and not before.
    assert not checkpoint.save(20, np.ones(3), rank=1)
    assert checkpoint.load(1).step == 10
    assert checkpoint.save(20, np.ones(3), rank=0)
    assert [checkpoint.load(rank).step for rank in range(2)] == [20, 20]
    assert checkpoint.steps == [20]
    assert payloads(client) == 2
    with pytest.raises(MissingDataError, match="of step 10"):
        checkpoint.load(step=10)
    assert checkpoint.delete()
    assert not checkpoint.delete()
    assert client.call("KEYS", "*") == []


def test_several_are_kept(client: Client) -> None:
    checkpoint = client.checkpoint(keep=3)
    for step in range(6):
        checkpoint.save(step, step)
    assert checkpoint.steps == [3, 4, 5]
    assert checkpoint.load(step=4).value == 4
    assert payloads(client) == 3


def test_a_step_saved_again_is_replaced_as_a_whole(client: Client) -> None:
    checkpoint = client.checkpoint(ranks=2, keep=2)
    for rank in range(2):
        checkpoint.save(1, {"is": "old"}, rank=rank)
    checkpoint.save(1, {"is": "new"}, rank=0)
    checkpoint.save(1, {"is": "newer"}, rank=0)
    assert [checkpoint.load(rank).value["is"] for rank in range(2)] == ["old", "old"]
    checkpoint.save(1, {"is": "new"}, rank=1)
    assert [checkpoint.load(rank).value["is"] for rank in range(2)] == ["newer", "new"]
    assert checkpoint.steps == [1]
    assert payloads(client) == 2


def test_what_was_never_completed_goes(client: Client) -> None:
    """A rank was killed at step 1; all others went on from a later one."""
    checkpoint = client.checkpoint(ranks=2)
    checkpoint.save(1, np.zeros(100), rank=0)
    for rank in range(2):
        checkpoint.save(2, rank, rank=rank)
    assert payloads(client) == 2


def test_wait_for_a_checkpoint(client: Client) -> None:
    checkpoint = client.checkpoint()
    with pytest.raises(DataTimeoutError):
        checkpoint.wait(timeout_s=0.01)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(checkpoint.wait, 3, 20)
        for step in range(6):
            assert step <= 4 or waiting.result(20) == 4
            checkpoint.save(step, step)
            if step == 4:
                assert waiting.result(20) == 4
    assert checkpoint.wait() == 5


def test_loading_while_newer_ones_come(client: Client) -> None:
    checkpoint = client.checkpoint()
    checkpoint.save(0, np.full(20_000, 0.0))
    stop = threading.Event()

    def load() -> int:
        count = 0
        while not stop.is_set():
            step, value = checkpoint.load()
            assert (value == step).all()
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(load) for _ in range(2)]
        for step in range(1, 200):
            checkpoint.save(step, np.full(20_000, float(step)))
        stop.set()
        assert all(reader.result(20) for reader in readers)


def test_lost_answer_to_a_save(client: Client, db: Orchestrator) -> None:
    with (
        Proxy(db.client().address.removeprefix("unix://")) as proxy,
        Client(proxy.address, password_file=db.password_file) as far,
    ):
        proxy.cuts = [(None, len(b"+OK\r\n+OK\r\n") + 1)]
        assert far.checkpoint().save(3, np.arange(9))
    assert client.checkpoint().load().value.tolist() == list(range(9))
    assert payloads(client) == 1
    (key,) = (k for k in client.call("KEYS", "{run}:checkpoint:*") if k.count(b":") == 4)
    assert client.call("PTTL", key) == -1


def test_wrong_ranks_of_a_checkpoint(client: Client) -> None:
    client.checkpoint(ranks=2).save(0, 1)
    with pytest.raises(ConfigError, match="of 2 ranks, not of 3"):
        client.checkpoint(ranks=3).save(0, 1)
    assert payloads(client) == 1
    with pytest.raises(ConfigError, match="rank=2"):
        client.checkpoint(ranks=2).save(0, 1, rank=2)
    with pytest.raises(ConfigError, match="keep=0"):
        client.checkpoint(keep=0)


# -- all ------------------------------------------------------------------------------


def test_handles_pickle(client: Client) -> None:
    made = (
        client.steering("a"),
        client.step_counter("a", ranks=3),
        client.checkpoint("a", ranks=3, keep=2),
    )
    for handle, back in zip(made, pickle.loads(pickle.dumps(made)), strict=True):
        assert type(back) is type(handle)
        assert (back.name, back._options()) == ("a", handle._options())
        back._client.close()


def test_a_paused_server_is_waited_for(client: Client, db: Orchestrator) -> None:
    counter = client.step_counter()
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(counter.wait, 0, 20)
        wait_until(lambda: b"cmd=xread" in client.call("CLIENT", "LIST"))
        assert db.pid is not None
        os.kill(db.pid, signal.SIGSTOP)
        try:
            done = pool.submit(client.step_counter().done, 0)
        finally:
            os.kill(db.pid, signal.SIGCONT)
        assert done.result(20) == waiting.result(20) == 0
