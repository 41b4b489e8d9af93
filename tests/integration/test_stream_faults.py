# SPDX-License-Identifier: BSD-3-Clause
"""Streams when readers, writers, connections and servers die: nothing twice, nothing lost."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ssdag.client import Client
from ssdag.client.streams import reader as stream_reader
from ssdag.client.transport import deadline
from ssdag.errors import DataError, DataTimeoutError, MissingDataError, StoreError
from ssdag.services.orchestrator import Orchestrator
from tests.conftest import wait_until
from tests.integration.test_client_faults import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.client.streams.stream import Stream

LARGE = np.arange(4096.0)
MEGABYTE = 1 << 20

#: Keys with bytes of large records.
PAYLOADS = "{u}:stream:*:*"


@pytest.fixture(scope="module")
def db() -> Iterator[Orchestrator]:
    with Orchestrator() as service:
        yield service


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits looks again after a short time, so that tests need not wait for that."""
    monkeypatch.setattr(stream_reader, "_LOOK_S", 0.1)
    monkeypatch.setattr(deadline, "_LOOK_AGAIN_S", 0.1)


@pytest.fixture
def client(db: Orchestrator) -> Iterator[Client]:
    with Client(db.address, password_file=db.password_file) as made:
        made.call("FLUSHDB")
        yield made


