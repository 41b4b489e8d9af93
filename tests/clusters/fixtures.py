# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of real schedulers; `tests/conftest.py` makes them known to all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clusters.cluster import GridEngineCluster, SlurmCluster

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[SlurmCluster]:
    """Slurm with four nodes of four CPUs, one for the whole run; skips where it cannot be."""
    cluster = SlurmCluster(4)
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def slurm(slurm_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    """The same, with SLURM_CONF set for this test, so that all commands find it."""
    for name, value in slurm_cluster.env.items():
        monkeypatch.setenv(name, value)
    slurm_cluster.revive()
    return slurm_cluster


@pytest.fixture(scope="session")
def gridengine_cluster() -> Iterator[GridEngineCluster]:
    """Grid Engine with two hosts of four slots, one for the whole run."""
    cluster = GridEngineCluster(2)
    cluster.start()
    yield cluster
    cluster.stop()
