# SPDX-License-Identifier: BSD-3-Clause
"""A configuration is checked when it is made, from Python as from a file."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import pytest

import ssdag
from ssdag import Config, ConfigError, Listener, RetryPolicy
from ssdag.config import near
from ssdag.executors import LocalExecutor, ThreadExecutor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_the_defaults_suit_a_laptop() -> None:
    config = Config()
    assert config.executors == ()
    assert config.listeners == ()
    assert config.retries == 0
    assert config.checkpoint is None
    assert config.max_pending is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.retries = 1  # type: ignore[misc]


def test_what_is_given_is_kept(tmp_path: Path) -> None:
    executors = [ThreadExecutor(1, label="a"), LocalExecutor(1, label="b")]
    policy = RetryPolicy(budget=2)
    listener = Listener()
    config = Config(
        executors=executors,
        retries=policy,
        retry_handler=lambda error, task: 1.0,
        retry_backoff_s=2,
        checkpoint=tmp_path / "x.sqlite",
        max_pending=1,
        listeners=iter([listener]),  # type: ignore[arg-type]
    )
    executors.clear()  # the caller's list is not ours
    assert [executor.label for executor in config.executors] == ["a", "b"]
    assert config.listeners == (listener,)
    assert config.retries is policy


class HalfAnExecutor:
    """It lacks what makes an executor."""

    label = "half"

    def start(self, sink: Any) -> None: ...

    def submit(self, task: Any) -> None: ...


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"executors": ThreadExecutor()}, "executors=.*a list is needed"),
        ({"executors": "local"}, "executors='local'.*a list is needed"),
        ({"executors": None}, "executors=None.*a list is needed"),
        ({"executors": [ThreadExecutor]}, r"write ThreadExecutor\(\)"),
        ({"executors": [HalfAnExecutor()]}, "not an executor"),
        ({"executors": ["local"]}, "'local', which is not an executor"),
        ({"executors": [ThreadExecutor(1), ThreadExecutor(2)]}, "two .* called 'threads'"),
        ({"listeners": [Listener]}, "not a Listener"),
        ({"listeners": [print]}, "not a Listener"),
        ({"listeners": Listener()}, "a list is needed"),
        ({"retries": -1}, "retries=-1"),
        ({"retries": 1.5}, "retries=1.5"),
        ({"retries": True}, "retries=True"),
        ({"retries": "2"}, "retries='2'"),
        ({"retries": None}, "retries=None"),
        ({"retries": RetryPolicy}, "a RetryPolicy is needed"),
        ({"retry_handler": 3}, "retry_handler=3: a callable"),
        ({"retry_backoff_s": -0.1}, "retry_backoff_s=-0.1"),
        ({"retry_backoff_s": math.nan}, "retry_backoff_s=nan"),
        ({"retry_backoff_s": True}, "retry_backoff_s=True"),
        ({"retry_backoff_s": "1"}, "retry_backoff_s='1'"),
        ({"checkpoint": 3}, "checkpoint=3: a path"),
        ({"checkpoint": b"x"}, "checkpoint=b'x': a path"),
        ({"max_pending": 0}, "max_pending=0"),
        ({"max_pending": True}, "max_pending=True"),
        ({"max_pending": 10.0}, "max_pending=10.0"),
    ],
)
def test_a_wrong_field_is_told_with_its_name(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        Config(**options)
    assert isinstance(caught.value, ValueError)


def test_an_unknown_field_is_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="max_pendin"):
        Config(max_pendin=3)  # type: ignore[call-arg]


def test_near() -> None:
    assert near("retrys", ["retries", "executors"]) == "; did you mean 'retries'?"
    assert near("zzz", ["retries", "executors"]) == ""


# -- files -------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    """Write a configuration file."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "engine.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_a_file(file: Callable[[str], Path]) -> None:
    path = file(
        """
        retries = 2
        retry_backoff_s = 0.5
        checkpoint = "sub/results.sqlite"
        max_pending = 7
        [[executors]]
        kind = "local"
        label = "simulations"
        max_workers = 3
        [[executors]]
        kind = "threads"
        max_threads = 5
        """
    )
    config = Config.from_toml(str(path))
    assert (config.retries, config.retry_backoff_s, config.max_pending) == (2, 0.5, 7)
    assert config.checkpoint == str(path.parent / "sub" / "results.sqlite")
    first, second = config.executors
    assert isinstance(first, LocalExecutor)
    assert (first.label, first.capacity) == ("simulations", 3)
    assert isinstance(second, ThreadExecutor)
    assert (second.label, second.capacity) == ("threads", 5)


def test_an_absolute_checkpoint_stays_and_an_empty_file_is_the_default(
    file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Config.from_toml(file('checkpoint = "/tmp/x.sqlite"')).checkpoint == "/tmp/x.sqlite"
    assert Config.from_toml(file("")) == Config()
    # Relative to the file's folder also when the file itself is named relatively.
    path = file('checkpoint = "y.sqlite"')
    monkeypatch.chdir(path.parent)
    assert Config.from_toml(path.name).checkpoint == str(path.parent / "y.sqlite")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("retries = ", "not a TOML file"),
        (b"label = '\xff\xfe'", "not a TOML file"),
        ("retrys = 1", "unknown field 'retrys'; did you mean 'retries'"),
        ("listeners = []", "'listeners' takes objects: set it in Python"),
        (
            "[[executors]]\nkind = 'local'\nmax_worker = 2",
            "executor 'local' takes no option 'max_worker'; did you mean 'max_workers'",
        ),
        ("[executors]\nkind = 'local'", r"written \[\[executors\]\]"),
        ("executors = ['local']", r"written \[\[executors\]\]"),
        ("executors = 3", r"written \[\[executors\]\]"),
        ("[[executors]]\nlabel = 'x'", "local, .*threads; None is none of them"),
        ("[[executors]]\nkind = 'thread'", "did you mean 'threads'"),
        ("[[executors]]\nkind = ['local']", "none of them"),
        (
            "[[executors]]\nkind = 'threads'\nthreads = 2",
            "executor 'threads' takes no option 'threads'",
        ),
        ("[[executors]]\nkind = 'threads'\nmax_threads = 0", "max_threads=0"),
        ("retries = -1", "retries=-1"),
        ("max_pending = '3'", "max_pending='3'"),
        ("checkpoint = 3", "checkpoint=3"),
    ],
)
def test_a_wrong_file_is_told_with_its_path(
    file: Callable[[str | bytes], Path], text: str | bytes, told: str
) -> None:
    path = file(text)
    with pytest.raises(ConfigError, match=told) as caught:
        Config.from_toml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).count(str(path)) == 1


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        Config.from_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        ssdag.load(tmp_path)


def test_load_takes_the_file_itself(file: Callable[[str], Path]) -> None:
    with ssdag.load(file('[[executors]]\nkind = "threads"\nlabel = "light"')) as engine:
        assert [executor.label for executor in engine.executors] == ["light"]
        assert engine.submit(pow, 2, 5).result(30) == 32


@pytest.mark.parametrize("config", [5, {"retries": 1}, [], ThreadExecutor()])
def test_load_takes_nothing_else(config: Any) -> None:
    with pytest.raises(ConfigError, match="a Config or the path of a TOML file"):
        ssdag.load(config)
