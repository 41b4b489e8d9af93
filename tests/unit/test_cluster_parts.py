# SPDX-License-Identifier: BSD-3-Clause
"""Slots, redirections and places, without a server."""

from __future__ import annotations

import pickle

import pytest

from ssdag.client import Client
from ssdag.client.transport.address import Address, Place
from ssdag.client.transport.asking import split
from ssdag.client.transport.resp import command, commands
from ssdag.client.transport.slots import key_of, parse_nodes, parse_redirection, slot_of
from ssdag.errors import ConfigError, StoreError

A, B, C = (Address(host="10.0.0.1", port=n) for n in (1, 2, 3))

NODES = (
    "aa :1@10001,name.example,tls-port=0 myself,master - 0 0 7 connected 0-5460 9000 [93->-bb]\n"
    "bb 10.0.0.1:2@10002 master,fail - 0 0 2 connected 5461-8999 9001-16383\n"
    "cc 10.0.0.1:3@10003 slave,fail? bb 0 0 2 connected\n"
    "dd :0@0 slave,fail,noaddr bb 0 0 2 disconnected\n"
)


@pytest.mark.parametrize(
    ("key", "slot"),
    # The first is in the specification.
    [(b"123456789", 0x31C3), (b"foo", 12182), (b"{foo}.bar", 12182), (b"a{foo}b{c}", 12182),
     (b"", 0)],
)  # fmt: skip
def test_slot(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (b"GET k", b"k"),
        (b"get k", b"k"),
        (b"PING", None),
        (b"PUBLISH c x", None),
        (b"XINFO STREAM k", b"k"),
        (b"EVAL s 2 k l a", b"k"),
        (b"EVAL s 0 a", None),
        (b"ZUNION 2 k l", b"k"),
        (b"XREAD COUNT 1 STREAMS k 0", b"k"),
        (b"XREADGROUP GROUP g c STREAMS k >", b"k"),
    ],
)
def test_key_of_a_command(line: bytes, key: bytes | None) -> None:
    assert key_of(line.split()) == key


def test_nodes() -> None:
    found = parse_nodes(NODES, A)
    assert [n.address for n in found.nodes] == [A, B, C]
    assert [n.address for n in found.primaries] == [A, B]
    table = found.table()
    assert {None} & set(table) == set()
    assert (table[0], table[5461], table[9000], table[16383]) == (A, B, A, B)
    assert found.epoch == 7
    first, second, third = found.nodes
    assert (first.failed, second.failed, third.primary) == (False, True, "bb")
    assert found.has_heir(second)
    assert not found.has_heir(first)
    with pytest.raises(StoreError, match="oddly"):
        parse_nodes("what", A)


def test_redirections() -> None:
    assert parse_redirection("MOVED 5 10.0.0.1:2", A) == (5, B)
    assert parse_redirection("ASK 5 :3", A) == (5, C)
    assert parse_redirection("MOVED 5 ::1:3", A) == (5, Address(host="::1", port=3))
    for text in ("MOVED 5 ?:0", "MOVED 5 h:0", "MOVED", "MOVED x h:1"):
        assert parse_redirection(text, A) is None


def test_commands_are_found_in_what_is_sent() -> None:
    data = commands([(b"SET", b"k", b"*1\r\n"), (b"get", b""), (b"MULTI",)])
    parts: list[bytes | memoryview] = [data[:5], b"", memoryview(data)[5:17], data[17:]]
    found = list(split(parts))
    assert [name for name, _ in found] == [b"SET", b"GET", b"MULTI"]
    assert b"".join(found[0][1]) == command(b"SET", b"k", b"*1\r\n")
    assert b"".join(b for _, buffers in found for b in buffers) == data


@pytest.mark.parametrize(
    ("text", "clustered", "addresses", "again"),
    [
        ("h:1", None, 1, "h:1"),
        ("h:1,", None, 1, "h:1,"),
        ("h:1", True, 1, "h:1,"),
        ("h:1,tcp://h:2,h:1", None, 2, "h:1,h:2"),
        ("h:1,h:2", False, 1, "h:1"),
        ("unix:///a,b", None, 1, "unix:///a,b"),
    ],
)
def test_place(text: str, clustered: bool | None, addresses: int, again: str) -> None:
    place = Place.parse(text, clustered)
    assert len(place.addresses) == addresses
    assert str(place) == again
    assert Place.parse(again) == place


def test_databases_by_identifier(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SSDB": "h:1", "SSDB_x": "h:2,h:3", "SSDAG_PASSWORD_FILE_x": "/p",
        "SSKEYOUT_x": "out", "SSKEYIN_x": "in,other", "SSDB_y": "h:4", "SR_DB_TYPE_y": "clustered",
        "SSDB_z": "h:5,h:6", "SR_DB_TYPE_z": "Standalone",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SSDAG_PASSWORD_FILE", raising=False)
    client = Client(identifier="x")
    assert (client.address, client.clustered, client.password_file) == ("h:2,h:3", True, "/p")
    assert (client.prefixes.out, client.prefixes.source) == ("out", "in")
    back = pickle.loads(pickle.dumps(client))
    assert (back.address, back.clustered, back.prefixes.out) == ("h:2,h:3", True, "out")
    assert Client(identifier="y").address == "h:4,"
    assert Client(identifier="y", cluster=False).address == "h:4"
    assert not Client(identifier="z").clustered
    assert Client().address == "h:1"
    with pytest.raises(ConfigError, match="SSDB_none"):
        Client(identifier="none")
    with pytest.raises(ConfigError, match="both"):
        Client("h:1", identifier="x")
    monkeypatch.setenv("SR_DB_TYPE", "Cloud")
    with pytest.raises(ConfigError, match="SR_DB_TYPE='cloud'"):
        Client()
