# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of real schedulers; `tests/conftest.py` makes them known to all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from _pytest.runner import runtestprotocol

from tests.clusters.cluster import GridEngineCluster, SlurmCluster

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Of a test: nodes of Slurm whose daemons crashed under it.
_CRASHED = pytest.StashKey[list[str]]()
_ONCE_MORE = "was run again, as it failed when a slurmd crashed"
#: So often a test is run whose Slurm crashes under it.
_TIMES = 3


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test again that has failed while a daemon of the shared Slurm crashed.

    Debian's slurmd 22.05 does, in one run of all tests out of twenty: a segmentation fault
    when several steps begin at once. The steps of that node are lost, and no test about
    them can succeed. What tests kill themselves does not count.
    """
    if not isinstance(item, pytest.Function) or "slurm" not in item.fixturenames:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for turn in range(_TIMES):
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        crashed = item.stash.get(_CRASHED, [])
        if not crashed or turn == _TIMES - 1 or not any(report.failed for report in reports):
            break
        item.user_properties.append((_ONCE_MORE, ", ".join(crashed)))
        item._initrequest()
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests were run again."""
    reports = [report for several in terminalreporter.stats.values() for report in several]
    again = {
        f"{report.nodeid} {name}: {nodes}"
        for report in reports
        for name, nodes in getattr(report, "user_properties", ())
        if name == _ONCE_MORE
    }
    for line in sorted(again):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[SlurmCluster]:
    """Slurm with four nodes of four CPUs, one for the whole run; skips where it cannot be."""
    cluster = SlurmCluster(4)
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def slurm(
    slurm_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[SlurmCluster]:
    """The same, with SLURM_CONF set for this test, so that all commands find it."""
    for name, value in slurm_cluster.env.items():
        monkeypatch.setenv(name, value)
    slurm_cluster.revive()
    yield slurm_cluster
    request.node.stash[_CRASHED] = slurm_cluster.crashed()


@pytest.fixture(scope="session")
def gridengine_cluster() -> Iterator[GridEngineCluster]:
    """Grid Engine with two hosts of four slots, one for the whole run."""
    cluster = GridEngineCluster(2)
    cluster.start()
    yield cluster
    cluster.stop()
