# SPDX-License-Identifier: BSD-3-Clause
"""Those who are told before a service is stopped."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

from ssdag.errors import ServiceError, SsdagError
from ssdag.services.node import ServiceNode
from ssdag.states import ServiceState

if TYPE_CHECKING:
    import pytest


class Lamp(ServiceNode):
    """A service that needs no process."""

    def _start(self) -> str:
        return "on"

    def _stop(self, error: SsdagError) -> None:
        pass

    def _probe(self) -> dict[str, Any]:
        return {}

    def break_down(self) -> None:
        self._died(ServiceError("broken"))


class Reader:
    """Uses a lamp, and notes in which state that was when it was told of its end."""

    def __init__(self, lamp: Lamp, *, fails: bool = False) -> None:
        self.lamp, self.fails = lamp, fails
        self.seen: list[ServiceState] = []
        lamp.before_end(self.leave)

    def leave(self) -> None:
        self.seen.append(self.lamp.state)
        if self.fails:
            raise ValueError("not now")


def test_they_are_told_once_while_it_serves(caplog: pytest.LogCaptureFixture) -> None:
    lamp = Lamp("lamp").start()
    readers = [Reader(lamp), Reader(lamp, fails=True), Reader(lamp)]
    lamp.stop()
    lamp.stop()
    assert [reader.seen for reader in readers] == [[ServiceState.READY]] * 3
    assert lamp.state is ServiceState.STOPPED
    assert "did not let go of it" in caplog.text


def test_they_are_not_told_of_a_death() -> None:
    lamp = Lamp("lamp").start()
    reader = Reader(lamp)
    lamp.break_down()
    assert lamp.state is ServiceState.FAILED
    assert reader.seen == []


def test_they_are_not_kept_alive() -> None:
    lamp = Lamp("lamp").start()
    seen = Reader(lamp).seen
    gc.collect()
    lamp.stop()
    assert seen == []
