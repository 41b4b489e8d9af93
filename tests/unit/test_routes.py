# SPDX-License-Identifier: BSD-3-Clause
"""How workers elsewhere learn of the driver's servers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from ssdag.client.transport.address import Address, read_password
from ssdag.errors import ConfigError, StoreError
from ssdag.executors.pilot.contact import Entrance
from ssdag.executors.pilot.questions import Questions
from ssdag.providers import LocalProvider, SlurmProvider
from ssdag.wire import routes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """Two servers of this process, and their password."""
    password = tmp_path / "password"
    password.write_text("a secret\n")
    for address in ("unix:///run/none/server", "127.0.0.1:7001,127.0.0.1:7002"):
        routes.serve(address, str(password))
    yield password
    for address in ("unix:///run/none/server", "127.0.0.1:7001,127.0.0.1:7002"):
        routes.withdraw(address)
    assert not routes.is_served("127.0.0.1:7002")
    assert not routes.is_password_file(str(password))


def entrance(provider: Any, **options: Any) -> Entrance:
    return Entrance(provider, **{"address": None, "tunnel": False, "python": "python3", **options})


def test_the_driver_tells_of_its_servers_only(served: Path, tmp_path: Path) -> None:
    driver = entrance(SlurmProvider())
    assert driver.elsewhere
    assert not entrance(LocalProvider()).elsewhere
    assert driver.answer("password", str(served)) == "a secret"
    other = tmp_path / "key"
    other.write_text("another secret")
    for path in (other, served.parent / "x" / ".." / "key", tmp_path / "none"):
        with pytest.raises(ConfigError, match="no password file of a server of this run"):
            driver.answer("password", str(path))
    assert driver.answer("address", "unix:///run/other/server") is None
    assert driver.answer("address", "127.0.0.1:7002") is None, "it may be the same machine"
    with pytest.raises(ConfigError, match=r"interface=.*tunnel=True"):
        driver.answer("address", "unix:///run/none/server")


def test_a_tunnel_needs_a_host() -> None:
    with pytest.raises(ConfigError, match="provider slurm reaches no host by ssh"):
        entrance(SlurmProvider(), tunnel=True)


def test_workers_ask_once(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = entrance(SlurmProvider())
    asked: list[tuple[str, str]] = []

    def ask(number: int, what: str, name: str) -> None:
        asked.append((what, name))
        try:
            questions.answered(number, {"answer": driver.answer(what, name)})
        except ConfigError as error:
            questions.answered(number, {"error": str(error)})

    questions = Questions(str(tmp_path), ask)
    monkeypatch.setenv(routes.VARIABLE, questions.path)
    monkeypatch.setattr(routes, "_known", {})
    try:
        password = served.read_text()
        hidden = str(served)
        os.rename(served, tmp_path / "elsewhere")
        monkeypatch.setattr(driver, "answer", lambda what, name: password.strip())
        assert [read_password(hidden) for _ in range(3)] == ["a secret"] * 3
        assert asked == [("password", hidden)]
        monkeypatch.undo()
        os.rename(tmp_path / "elsewhere", served)
        monkeypatch.setenv(routes.VARIABLE, questions.path)
        with pytest.raises(StoreError, match="only to be reached on"):
            Address.parse("unix:///run/none/server").connect(1.0)
        with pytest.raises(ConnectionRefusedError):
            Address.parse("127.0.0.1:7002").connect(1.0)
        assert asked[-1] == ("address", "127.0.0.1:7002")
        with pytest.raises(StoreError, match="no password file"):
            read_password(str(tmp_path / "none"))
        assert Address.parse("10.0.0.1:7002").ways() == [Address("10.0.0.1", 7002)]
        assert len(asked) == 4, "far addresses mean the same everywhere"
    finally:
        questions.close()
    with pytest.raises(StoreError, match="does not say how"):
        read_password(str(tmp_path / "another"))


def test_without_a_manager_nobody_is_asked(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="this machine does not see its files"):
        read_password(str(tmp_path / "none"))
    assert Address.parse("unix:///run/none/server").ways() == [Address(path="/run/none/server")]
