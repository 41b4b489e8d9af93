# SPDX-License-Identifier: BSD-3-Clause
"""Simulated schedulers for tests: one for a module, with faults healed before each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulators.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def simulator(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Simulator]:
    """The scheduler that the test's parameter (or its module's ``KIND``) names, first on PATH."""
    kind = getattr(request, "param", None) or request.module.KIND
    with Simulator(kind) as made:
        monkeypatch.setenv("PATH", made.env()["PATH"])
        yield made
