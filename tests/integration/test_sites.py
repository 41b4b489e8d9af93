# SPDX-License-Identifier: BSD-3-Clause
"""Two sites in one run: a Slurm that ssh reaches beside the processes of this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ssdag
from ssdag.apps.staging import places
from ssdag.apps.staging.ssh import SshStaging
from ssdag.errors import BlockError, MissingDataError
from ssdag.executors import LocalExecutor, PilotExecutor
from ssdag.providers import SlurmProvider
from tests.clusters.sshd import LoopbackSshd
from tests.conftest import wait_until
from tests.integration import site_bodies as bodies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.clusters.cluster import SlurmCluster

DEADLINE_S = 60.0
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def sshd(slurm_cluster: SlurmCluster) -> Iterator[LoopbackSshd]:
    """The login node of a cluster, which this machine's own commands know nothing of."""
    assert "SLURM_CONF" not in os.environ
    made = LoopbackSshd({**slurm_cluster.env, "SITE": "cluster"})
    yield made
    made.close()
    wait_until(lambda: not slurm_cluster.run("squeue", "-h"), DEADLINE_S, "no job is left")


def far(sshd: LoopbackSshd, folder: Path, **options: Any) -> PilotExecutor:
    provider = SlurmProvider(
        ssh=sshd.host,
        ssh_options=sshd.options,
        ssh_folder=str(folder / "scratch"),
        exclusive=False,
        walltime_s=600,
        worker_init=f"export PYTHONPATH={ROOT}",
        **options,
    )
    return PilotExecutor(
        provider, label="simulate", workers_per_node=2, cores_per_worker=0.5,
        python=sys.executable, run_dir=folder / "runs", heartbeat_limit_s=15.0,
    )  # fmt: skip


def test_simulation_there_training_here_data_by_the_orchestrator(
    sshd: LoopbackSshd, tmp_path: Path
) -> None:
    executors = [LocalExecutor(max_workers=1, label="train"), far(sshd, tmp_path)]
    with ssdag.load(ssdag.Config(executors=executors)):
        simulate = ssdag.python_app(executors=["simulate"])(bodies.simulate)
        train = ssdag.python_app(executors=["train"])(bodies.train)
        db = ssdag.Orchestrator()
        sites = [simulate(x, db) for x in range(3)]
        trained = [train(x, db.tensor(f"field.{x}")) for x in range(3)]
        assert [f.result(DEADLINE_S) for f in trained] == [(2.0 * x, "") for x in range(3)]
        for site in sites:
            job_id, name = site.result(DEADLINE_S)
            assert job_id.isdigit()
            assert name == "cluster"
        # What is secret was brought there for the user alone.
        (there,) = (tmp_path / "scratch").iterdir()
        assert there.stat().st_mode & 0o777 == 0o700
        assert (there / "contact.json").stat().st_mode & 0o077 == 0
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_site_whose_blocks_fail_says_why(sshd: LoopbackSshd, tmp_path: Path) -> None:
    bad = far(sshd, tmp_path)
    bad._python = "/no/such/python"
    with ssdag.load(ssdag.Config(executors=[bad])) as engine:
        error = engine.submit(bodies.where).exception(DEADLINE_S)
        assert isinstance(error, BlockError)
        assert "/no/such/python" in error.stderr_tail
    (there,) = (tmp_path / "scratch").iterdir()
    left = {path.suffix for path in there.iterdir()}
    assert ".err" in left  # worth a look
    assert ".json" not in left


def test_a_site_that_is_away_for_a_while(sshd: LoopbackSshd, tmp_path: Path) -> None:
    """What runs there goes on, and the block is given back when ssh is back."""
    with ssdag.load(ssdag.Config(executors=[far(sshd, tmp_path)])) as engine:
        assert engine.submit(bodies.where).result(DEADLINE_S)[1] == "cluster"
        sshd.stop()
        assert engine.submit(bodies.where).result(DEADLINE_S)[1] == "cluster"
        sshd.start()
        assert engine.submit(bodies.where).result(DEADLINE_S)[1] == "cluster"


def test_files_from_site_to_site(sshd: LoopbackSshd, tmp_path: Path) -> None:
    """What a node of the cluster writes is brought to a host, and from there to a worker here."""
    options = [word for word in sshd.options if word not in ("-p", str(sshd.port))]
    desk = f"ssh://{sshd.host}:{sshd.port}{tmp_path}/desk"
    executors = [LocalExecutor(max_workers=1, label="train"), far(sshd, tmp_path)]
    with ssdag.load(ssdag.Config(executors=executors, staging=[SshStaging(options)])):
        write = ssdag.python_app(executors=["simulate"])(bodies.write)
        read = ssdag.python_app(executors=["train"])(bodies.read)
        made = write("field", outputs=[ssdag.File(f"{desk}/deep/field.txt")])
        assert read(inputs=[made.outputs[0]]).result(DEADLINE_S) == ("field", "")
        job_id, site = made.result(DEADLINE_S)
        assert (job_id.isdigit(), site) == (True, "cluster")
        assert (tmp_path / "desk" / "deep" / "field.txt").read_text() == "field"
        absent = read(inputs=[ssdag.File(f"{desk}/absent")])
        with pytest.raises(MissingDataError, match="there is no file"):
            absent.result(DEADLINE_S)


@pytest.fixture(autouse=True)
def staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files are kept in this test's folder only."""
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "cache"))
    yield
    places.leave()
