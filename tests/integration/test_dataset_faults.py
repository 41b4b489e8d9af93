# SPDX-License-Identifier: BSD-3-Clause
"""What datasets and lists send, word for word; and that nothing of them is stored twice or half."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ssdag.client import Client, Dataset
from ssdag.client.datasets import reading as dataset_reading
from ssdag.client.datasets import writing as dataset_writing
from ssdag.client.tensors import npy
from ssdag.errors import MissingDataError, StoreError
from ssdag.services.orchestrator import Orchestrator
from tests.conftest import wait_until
from tests.integration.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def db() -> Iterator[Orchestrator]:
    with Orchestrator() as service:
        yield service


@pytest.fixture
def recorder(db: Orchestrator) -> Iterator[Recorder]:
    with Recorder(db.address.removeprefix("unix://")) as relay:
        yield relay
    db.client().redis.flushdb()


@pytest.fixture
def client(db: Orchestrator, recorder: Recorder) -> Iterator[Client]:
    with Client(recorder.address, password_file=db.password_file) as made:
        yield made


U = np.arange(3.0)
LARGE = np.random.default_rng(0).random(2 << 20)  # 16 MiB


def login_size(recorder: Recorder, db: Orchestrator) -> int:
    """Return how many bytes a client sends before its first command."""
    with Client(recorder.address, password_file=db.password_file) as probe:
        probe.ping()
    return len(recorder.sent.pop()) - len(b"*1\r\n$4\r\nPING\r\n")


def small(i: int = 1) -> Dataset:
    return Dataset("d", {"u": U}, {"i": np.int32(i), "t": ["hello", "w"]})


META = [b"i", b"\x03\x01\0\0\0", b"t", b"\x07\x05\0\0\0\0\0\0\0hello\x01\0\0\0\0\0\0\0w"]
META += [b".tensor_names", b"\x07\x01\0\0\0\0\0\0\0u"]


def test_words_of_datasets(client: Client, recorder: Recorder) -> None:
    """The keys and the packing of SmartRedis, within one transaction."""
    client.prefixes.out = "w"
    client.put_dataset(small())
    assert recorder.commands() == [
        [b"MULTI"],
        [b"HGET", b"w.{d}.meta", b".tensor_names"],
        [b"DEL", b"w.{d}.meta"],
        [b"HSET", b"w.{d}.meta", *META],
        [b"SET", b"w.{d}.u", npy.dumps(U)],
        [b"HSET", b"w.{d}.meta", b".COMPLETE", b"1"],
        [b"EXEC"],
    ]
    recorder.clear()
    client.prefixes.source = "w"
    client.get_dataset("d")
    assert recorder.commands() == [
        [b"WATCH", b"w.{d}.meta"],
        [b"HGETALL", b"w.{d}.meta"],
        [b"GET", b"w.{d}.u"],
        [b"MULTI"],
        [b"EXEC"],
    ]
    recorder.clear()
    client.dataset_exists("d")
    client.copy_dataset("d", "e")
    client.delete_dataset("d")
    sent = [line for line in recorder.commands() if line[0] not in (b"WATCH", b"EXISTS")]
    assert sent == [
        [b"HEXISTS", b"w.{d}.meta", b".COMPLETE"],
        [b"HGET", b"w.{e}.meta", b".tensor_names"],
        [b"HGET", b"w.{d}.meta", b".tensor_names"],
        [b"HEXISTS", b"w.{d}.meta", b".COMPLETE"],
        [b"MULTI"],
        [b"UNLINK", b"w.{e}.meta"],
        [b"COPY", b"w.{d}.meta", b"w.{e}.meta"],
        [b"COPY", b"w.{d}.u", b"w.{e}.u"],
        [b"EXEC"],
        [b"HGET", b"w.{d}.meta", b".tensor_names"],
        [b"MULTI"],
        [b"UNLINK", b"w.{d}.meta", b"w.{d}.u"],
        [b"EXEC"],
    ]


def test_words_of_lists(client: Client, recorder: Recorder) -> None:
    client.prefixes.out = client.prefixes.source = "w"
    client.append_to_list("l", small())
    client.get_list_length("l")
    client.get_dataset_list_range("l", -3, 7, missing_ok=True)
    client.copy_list("l", "m")
    client.rename_list("m", "n")
    client.delete_list("n")
    assert [line for line in recorder.commands() if line[0] != b"WATCH"] == [
        [b"RPUSH", b"w.l", b"w.{d}"],
        [b"LLEN", b"w.l"],
        [b"LRANGE", b"w.l", b"-3", b"7"],
        [b"HGETALL", b"w.{d}.meta"],
        [b"MULTI"],
        [b"EXEC"],
        [b"LLEN", b"w.l"],
        [b"MULTI"],
        [b"COPY", b"w.l", b"w.m", b"REPLACE"],
        [b"EXEC"],
        [b"LLEN", b"w.m"],
        [b"MULTI"],
        [b"RENAME", b"w.m", b"w.n"],
        [b"EXEC"],
        [b"LLEN", b"w.n"],
        [b"MULTI"],
        [b"UNLINK", b"w.n"],
        [b"EXEC"],
    ]


def test_many_datasets_in_few_rounds(client: Client, recorder: Recorder) -> None:
    """Reading a list asks for many at once, and never for very much at once."""
    with client.clone() as other:
        for i in range(300):
            one = Dataset(f"d{i}", {"u": U})
            other.put_dataset(one)
            other.append_to_list("l", one)
    rounds: list[int] = []
    recorder.clear()
    recorder.on_sent = lambda data: rounds.append(len(data))
    assert len(client.get_datasets_from_list("l")) == 300
    assert len(rounds) < 60
    ahead = most = 0
    for line in recorder.commands():
        ahead = ahead + 1 if line[0] == b"GET" else 0
        most = max(most, ahead)
    assert 100 < most <= 256


def test_server_holds_little_for_a_reader(
    client: Client, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not more than a window of tensors is asked for before some of it has come."""
    monkeypatch.setattr(dataset_reading, "WINDOW_BYTES", 100_000)
    sizes = [1, 20_000, 20_000, 1, 30_000, 1, 1, 1, 8_000]
    client.put_dataset(Dataset("d", {str(i): np.ones(n) for i, n in enumerate(sizes)}))
    sent: list[int] = []
    recorder.clear()
    recorder.on_sent = lambda data: sent.append(data.count(b"$3\r\nGET"))
    found = client.get_dataset("d")
    assert [len(array) for array in found.values()] == sizes
    # Each large one by itself; what is small along with others.
    assert [n for n in sent if n] == [1, 1, 1, 1, 1, 4]


