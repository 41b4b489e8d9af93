# SPDX-License-Identifier: BSD-3-Clause
"""Addresses, names, pickles and the weight of the client, without a server."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from ssdag.client import Client
from ssdag.client.shared import ClientReference, shared_client
from ssdag.client.transport.address import Address
from ssdag.client.transport.resp import ReplyError, command, explain, key_bytes
from ssdag.errors import ConfigError, DataError, DataFormatError, SerializationError, StoreError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:6379", Address(host="localhost", port=6379)),
        ("tcp://10.0.0.1:1", Address(host="10.0.0.1", port=1)),
        ("[::1]:6379", Address(host="::1", port=6379)),
        ("unix:///tmp/a b", Address(path="/tmp/a b")),
    ],
)
def test_address(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":1", "host:x", "h:0", "h:70000", "unix://", ",", "a:1,unix:///x"]
)
def test_bad_address(text: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        Client(text)


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSDB", raising=False)
    with pytest.raises(ConfigError, match="SSDB"):
        Client()
    monkeypatch.setenv("SSDB", "unix:///tmp/x")
    monkeypatch.setenv("SSDAG_PASSWORD_FILE", "/tmp/p")
    client = Client()
    assert (client.address, client.password_file) == ("unix:///tmp/x", "/tmp/p")
    assert Client("h:1").password_file is None


def test_names() -> None:
    assert key_bytes("a b\n\0ψ") == b"a b\n\0\xcf\x88"
    assert key_bytes(b"\xff\xfe".decode("utf-8", "surrogateescape")) == b"\xff\xfe"
    for name in ("", 3, None, b"x", "\ud800"):
        with pytest.raises(DataFormatError, match="name"):
            key_bytes(name)


def test_command() -> None:
    assert command(b"GET", b"a\r\nb") == b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n"


def test_explanations() -> None:
    assert isinstance(explain(ReplyError("WRONGTYPE x"), "h:1", "get"), DataError)
    full = explain(ReplyError("OOM command not allowed"), "h:1", "put")
    assert isinstance(full, StoreError)
    assert "memory_limit_bytes" in str(full)
    assert full.transient
    assert not explain(ReplyError("NOAUTH x"), "h:1", "put").transient
    assert isinstance(
        explain(ReplyError("ERR Protocol error: invalid bulk length"), "", ""), DataFormatError
    )


def test_pickle_has_no_password(tmp_path: object) -> None:
    with pytest.raises(SerializationError, match="password_file"):
        pickle.dumps(Client("h:1", password="secret"))
    back = pickle.loads(pickle.dumps(Client("h:1", password_file="/p", timeout_s=2.0)))
    assert (back.address, back.password_file) == ("h:1", "/p")


def test_reference_loads_as_the_shared_client() -> None:
    reference = ClientReference("h:1", "/p")
    client = pickle.loads(pickle.dumps(reference))
    assert client is shared_client("h:1", "/p")
    client.close()
    assert not client.closed


def test_nobody_there(tmp_path: object) -> None:
    client = Client(f"unix://{tmp_path}/none.sock")
    with pytest.raises(StoreError, match="cannot connect"):
        client.ping()
    client.close()
    with pytest.raises(StoreError, match="closed"):
        client.ping()
    with pytest.raises(StoreError, match="password file"):
        Client(f"unix://{tmp_path}/none.sock", password_file=f"{tmp_path}/none").ping()


def test_imports_little() -> None:
    code = (
        "import sys, numpy, time; before = set(sys.modules); t = time.process_time();"
        "import ssdag.client; ms = (time.process_time() - t) * 1e3;"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before};"
        "print(ms, *(m for m in new if m not in sys.stdlib_module_names))"
    )
    spent_ms = []
    for _ in range(3):
        words = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        assert words[1:] == ["ssdag"]
        spent_ms.append(float(words[0]))
    assert min(spent_ms) < 100
