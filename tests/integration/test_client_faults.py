# SPDX-License-Identifier: BSD-3-Clause
"""Broken connections and silent servers: what is repeated, and what is never reused."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

import numpy as np
import pytest

from ssdag.client import Client
from ssdag.errors import StoreError
from ssdag.services.orchestrator import Orchestrator

if TYPE_CHECKING:
    from collections.abc import Iterator


class Proxy:
    """A TCP relay that cuts a connection after so many bytes in one direction.

    Parameters
    ----------
    target : str
        Path of the server's unix socket.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        #: Bytes to let pass on each of the next connections, (up, down); None for all.
        self.cuts: list[tuple[int | None, int | None]] = []
        self.connections = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.hang_up()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def hang_up(self) -> None:
        """End all connections."""
        for sock in self._open:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._target)
            self._open += [near, far]
            up, down = self.cuts.pop(0) if self.cuts else (None, None)

            def close(near: socket.socket = near, far: socket.socket = far) -> None:
                near.close()
                far.close()

            pair = threading.Barrier(2, action=close)
            for source, sink, limit in ((near, far, up), (far, near, down)):
                thread = threading.Thread(target=self._relay, args=(source, sink, limit, pair))
                thread.start()
                self._threads.append(thread)

    def _relay(
        self, source: socket.socket, sink: socket.socket, limit: int | None, pair: threading.Barrier
    ) -> None:
        try:
            passed = 0
            while data := source.recv(65536 if limit is None else min(65536, limit - passed)):
                sink.sendall(data)
                passed += len(data)
                if limit is not None and passed >= limit:
                    break
        except OSError:
            pass
        for sock in (source, sink):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        pair.wait()


@pytest.fixture(scope="module")
def db() -> Iterator[Orchestrator]:
    with Orchestrator() as service:
        yield service


@pytest.fixture
def proxy(db: Orchestrator) -> Iterator[Proxy]:
    with Proxy(db.address.removeprefix("unix://")) as relay:
        yield relay


@pytest.fixture
def client(db: Orchestrator, proxy: Proxy) -> Iterator[Client]:
    with Client(proxy.address, password_file=db.password_file) as made:
        yield made
        db.client().redis.flushdb()


LARGE = np.random.default_rng(0).random(8 << 20)  # 64 MiB


def test_put_cut_in_the_middle(client: Client, proxy: Proxy, db: Orchestrator) -> None:
    proxy.cuts = [(10 << 20, None)]
    client.put_tensor("a", LARGE)
    assert proxy.connections == 2
    assert np.array_equal(db.client().get_tensor("a"), LARGE)


def test_put_cut_twice(client: Client, proxy: Proxy, db: Orchestrator) -> None:
    db.client().put_tensor("a", [1])
    proxy.cuts = [(10 << 20, None), (10 << 20, None)]
    with pytest.raises(StoreError, match="second time"):
        client.put_tensor("a", LARGE)
    # Nothing is half-visible, and the client still works.
    assert db.client().get_tensor("a").tolist() == [1]
    assert client.get_tensor("a").tolist() == [1]


@pytest.mark.parametrize("slab", [None, slice(0, 7 << 20)])
def test_get_cut_in_the_middle(
    client: Client, proxy: Proxy, db: Orchestrator, slab: slice | None
) -> None:
    db.client().put_tensor("a", LARGE)
    proxy.cuts = [(None, 10 << 20)]
    out = np.empty_like(LARGE) if slab is None else np.empty(7 << 20)
    client.get_tensor("a", out=out, slab=slab)
    assert proxy.connections == 2
    assert np.array_equal(out, LARGE if slab is None else LARGE[slab])


def test_get_cut_twice(client: Client, proxy: Proxy, db: Orchestrator) -> None:
    db.client().put_tensor("a", LARGE)
    proxy.cuts = [(None, 10 << 20), (None, 20 << 20)]
    with pytest.raises(StoreError, match="second time"):
        client.get_tensor("a")
    assert np.array_equal(client.get_tensor("a"), LARGE)


def test_idle_connection_that_ended(client: Client, proxy: Proxy) -> None:
    client.put_tensor("a", [1])
    proxy.hang_up()
    assert client.get_tensor("a").tolist() == [1]
    proxy.hang_up()
    assert client.delete_tensor("a")  # was never sent on the dead one


def test_delete_is_not_repeated(client: Client, proxy: Proxy, db: Orchestrator) -> None:
    db.client().put_tensor("a", [1])
    # The log-in's answer is 5 bytes; that of the delete is lost.
    proxy.cuts = [(None, 5)]
    with pytest.raises(StoreError, match="lost the server"):
        client.delete_tensor("a")
    assert proxy.connections == 1


def test_interrupted_transfer(
    client: Client, db: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle: the connection with the rest of the answer is not reused."""
    from ssdag.client.transport.connection import Connection

    db.client().put_tensor("a", LARGE)
    db.client().put_tensor("b", [7])

    def interrupt(self: Connection, target: memoryview) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "read_into", interrupt)
        with pytest.raises(KeyboardInterrupt):
            client.get_tensor("a")
    assert client.get_tensor("b").tolist() == [7]


def test_silent_server(db: Orchestrator) -> None:
    assert db.pid is not None
    with Client(db.address, password_file=db.password_file, timeout_s=0.2) as client:
        client.put_tensor("a", [1])
        os.kill(db.pid, signal.SIGSTOP)
        try:
            for call in (client.ping, lambda: client.put_tensor("b", LARGE)):
                began = time.monotonic()
                with pytest.raises(StoreError, match=r"silent for 0\.2 s"):
                    call()
                assert time.monotonic() - began < 2
        finally:
            os.kill(db.pid, signal.SIGCONT)
        assert client.get_tensor("a").tolist() == [1]


def test_paused_server_without_a_limit(db: Orchestrator) -> None:
    """A pause is no error where no time limit was given, and nothing is sent twice."""
    assert db.pid is not None
    client = db.client()
    os.kill(db.pid, signal.SIGSTOP)
    wake = threading.Timer(0.5, os.kill, (db.pid, signal.SIGCONT))
    wake.start()
    client.put_tensor("paused", LARGE)
    wake.join()
    assert np.array_equal(client.get_tensor("paused"), LARGE)


def test_watch_survives_a_cut(client: Client, proxy: Proxy, db: Orchestrator) -> None:
    from ssdag.client.waiting.conditions import existence
    from ssdag.client.waiting.watch import Watcher

    watcher = Watcher(client)
    early, late = (watcher.watch(existence("tensor", n, n.encode())) for n in ("early", "late"))
    db.client().put_tensor("early", [1])
    assert early.exception(5) is None
    proxy.hang_up()
    db.client().put_tensor("late", [1])
    assert late.exception(5) is None
    watcher.close()
