# SPDX-License-Identifier: BSD-3-Clause
"""The store of a configuration: by name, by a table, a folder or a server, also in a file."""

from __future__ import annotations

import os
from importlib import metadata
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ssdag
import ssdag.config
from ssdag import Config, ConfigError
from ssdag.connectors import DirectoryConnector, named
from ssdag.connectors.chosen import connector_of
from tests.unit.test_connector_kinds import POINTS

if TYPE_CHECKING:
    from pathlib import Path

THREADS = '[[executors]]\nkind = "threads"\nmax_threads = 1\n'


def read(folder: Path, text: str) -> Config:
    folder.mkdir(exist_ok=True)
    (folder / "ssdag.toml").write_text(text)
    return Config.from_toml(folder / "ssdag.toml")


@pytest.fixture(autouse=True)
def points(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``pyproject.toml`` says, also where an older version is installed."""

    def found(group: str) -> Any:
        if group != named.GROUP:
            return metadata.entry_points(group=group)
        return [EntryPoint(name, value, group) for name, value in POINTS.items()]

    for module in (named, ssdag.config):
        monkeypatch.setattr(module, "entry_points", found)


@pytest.mark.parametrize(
    "text",
    [
        '[store]\nkind = "directory"\npath = "values"\n',
        'store = "values"\n',
        'store = "./values"\n',
    ],
)
def test_a_folder_is_relative_to_the_file(tmp_path: Path, text: str) -> None:
    first, second = (THREADS, text) if text.startswith("[") else (text, THREADS)
    config = read(tmp_path / "site", first + second)
    assert not (tmp_path / "site" / "values").exists()  # reading makes nothing
    with ssdag.load(config) as engine:
        value = engine.put(np.arange(100_000))
        files = [path for path in (tmp_path / "site" / "values").rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) >= 800_000
        assert engine.submit(np.sum, value).result(20) == 4_999_950_000


def test_the_options_of_a_table(tmp_path: Path) -> None:
    text = f'[store]\nkind = "directory"\npath = "{tmp_path}/x"\nscope = "shared"\n'
    config = read(tmp_path / "site", text)
    with connector_of(config.store) as made:
        assert isinstance(made, DirectoryConnector)
        assert (made.path, made.scope) == (os.path.join(tmp_path, "x"), "shared")


def test_the_name_of_a_connector(tmp_path: Path) -> None:
    config = read(tmp_path, 'store = "shared_memory"\n' + THREADS)
    with ssdag.load(config) as engine, connector_of(config.store) as made:
        assert made.kind == "shared_memory"
        assert engine.put(np.zeros(100_000)).result(20).shape == (100_000,)
    assert not (tmp_path / "shared_memory").exists()


def test_servers_are_no_folders(tmp_path: Path) -> None:
    for address in ("h:1", "h:1,h:2", "unix:///x/y", "tcp://h:1"):
        assert read(tmp_path, f'store = "{address}"\n').store == address
    table = '[store]\nkind = "redis"\nserver = "h:1"\npassword_file = "secret"\n'
    config = read(tmp_path, table)
    assert config.store["password_file"] == str(tmp_path / "secret")
    assert config.store["server"] == "h:1"


WRONG: list[tuple[Any, str]] = [
    ({"kind": "directry", "path": "x"}, "connector needs kind = .* did you mean 'directory'"),
    ({"path": "x"}, "connector needs kind"),
    ({"kind": "directory", "pth": "x"}, "takes no option 'pth'; did you mean 'path'"),
    ({"kind": "directory"}, "'directory': missing a required argument: 'path'"),
    ("directory", r"missing a required argument: 'path'; a folder of this name is './directory'"),
    ("", "store='': a connector, its name or table"),
    (3, "store=3"),
]


@pytest.mark.parametrize(("store", "text"), WRONG)
def test_a_wrong_store_is_told_at_once(store: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Config(store=store)
    if store != "":
        with pytest.raises(ConfigError, match=text):
            ssdag.python_app(store=store)(len)


def test_a_wrong_store_of_a_file_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ssdag.toml: .* 'pth'"):
        read(tmp_path, '[store]\nkind = "directory"\npth = "x"\n')
