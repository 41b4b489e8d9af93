# SPDX-License-Identifier: BSD-3-Clause
"""Scopes close what they own, last first, once."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ssdag.errors import EngineClosedError
from ssdag.wire import lifetime
from ssdag.wire.lifetime import Scope

if TYPE_CHECKING:
    from collections.abc import Callable


def note(log: list[int], value: int) -> Callable[[], None]:
    """Return a function that appends `value`."""
    return lambda: log.append(value)


def test_last_first_once_and_removed_ones_not() -> None:
    log: list[int] = []
    scope = Scope("s")
    tokens = [scope.add(note(log, i)) for i in range(4)]
    scope.remove(tokens[2])
    scope.remove(tokens[2])
    scope.close()
    scope.close()
    assert log == [3, 1, 0]
    assert scope.closed
    assert "closed" in repr(scope)


def test_an_error_is_logged_and_the_rest_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    log: list[int] = []
    scope = Scope("s")
    scope.add(note(log, 1))
    scope.add(lambda: 1 / 0)  # type: ignore[arg-type]
    scope.close()
    assert log == [1]
    assert "ZeroDivisionError" in caplog.text


def test_added_too_late_is_closed_at_once() -> None:
    log: list[int] = []
    scope = Scope("s")
    scope.close()
    with pytest.raises(EngineClosedError):
        scope.add(note(log, 1))
    assert log == [1]


def test_innermost_scope_and_pop_from_the_middle() -> None:
    root = lifetime.current()
    first, second = Scope("first"), Scope("second")
    lifetime.push(first)
    lifetime.push(second)
    assert lifetime.current() is second
    lifetime.pop(first)
    assert lifetime.current() is second
    lifetime.pop(second)
    lifetime.pop(second)
    assert lifetime.current() is root
    lifetime.pop(root)  # the outermost stays
    assert lifetime.current() is root


def test_exit_closes_what_was_forgotten_and_a_forked_child_does_not() -> None:
    script = """
import os, sys
from ssdag.wire import lifetime
lifetime.current().add(lambda: print("root", flush=True))
inner = lifetime.Scope("inner"); lifetime.push(inner)
inner.add(lambda: print("inner", flush=True))
if (pid := os.fork()) == 0:
    lifetime.current().add(lambda: print("child", flush=True))
    sys.exit()
os.waitpid(pid, 0)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.split() == ["child", "inner", "root"]