def test_deleting_a_list_is_repeated(client: Client, recorder: Recorder, db: Orchestrator) -> None:
    """A list whose datasets were deleted in part is still there, for the next try."""
    server = db.client()
    for name in "abc":
        server.put_dataset(Dataset(name, {"u": U}))
        server.append_to_list("l", name)
    recorder.cuts = [login_size(recorder, db) + 300]
    fresh = Client(recorder.address, password_file=db.password_file)
    with fresh, pytest.raises(StoreError):
        fresh.delete_list("l", datasets=True)
    assert server.get_list_length("l") == 3
    assert client.delete_list("l", datasets=True)
    assert server.redis.keys() == []


def test_put_cut_anywhere(db: Orchestrator, recorder: Recorder) -> None:
    """Wherever the connection breaks, the old dataset is there until the new one is."""
    server = db.client()
    with Client(recorder.address, password_file=db.password_file) as probe:
        probe.put_dataset(small(2))
    size = len(recorder.sent[0])
    for cut in range(login_size(recorder, db) + 1, size, 37):
        server.put_dataset(small(1))
        recorder.cuts = [cut, cut]
        with Client(recorder.address, password_file=db.password_file) as client:
            with pytest.raises(StoreError, match="second time"):
                client.put_dataset(small(2))
            assert server.get_dataset("d").meta["i"] == 1
            client.put_dataset(small(3))  # the client goes on
        assert server.get_dataset("d").meta["i"] == 3
    recorder.cuts = [size // 2]
    with Client(recorder.address, password_file=db.password_file) as client:
        client.put_dataset(small(4))  # once is made good
    assert server.get_dataset("d").meta["i"] == 4


@pytest.mark.parametrize("limit", [dataset_writing.LARGE_BYTES, 1 << 20])
def test_large_put_and_get_cut(
    client: Client,
    recorder: Recorder,
    db: Orchestrator,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
) -> None:
    monkeypatch.setattr(dataset_writing, "LARGE_BYTES", limit)
    server = db.client()
    server.put_dataset(small())
    large = Dataset("d", {"a": LARGE, "b": LARGE + 1})
    recorder.cuts = [20 << 20, 20 << 20]
    with pytest.raises(StoreError):
        client.put_dataset(large)
    assert server.get_dataset("d").meta["i"] == 1
    client.put_dataset(large)
    found = client.get_dataset("d")
    assert np.array_equal(found["b"], large["b"])
    # Parts of what was broken off expire; nothing else is there.
    left = {key for key in server.redis.keys() if server.redis.ttl(key) < 0}  # noqa: SIM118
    assert left == {b"{d}.meta", b"{d}.a", b"{d}.b"}


@pytest.mark.parametrize("limit", [1 << 30, 1 << 20])
def test_writer_killed(db: Orchestrator, recorder: Recorder, limit: int) -> None:
    """SIGKILL in the middle of a put leaves the old dataset, whole."""
    server = db.client()
    server.put_dataset(small())
    before = len(server.redis.client_list())
    halfway = threading.Event()
    go_on = threading.Event()

    def hold(data: bytes) -> None:
        if sum(map(len, recorder.sent)) > 20 << 20:
            halfway.set()
            go_on.wait(30)

    recorder.on_sent = hold
    program = (
        "import sys, numpy as np\n"
        "from ssdag.client import Client, Dataset\n"
        "from ssdag.client.datasets import writing as dataset_writing\n"
        f"dataset_writing.LARGE_BYTES = {limit}\n"
        "with Client(sys.argv[1], password_file=sys.argv[2]) as client:\n"
        "    a = np.ones(2 << 20)\n"
        "    client.put_dataset(Dataset('d', {'a': a, 'b': a}))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, recorder.address, db.password_file]
    ) as process:
        try:
            assert halfway.wait(60)
        finally:
            process.kill()
            process.wait()
            go_on.set()
    wait_until(
        lambda: len(server.redis.client_list()) <= before, what="the server has seen the end"
    )
    same = server.get_dataset("d")
    assert same.meta["i"] == 1
    assert same["u"].tolist() == U.tolist()
    assert server.redis.ttl("{d}.meta") == -1


def test_get_cut(client: Client, recorder: Recorder, db: Orchestrator) -> None:
    """A get is repeated on a new connection, in any of its rounds."""
    server = db.client()
    server.put_dataset(small())
    client.get_dataset("d")
    size = len(recorder.sent[0])
    login = login_size(recorder, db)
    for cut in range(login + 1, size, 11):
        recorder.cuts = [cut]
        with Client(recorder.address, password_file=db.password_file) as fresh:
            assert fresh.get_dataset("d")["u"].tolist() == U.tolist()
    server.append_to_list("l", "d")
    for cut in range(login + 1, size + 30, 23):
        recorder.cuts = [cut]
        with Client(recorder.address, password_file=db.password_file) as fresh:
            (found,) = fresh.get_datasets_from_list("l")
            assert found["u"].tolist() == U.tolist()


def test_append_is_never_sent_twice(client: Client, recorder: Recorder, db: Orchestrator) -> None:
    """A server that is stalled for longer than the client waits gets one append."""
    assert db.pid is not None
    server = db.client()
    impatient = Client(recorder.address, password_file=db.password_file, timeout_s=1.0)
    with impatient:
        impatient.append_to_list("l", "d")
        os.kill(db.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreError, match="silent for"):
                impatient.append_to_list("l", "d")
        finally:
            os.kill(db.pid, signal.SIGCONT)
        assert server.get_list_length("l") <= 2
        appended = [line for line in recorder.commands() if line[0] == b"RPUSH"]
        assert len(appended) == 2
        # A patient client waits, and appends once.
        os.kill(db.pid, signal.SIGSTOP)
        resume = threading.Timer(0.5, os.kill, (db.pid, signal.SIGCONT))
        resume.start()
        try:
            before = client.append_to_list("m", "d")
        finally:
            resume.join()
        assert before == server.get_list_length("m") == 1


def test_append_whose_answer_is_lost(client: Client, recorder: Recorder, db: Orchestrator) -> None:
    """The connection breaks right behind the append: it is said, and not tried again."""
    client.append_to_list("l", "d")
    login = login_size(recorder, db)
    for length in range(1, 32, 6):
        recorder.cuts = [login + length]
        with (
            Client(recorder.address, password_file=db.password_file) as fresh,
            pytest.raises(StoreError),
        ):
            fresh.append_to_list("l", "d")
    server = db.client()
    wait_until(lambda: server.get_list_length("l") > 1, what="the whole command is done")
    assert server.get_list_length("l") == 2
    for call in (Client.delete_dataset, Client.delete_list):
        recorder.cuts = [login + 20]
        with (
            Client(recorder.address, password_file=db.password_file) as fresh,
            pytest.raises(StoreError),
        ):
            call(fresh, "l")


def test_readers_beside_deletes(client: Client, db: Orchestrator) -> None:
    """A reader finds all of a dataset or nothing, while it comes and goes."""
    stop = threading.Event()

    def churn() -> None:
        with db.client().clone() as own:
            while not stop.is_set():
                own.put_dataset(Dataset("d", dict.fromkeys("abc", U)))
                own.rename_dataset("d", "e")
                own.copy_dataset("e", "d")
                own.delete_dataset("d")

    def read(call: Any) -> str:
        try:
            assert len(call()) in (1, 3)
        except MissingDataError as error:
            return "missing" if "no dataset 'd'" in str(error) else str(error)
        return "there"

    writer = threading.Thread(target=churn)
    writer.start()
    db.client().append_to_list("l", "d")
    try:
        seen = [read(lambda: client.get_dataset("d")) for _ in range(150)]
        seen += [read(lambda: client.get_datasets_from_list("l")) for _ in range(150)]
    finally:
        stop.set()
        writer.join()
    assert set(seen) <= {"missing", "there"}
