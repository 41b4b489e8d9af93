# SPDX-License-Identifier: BSD-3-Clause
"""Parts of a watcher without servers: replies that come in pieces, the map of a cluster."""

from __future__ import annotations

import contextlib
import select
import socket
from typing import TYPE_CHECKING, Any

import pytest

from ssdag.client.transport.address import Address, Place
from ssdag.client.transport.link import Answer, Link, Push
from ssdag.client.transport.resp import ConnectionLostError, ReplyError
from ssdag.client.waiting.conditions import checked, complete_dataset, existence, list_length
from ssdag.client.waiting.watch_map import WatchMap
from ssdag.client.waiting.watch_node import WatchedNode, check_events
from ssdag.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def ends() -> Iterator[tuple[Link, socket.socket]]:
    """A link and the other end of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = Link(Address("127.0.0.1", listener.getsockname()[1]), "secret")
        far = listener.accept()[0]
    far.settimeout(10)
    with far:
        yield link, far
        link.close()


def receive(link: Link) -> list[Push | Answer]:
    """Wait until something is there, and take it."""
    assert select.select([link], [], [], 10)[0]
    return link.receive()


HELLO = b"*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$7\r\ndefault\r\n$6\r\nsecret\r\n"

REPLIES: list[tuple[bytes, Any]] = [
    (b"%1\r\n$6\r\nserver\r\n$6\r\nvalkey\r\n", [b"server", b"valkey"]),
    (b":17\r\n", 17),
    (b"$5\r\na\r\nb\0\r\n", b"a\r\nb\0"),
    (b"_\r\n", None),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"#t\r\n", 1),
    (b",1.5\r\n", b"1.5"),
    (b"+OK\r\n", "OK"),
    (b"*2\r\n:1\r\n*1\r\n$0\r\n\r\n", [1, [b""]]),
    (b"~1\r\n:3\r\n", [3]),
    (b"=7\r\ntxt:abc\r\n", b"abc"),
]
PUSH = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$3\r\nset\r\n"


def test_replies_in_pieces(ends: tuple[Link, socket.socket]) -> None:
    link, far = ends
    link.flush()
    assert far.recv(1000) == HELLO
    for i in range(1, len(REPLIES) + 1):
        link.ask(b"x", i)
    assert link.unanswered == len(REPLIES) + 1
    data = b"".join(reply + PUSH for reply, _ in REPLIES) + b"-ERR no\r\n!6\r\nERR no\r\n"
    got: list[Push | Answer] = []
    for i in range(len(data)):
        far.sendall(data[i : i + 1])
        got += receive(link)
    pushes = [item for item in got if isinstance(item, Push)]
    answers = [item for item in got if isinstance(item, Answer)]
    assert [push.parts for push in pushes] == [(b"message", b"c", b"set")] * len(REPLIES)
    assert [a.value for a in answers[:-2]] == [value for _, value in REPLIES]
    assert [a.asked for a in answers[:-1]] == [Link.HELLO, *range(1, len(REPLIES) + 1)]
    # One answer more than questions: a subscription was refused somewhere.
    assert answers[-1].asked is None
    assert all(isinstance(a.value, ReplyError) for a in answers[-2:])


def test_the_other_end_hangs_up(ends: tuple[Link, socket.socket]) -> None:
    link, far = ends
    link.flush()
    far.recv(1000)
    far.sendall(b":1\r\n")
    far.close()
    assert receive(link) == [Answer(Link.HELLO, 1)]
    with pytest.raises(ConnectionLostError):
        receive(link)


def test_more_than_the_kernel_takes(ends: tuple[Link, socket.socket]) -> None:
    link, far = ends
    line = b"x" * 100_000
    for _ in range(100):
        link.tell(line)
    assert link.writing
    total = len(HELLO) + 100 * len(line)
    while total:
        total -= len(far.recv(1 << 20))
        link.flush()
    assert not link.writing


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address("127.0.0.1", listener.getsockname()[1])

    def connect() -> None:
        """Fail at once, or at the first look."""
        with contextlib.closing(Link(address, None)) as link:
            receive(link)

    with pytest.raises((StoreError, ConnectionLostError)):
        connect()
    with pytest.raises(StoreError):
        Link(Address(path="/nowhere/socket"), None)


A, B, C = (Address("10.0.0.1", port) for port in (1, 2, 3))


def described(*nodes: tuple[Address, str, int, str]) -> bytes:
    return "".join(
        f"{address.port:040d} {address}@1 {flags} - 0 0 {epoch} connected{ranges}\n"
        for address, flags, epoch, ranges in nodes
    ).encode()


def test_the_map_of_a_cluster() -> None:
    known = WatchMap(Place((A,), True))
    assert known.owner(b"foo") is None  # slot 12182
    assert not known.known
    first = described((A, "master", 1, " 0-9999"), (B, "master", 2, " 10000-16383"))
    assert known.learn(first, A)
    assert known.owner(b"foo") == B
    assert known.learn(first, A) is False
    moved = described((A, "master", 3, " 0-16383"), (B, "master,fail", 2, ""))
    assert known.learn(moved, A)
    assert known.owner(b"foo") == A
    assert list(known.writers()) == [A]
    assert known.learn(first, B) is None  # B has not heard of it yet
    assert known.owner(b"foo") == A
    assert known.learn(described((C, "master", 0, "")), C) is None
    # Others say it again and again: it is another cluster.
    answers = [known.learn(first, B) for _ in range(10)]
    assert True in answers
    assert known.owner(b"foo") == B


def test_a_map_is_asked_for_less_often_the_longer_it_is_wrong() -> None:
    known = WatchMap(Place((A,), True))
    pauses = []
    for _ in range(10):
        known.asked(0.0)
        known.hasten(0.0)
        pauses.append(known.due_s)
    assert pauses == sorted(pauses)
    assert 0 < pauses[0] < 0.05 < pauses[-1] <= 0.5
    known.calm()
    known.asked(0.0)
    known.hasten(0.0)
    assert known.due_s == pauses[0]


def test_a_node_that_hangs_up_at_once_is_left_alone_longer() -> None:
    node = WatchedNode(A)
    pauses = []
    for i in range(10):
        node.began_s = 100.0 * i
        node.put_off(100.0 * i + 0.001)
        pauses.append(node.next_s - node.began_s)
    assert pauses == sorted(pauses)
    assert pauses[-1] < 1
    node.put_off(node.began_s + 50)  # it was a good one
    assert node.next_s - node.began_s - 50 < 0.05


@pytest.mark.parametrize("flags", [b"AK", b"g$lhtK", b"K$glhtxe"])
def test_enough_notifications(flags: bytes) -> None:
    check_events([b"notify-keyspace-events", flags], A)
    check_events(ReplyError("ERR unknown command"), A)


@pytest.mark.parametrize("flags", [b"", b"AE", b"K$g", b"K"])
def test_too_few_notifications(flags: bytes) -> None:
    with pytest.raises(StoreError, match="notify-keyspace-events") as caught:
        check_events([b"notify-keyspace-events", flags], A)
    assert not caught.value.transient


def test_conditions() -> None:
    assert existence("tensor", "a", b"p.a").looks() == [((b"EXISTS", b"p.a"), (b"p.a",))]
    data = complete_dataset("d", b"p.{d}")
    assert data.looks() == [((b"HEXISTS", b"p.{d}.meta", b".COMPLETE"), (b"p.{d}.meta",))]
    least = list_length("l", b"l", 3)
    assert [least.holds(n) for n in (2, 3, 4, None)] == [False, True, True, False]
    several = checked("f", (b"a", b"b", b"a"), lambda: True)
    assert [keys for _, keys in several.looks()] == [(b"a",), (b"b",)]
    assert str(data) == "dataset 'd'"
    for length in (-1, True, 1.5):
        with pytest.raises(ConfigError):
            list_length("l", b"l", length)  # type: ignore[arg-type]