@contextlib.contextmanager
def program(db: Orchestrator, code: str) -> Iterator[subprocess.Popen[str]]:
    """Run code that has a client, up to the first line that it prints; killed at the end."""
    begin = "import os, numpy as np\nfrom ssdag.client import Client\nclient = Client()\n"
    with subprocess.Popen(
        [sys.executable, "-c", begin + code],
        env={**os.environ, **db.environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def numbers(stream: Stream, count: int | None = None) -> list[int]:
    with stream.reader(timeout_s=20) as reader:
        if count is None:
            return [int(np.ravel(value)[0]) for value in reader]
        return [int(np.ravel(next(reader))[0]) for _ in range(count)]


# -- processes ------------------------------------------------------------------------


READ_ONE = "reader = client.stream('u').reader({})\nprint(reader.read(), flush=True); input()"


@pytest.mark.parametrize("size", [1, 4096])
def test_reader_killed_with_a_record_in_work(client: Client, db: Orchestrator, size: int) -> None:
    stream = client.stream("u")
    for i in range(3):
        stream.append(np.full(size, i))
    with program(db, READ_ONE.format("")) as reader, stream.reader(timeout_s=20) as other:
        assert len(stream) == 3
        # One that comes while the first one lives gets what is left.
        assert next(other)[0] == 1
        reader.kill()
        # And what the first one had in work, once it is known that it is gone.
        assert sorted(int(next(other)[0]) for _ in range(2)) == [0, 2]
    assert len(stream) == 0
    assert stream.info().groups["default"].readers == 0


def test_reader_started_anew_begins_with_what_it_had(client: Client, db: Orchestrator) -> None:
    stream = client.stream("u")
    stream.append(0)
    stream.append(1)
    with program(db, READ_ONE.format("consumer='rank 0'")):
        pass
    with stream.reader(consumer="rank 0", timeout_s=20) as again:
        assert [int(next(again)), int(next(again))] == [0, 1]


def test_a_writer_is_told_that_the_only_reader_was_killed(client: Client, db: Orchestrator) -> None:
    stream = client.stream("u", capacity=1)
    stream.append(0)

    def told() -> str:
        with pytest.raises(DataTimeoutError) as caught:
            stream.append(1, timeout_s=0)
        return str(caught.value)

    with program(db, READ_ONE.format("")) as reader:
        assert "a reader is slow" in told()
        reader.kill()
        wait_until(
            lambda: "remove_group('default')" in told(), what="the server sees that it is gone"
        )


def test_end_comes_after_what_a_dead_reader_had(client: Client, db: Orchestrator) -> None:
    stream = client.stream("u")
    stream.append(0)
    stream.end()
    with program(db, READ_ONE.format("")), stream.reader(timeout_s=20) as other:
        assert list(other) == []  # the first one lives, and will do it
    wait_until(lambda: numbers(stream) == [0], what="the server sees that it is gone")


def test_record_in_work_is_given_back_by_an_error(client: Client) -> None:
    stream = client.stream("u")
    stream.append(7)

    def fail() -> None:
        with stream.reader(timeout_s=20) as reader:
            assert next(reader) == 7
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert numbers(stream, 1) == [7]


def test_hung_reader_loses_its_record_if_that_is_asked_for(client: Client) -> None:
    stream = client.stream("u")
    stream.append(7)
    with stream.reader() as hung:
        assert hung.read(20) is not None
        with stream.reader(take_over_s=0.05, timeout_s=20) as other:
            assert next(other) == 7


def test_writer_killed_while_it_waits(client: Client, db: Orchestrator) -> None:
    """What it had sent already is no record, and goes by itself."""
    stream = client.stream("u", capacity=1)
    stream.append(0)
    code = "out = client.stream('u')\nprint(flush=True)\nout.append(np.ones(100_000))"
    with program(db, code):
        wait_until(lambda: client.call("KEYS", PAYLOADS), what="the writer waits")
    assert numbers(stream, 1) == [0]
    (key,) = client.call("KEYS", PAYLOADS)
    assert 0 < client.call("PTTL", key) <= 60_000
    stream.append(np.full(4096, 1), timeout_s=20)
    assert numbers(stream, 1) == [1]


def test_bytes_that_are_gone_are_sent_again(client: Client) -> None:
    """A writer was stopped for so long that what it had sent went away."""
    stream = client.stream("u", capacity=1)
    stream.append(0)
    with ThreadPoolExecutor(1) as pool:
        # Another writer, which does not know yet that the stream is full.
        waiting = pool.submit(stream.writer().append, LARGE, timeout_s=30)
        wait_until(lambda: client.call("KEYS", PAYLOADS), what="the writer waits")
        client.call("DEL", *client.call("KEYS", PAYLOADS))
        assert numbers(stream, 1) == [0]
        waiting.result(20)
    with stream.reader(timeout_s=20) as reader:
        assert (next(reader) == LARGE).all()


def test_all_of_an_old_name_is_taken_up(client: Client) -> None:
    """One that died in the middle of two commands may have left more than one record."""
    stream = client.stream("u")
    for i in range(4):
        stream.append(i)
    client.call("XGROUP", "CREATE", "{u}:stream", "default", "0")
    line = ("XREADGROUP", "GROUP", "default", "ssdag/rank 0", "COUNT", 3, "STREAMS")
    client.call(*line, "{u}:stream", ">")
    with stream.reader(consumer="rank 0", timeout_s=20) as reader:
        assert [int(next(reader)) for _ in range(4)] == [0, 1, 2, 3]


def test_writer_that_nobody_wakes_looks_again(client: Client) -> None:
    """As if another one had been woken in its place and had died then."""
    stream = client.stream("u", capacity=1)
    stream.append(0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stream.append, 1)
        wait_until(lambda: b"cmd=blpop" in client.call("CLIENT", "LIST"), what="it waits")
        client.call("XTRIM", "{u}:stream", "MAXLEN", 0)  # room, and no token
        waiting.result(20)


def test_fork_writes_as_another_writer(client: Client) -> None:
    stream = client.stream("u", writers=2)
    stream.append(0)
    pid = os.fork()
    if pid == 0:
        try:
            stream.append(1)
            stream.end()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    stream.append(2)
    stream.end()
    assert numbers(stream) == [0, 1, 2]


def test_fork_does_not_read_in_its_parents_place(client: Client) -> None:
    stream = client.stream("u")
    stream.append(0)
    stream.append(1)
    with stream.reader(timeout_s=20) as reader:
        assert next(reader) == 0
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                next(reader)
            except DataError:
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        assert next(reader) == 1


def test_writers_of_many_tasks_leave_little_behind(client: Client) -> None:
    """Each task has its own stream object; they append as one after the other."""
    for i in range(50):
        client.stream("u", capacity=100).append(i)
    client.stream("u").end()
    assert numbers(client.stream("u")) == list(range(50))
    assert len(client.call("KEYS", "{u}:stream:*")) == 3  # state, room, one writer


# -- connections ----------------------------------------------------------------------

_LOGGED_IN = len(b"+OK\r\n")


@pytest.fixture
def proxy(db: Orchestrator) -> Iterator[Proxy]:
    with Proxy(db.address.removeprefix("unix://")) as relay:
        yield relay


@pytest.mark.parametrize("size", [1, 4096])
def test_lost_answer_to_an_append(
    client: Client, db: Orchestrator, proxy: Proxy, size: int
) -> None:
    """It was done, nobody knows, it is sent again: and is there once."""
    with Client(proxy.address, password_file=db.password_file) as far:
        proxy.cuts = [(None, _LOGGED_IN + 1 + 5 * (size > 1))]
        far.stream("u").append(np.full(size, 5))
    assert proxy.connections == 2
    stream = client.stream("u")
    assert stream.info().appended == 1
    assert [client.call("PTTL", key) for key in client.call("KEYS", PAYLOADS)] == [-1] * (size > 1)
    stream.end()
    assert numbers(stream) == [5]
    assert not client.call("KEYS", PAYLOADS)


def test_append_cut_in_the_middle(client: Client, db: Orchestrator, proxy: Proxy) -> None:
    with Client(proxy.address, password_file=db.password_file) as far:
        proxy.cuts = [(MEGABYTE, None)]
        out = far.stream("u")
        out.append(np.full(MEGABYTE, 5.0))
        out.end()
    (value,) = client.stream("u")
    assert value.shape == (MEGABYTE,)
    assert (value == 5).all()


def test_lost_answer_to_a_read(client: Client, db: Orchestrator, proxy: Proxy) -> None:
    """Wherever the answers are cut: each record comes once, in order."""
    stream = client.stream("u", capacity=100, evict=False)
    for i in range(8):
        stream.append(np.full(4096 if i % 2 else 1, i))
    stream.end()
    for at in (1, 20, 60, 90, 200, 20_000, 33_000, 70_000):
        group = f"cut {at}"
        before = proxy.connections
        with (
            Client(proxy.address, password_file=db.password_file) as far,
            far.stream("u").reader(group, timeout_s=20) as reader,
        ):
            assert int(next(reader)[0]) == 0
            far.release()
            proxy.cuts = [(None, _LOGGED_IN + at)]
            assert [int(value[0]) for value in reader] == list(range(1, 8))
        # One that says that the reader lives, one before, one that is cut, one more.
        assert proxy.connections - before == 4


def test_connections_that_break_again_and_again(
    client: Client, db: Orchestrator, proxy: Proxy
) -> None:
    stream = client.stream("u", capacity=2)
    stop = threading.Event()

    def cut() -> None:
        while not stop.wait(0.02):
            proxy.hang_up()

    with Client(proxy.address, password_file=db.password_file) as far:
        far_stream = far.stream("u")
        with ThreadPoolExecutor(2) as pool:
            cutter = pool.submit(cut)
            reading = pool.submit(numbers, stream)
            try:
                # Its own connection breaks; after an error nobody knows, and that is said.
                for i in range(150):
                    before = stream.info().appended
                    try:
                        far_stream.append(np.full(2048 * (i % 2) + 1, i), timeout_s=20)
                    except StoreError:
                        if stream.info().appended == before:
                            far_stream.append(i, timeout_s=20)
                stream.end()
                assert reading.result(30) == list(range(150))
            finally:
                stop.set()
                cutter.result(20)


def test_interrupted_read_and_append(client: Client) -> None:
    """Ctrl-C while they wait: they end at once, and nothing is lost or there twice."""
    full = client.stream("full", capacity=1)
    full.append(0)
    stream = client.stream("u")
    with stream.reader(timeout_s=20) as reader:
        for waits in (reader.read, lambda: full.append(1)):
            with pytest.raises(KeyboardInterrupt), interrupted(client):
                waits()
        stream.append(5)
        assert next(reader) == 5
    assert numbers(full, 1) == [0]
    full.append(2)
    full.end()
    assert numbers(full) == [2]


@contextlib.contextmanager
def interrupted(client: Client) -> Iterator[None]:
    """Send Ctrl-C to this process once a command of it waits in the server."""
    main = threading.get_ident()

    def interrupt() -> None:
        with client.clone() as look:
            wait_until(lambda: b" flags=b" in look.call("CLIENT", "LIST"), what="it waits")
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        thread.join()


# -- servers --------------------------------------------------------------------------


def test_paused_server(client: Client, db: Orchestrator) -> None:
    stream = client.stream("u", capacity=2)
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(numbers, client.stream("u"))
        assert db.pid is not None
        os.kill(db.pid, signal.SIGSTOP)
        try:
            writing = pool.submit(lambda: list(map(stream.append, range(10))))
            assert not writing.done()
        finally:
            os.kill(db.pid, signal.SIGCONT)
        writing.result(20)
        stream.end()
        assert reading.result(20) == list(range(10))


def test_silent_server_is_given_up(client: Client, db: Orchestrator) -> None:
    assert db.pid is not None
    with Client(db.address, password_file=db.password_file, timeout_s=0.3) as hasty:
        stream = hasty.stream("u", capacity=1)
        # Waiting in the server for longer than the limit is not silence.
        with stream.reader(timeout_s=0.7) as reader, pytest.raises(DataError, match="nothing"):
            reader.read()
        stream.append(0)
        with pytest.raises(DataError, match="full"):
            stream.append(1, timeout_s=0.7)
        os.kill(db.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreError, match="silent"):
                stream.append(1)
        finally:
            os.kill(db.pid, signal.SIGCONT)


def test_server_dies_under_readers_and_writers() -> None:
    with Orchestrator() as db, ThreadPoolExecutor(2) as pool:
        stream = db.client().stream("u", capacity=1)
        full = db.client().stream("full", capacity=1)
        full.append(0)
        reading = pool.submit(next, iter(stream))
        writing = pool.submit(full.append, 1)
        wait_until(lambda: "default" in stream.info().groups)
        assert db.pid is not None
        os.kill(db.pid, signal.SIGKILL)
        for waiting in (reading, writing):
            with pytest.raises((StoreError, MissingDataError)):
                waiting.result(20)


def test_server_started_anew_has_lost_the_stream() -> None:
    with Orchestrator(restart=lambda node, error, deaths: True) as db:
        stream = db.client().stream("u", capacity=5)
        stream.append(0)
        with stream.reader(timeout_s=20) as reader:
            assert next(reader) == 0
            pid = db.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: db.pid not in (None, pid) and db.is_active())
            with pytest.raises((MissingDataError, StoreError)):
                reader.read()
        stream.append(1)
        assert stream.info().capacity == 5
        stream.end()
        assert numbers(stream) == [1]


def test_memory_limit() -> None:
    """What did not fit is not in the stream, and nothing is left of it."""
    with Orchestrator(memory_limit_bytes=30 * MEGABYTE) as db:
        stream = db.client().stream("u", capacity=100)
        for count in range(100):
            try:
                stream.append(np.full(MEGABYTE // 2, count))
            except StoreError as error:
                said = str(error)
                break
        assert "memory" in said
        assert 2 <= count < 10
        assert stream.info().appended == count
        assert numbers(stream, count) == list(range(count))
        stream.append(np.zeros(MEGABYTE // 2), timeout_s=20)


def test_memory_is_bounded_with_a_slow_reader() -> None:
    """40 records of 8 MB through a stream of 3, writers many times as fast as the reader."""
    size = 8 * MEGABYTE
    with Orchestrator() as db, ThreadPoolExecutor(1) as pool:
        stream = db.client().stream("u", capacity=3)
        data = np.zeros(size // 8)

        def write() -> None:
            for _ in range(40):
                stream.append(data, timeout_s=60)
            stream.end()

        def memory() -> int:
            text = db.client().call("INFO", "memory").decode()
            return int(text.partition("used_memory:")[2].split()[0])

        before = memory()
        writing = pool.submit(write)
        most = 0
        with db.client().stream("u").reader(timeout_s=60) as reader:
            for _ in reader:
                most = max(most, memory() - before)
        writing.result(60)
        assert most < 5 * size
        wait_until(lambda: memory() - before < size // 2, what="the rest is freed")


def test_readers_of_others_are_left_alone(client: Client) -> None:
    """One with plain Redis commands keeps what it has taken."""
    stream = client.stream("u")
    stream.append(0)
    stream.append(1)
    with stream.reader(timeout_s=20) as reader:
        assert next(reader) == 0
        line = ("XREADGROUP", "GROUP", "default", "redis-cli", "COUNT", 1, "STREAMS")
        assert client.call(*line, "{u}:stream", ">")[0][1][0][0] == b"2-0"
        with pytest.raises(DataTimeoutError):
            reader.read(0.01)
    assert len(stream) == 1
