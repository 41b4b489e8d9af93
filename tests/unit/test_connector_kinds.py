# SPDX-License-Identifier: BSD-3-Clause
"""Connectors by the names of configuration files."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import pytest

import ssdag.connectors
from ssdag.connectors import Connector, DirectoryConnector, named
from ssdag.connectors.named import connector_named
from ssdag.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

#: What ``pyproject.toml`` says, also where an older version is installed.
POINTS = {
    "adios": "ssdag.connectors.adios:AdiosConnector",
    "directory": "ssdag.connectors.directory:DirectoryConnector",
    "dragon": "ssdag.connectors.dragon:DragonConnector",
    "redis": "ssdag.connectors.redis:RedisConnector",
    "shared_memory": "ssdag.connectors.shared_memory:SharedMemoryConnector",
}


@pytest.fixture(autouse=True)
def points(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found = dict(POINTS)
    monkeypatch.setattr(
        named,
        "entry_points",
        lambda group: [EntryPoint(name, value, group) for name, value in found.items()],
    )
    return found


def test_every_connector_has_its_name() -> None:
    classes = {
        made.kind: f"{made.__module__}:{made.__name__}"
        for made in (getattr(ssdag.connectors, name) for name in ssdag.connectors.__all__)
        if isinstance(made, type) and issubclass(made, Connector) and made is not Connector
    }
    assert classes == POINTS


def test_tables(tmp_path: Path) -> None:
    made = connector_named({"kind": "directory", "path": tmp_path / "x", "scope": "shared"})
    assert isinstance(made, DirectoryConnector)
    assert (made.path, made.scope) == (str(tmp_path / "x"), "shared")
    with connector_named("shared_memory") as memory:
        memory.write("x", [b"data"])
    assert repr(connector_named({"kind": "redis", "server": "h:1"})).endswith("at h:1>")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("directry", "adios, broken, directory, .*did you mean 'directory'"),
        ({"path": "x"}, "connector None: one of adios"),
        ({"kind": "directory", "pth": "x"}, "unknown option 'pth'; did you mean 'path'"),
        ("directory", "missing 1 required positional argument: 'path'"),
        ({"kind": "shared_memory", "keep_bytes": -1}, "keep_bytes=-1"),
        ("broken", "cannot be loaded"),
        ("other", "makes no connector"),
        ("mute", "does not say what it takes"),
    ],
)
def test_what_is_wrong_is_said(table: Any, said: str, points: dict[str, str]) -> None:
    points["broken"] = "ssdag.connectors.nothing:Here"
    points["other"] = "fractions:Fraction"
    points["mute"] = "builtins:dict"
    with pytest.raises(ConfigError, match=said):
        connector_named(table)
