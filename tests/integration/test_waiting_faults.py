# SPDX-License-Identifier: BSD-3-Clause
"""Waiting while servers die, come back, load, pause, hang up, refuse or say nothing."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ssdag.client import Client
from ssdag.client.datasets.dataset import Dataset
from ssdag.client.transport.deadline import Deadline
from ssdag.client.waiting.conditions import existence
from ssdag.client.waiting.waiter import Waiter
from ssdag.client.waiting.watch import Watcher
from ssdag.client.waiting.watchers import close_watcher, watcher_for
from ssdag.errors import DataTimeoutError, StoreError
from ssdag.services.orchestrator import Orchestrator
from tests.conftest import wait_until
from tests.integration.test_client_faults import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ssdag.futures import DataFuture

OVER = StoreError("the test is over")


@pytest.fixture
def db() -> Iterator[Orchestrator]:
    with Orchestrator() as service:
        yield service


def watch(watcher: Watcher, name: str, timeout_s: float | None = None) -> DataFuture[Any]:
    return watcher.watch(existence("tensor", name, name.encode()), timeout_s=timeout_s)


def all_kinds(db: Orchestrator) -> list[DataFuture[Any]]:
    return [
        db.tensor("t"),
        db.dataset("d"),
        db.list("l", length=2),
        db.key("k"),
        db.stream("s", records=1),
        db.when(lambda c: c.get_tensor("t") is not None, tensors=["t"]),
    ]


def write_all(client: Client) -> None:
    client.put_tensor("t", [1])
    client.put_dataset(Dataset("d"))
    client.append_to_list("l", "d")
    client.append_to_list("l", "d")
    client.call("SET", "k", "v")
    client.stream("s").append([1])


def listeners(client: Client) -> int:
    """Return how many connections wait for news of keys."""
    lines = client.call("CLIENT", "LIST").splitlines()
    return sum(b" sub=0 psub=0 ssub=0 " not in line for line in lines)


def kill(db: Orchestrator) -> None:
    """Kill the server and return when another one serves."""
    pid = db.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: db.pid != pid and db.is_active(), 20)


def test_the_server_is_started_again() -> None:
    with Orchestrator(restart=2) as db:
        client = db.client()
        futures = all_kinds(db)
        early = db.tensor("early")
        errors: list[BaseException | None] = []

        def block() -> None:
            try:
                client.wait_tensor("t", 20)
                errors.append(None)
            except StoreError as error:
                errors.append(error)

        client.put_tensor("early", [1])
        assert early.exception(20) is None  # the futures listen
        before = listeners(client)
        blocked = threading.Thread(target=block)
        blocked.start()
        wait_until(lambda: listeners(client) > before, 20, "the thread listens, too")
        kill(db)
        assert not any(future.done() for future in futures)
        write_all(client)
        assert [future.exception(20) for future in futures] == [None] * len(futures)
        blocked.join()
        assert errors == [None]
        last = db.tensor("last")
        kill(db)
        client.put_tensor("last", [1])
        assert last.exception(20) is None


def test_the_server_loads_its_data() -> None:
    """It answers that it is busy with that; what it has loaded is found."""
    slow = {"key-load-delay": 60_000, "loading-process-events-interval-bytes": 1024}
    with Orchestrator(restart=1, persistence="rdb", config=slow) as db:
        client = db.client()
        for i in range(30):
            client.put_tensor(f"t{i}", np.zeros(100))
        client.call("SAVE")
        watcher = Watcher(client, patience_s=1.0)
        futures = [watch(watcher, f"n{i}") for i in range(5)]
        kill(db)
        assert "LOADING" in str(watcher._trouble)
        client.put_tensor("n0", [1])
        assert futures[0].exception(20) is None
        assert not futures[1].done()
        watcher.close()


def test_the_server_pauses(db: Orchestrator) -> None:
    assert db.pid is not None
    client = db.client()
    futures = all_kinds(db)
    first = db.tensor("first")
    client.put_tensor("first", [1])
    assert first.exception(20) is None
    os.kill(db.pid, signal.SIGSTOP)
    try:
        late = db.tensor("late")
        assert isinstance(db.tensor("t", timeout_s=0.1).exception(20), DataTimeoutError)
        assert db.tensor("dropped").cancel()
        assert not any(future.done() for future in futures)
    finally:
        os.kill(db.pid, signal.SIGCONT)
    write_all(client)
    client.put_tensor("late", [1])
    assert [future.exception(20) for future in [*futures, late]] == [None] * (len(futures) + 1)


def test_the_connection_breaks_again_and_again(db: Orchestrator) -> None:
    path = db.address.removeprefix("unix://")
    over = threading.Event()
    with (
        Proxy(path) as proxy,
        Client(proxy.address, password_file=db.password_file) as client,
    ):
        # The first ones break in the middle of a command or of an answer.
        proxy.cuts = [(3, None), (99, None), (200, None), (None, 3), (None, 150), (None, 400)]
        watcher = Watcher(client, patience_s=20)

        def cut() -> None:
            while not over.wait(0.2):
                proxy.hang_up()

        cutter = threading.Thread(target=cut)
        cutter.start()
        try:
            for i in range(0, 100, 50):
                futures = [watch(watcher, f"t{k}") for k in range(i, i + 50)]
                for k in range(i, i + 50):
                    db.client().put_tensor(f"t{k}", [k])
                assert [f.exception(20) for f in futures] == [None] * 50
        finally:
            over.set()
            cutter.join()
            watcher.close()


class Odd:
    """A server that accepts, and then does what is asked of it.

    Parameters
    ----------
    answer : bytes or None
        What it says before it hangs up; None to say nothing and hold the connection.
    """

    def __init__(self, answer: bytes | None) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._main)

    def _main(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if self._answer is None:
                self._held.append(sock)
            else:
                sock.sendall(self._answer)
                sock.close()

    def __enter__(self) -> Odd:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for sock in [self._listener, *self._held]:
            sock.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", ""),
        (b"-ERR max number of clients reached\r\n", "max number of clients"),
        (b"-ERR unknown command 'HELLO'\r\n", "HELLO"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "RESP3"),
    ],
)
def test_no_server_that_helps(answer: bytes, words: str) -> None:
    with Odd(answer) as odd, Client(odd.address) as client:
        watcher = Watcher(client, patience_s=0.2)
        error = watch(watcher, "a").exception(20)
        assert isinstance(error, StoreError)
        assert "gave up" in str(error)
        assert words in str(error)
        assert not watcher.closed
        watcher.close()
        waiter = Waiter(client)
        with pytest.raises(DataTimeoutError):
            waiter.wait(existence("tensor", "a", b"a"), Deadline(0.05))
        waiter.patience_s = 0.0
        with pytest.raises(StoreError, match="gave up"):
            waiter.wait(existence("tensor", "a", b"a"), Deadline(20))
        waiter.end()


def test_a_server_that_says_nothing() -> None:
    with Odd(None) as odd, Client(odd.address) as client:
        watcher = Watcher(client, patience_s=0.2)
        forever, limited = watch(watcher, "a"), watch(watcher, "b", timeout_s=0.05)
        assert isinstance(limited.exception(20), DataTimeoutError)
        assert watch(watcher, "c").cancel()
        watcher.close(OVER)
        assert forever.exception(20) is OVER
        waiter = Waiter(client)
        with pytest.raises(DataTimeoutError):
            waiter.wait(existence("tensor", "a", b"a"), Deadline(0.05))
        waiter.end()


def test_nobody_listens() -> None:
    with Client("127.0.0.1:1") as client:
        watcher = Watcher(client, patience_s=0.1)
        assert isinstance(watch(watcher, "a").exception(20), StoreError)
        watcher.close()


def test_not_let_in(db: Orchestrator, tmp_path: Path) -> None:
    with Client(db.address, password="wrong") as client:
        watcher = Watcher(client)
        error = watch(watcher, "a").exception(20)
        assert isinstance(error, StoreError)
        assert not error.transient
    with Client(db.address) as client:
        assert "password" in str(Watcher(client).watch(existence("t", "a", b"a")).exception(20))
    with Client(db.address, password_file=tmp_path / "missing") as client:
        watcher = Watcher(client, patience_s=0.1)
        assert "missing" in str(watch(watcher, "a").exception(20))
        watcher.close()


def test_not_allowed_to_listen(db: Orchestrator) -> None:
    """The refusal stands where the answer to a look is expected, and must not be taken for it."""
    db.client().call("ACL", "SETUSER", "default", "resetchannels")
    db.client().put_tensor("t1", [1])
    for future in [db.tensor(f"t{i}") for i in range(3)]:
        assert isinstance(future.exception(20), StoreError)


def test_ctrl_c(db: Orchestrator) -> None:
    client = db.client()
    gc.collect()  # Python loses a Ctrl-C that comes in a finalizer, here of earlier tests
    for _ in range(3):
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            client.wait_tensor("never", 20)
        timer.join()
    client.put_tensor("never", [1])
    client.wait_tensor("never", 20)


def test_after_a_fork(db: Orchestrator) -> None:
    """A child waits with a thread and connections of its own."""
    client = db.client()
    waiting = db.tensor("both")
    ready = db.tensor("ready")
    client.put_tensor("ready", [1])
    ready.exception(20)
    messages = client.subscribe("channel")
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads, which is what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        code = 1
        try:
            client.wait_tensor("both", 20)
            client.tensor_future("both").result(20)
            waiting.cancel()
            with pytest.raises(StoreError, match="parent"):
                messages.get(0)
            code = 0
        finally:
            os._exit(code)
    client.put_tensor("both", [1])
    assert waiting.exception(20) is None
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    client.publish("channel", "x")
    assert messages.get(20).data == b"x"
    messages.close()
    close_watcher(client, OVER)
    assert watcher_for(client).waiting == 0
