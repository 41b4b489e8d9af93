# SPDX-License-Identifier: BSD-3-Clause
"""Whose ``qsub`` is it? Several schedulers have one, and PATH does not tell."""

from __future__ import annotations

import os
from contextlib import ExitStack
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from ssdag.providers import detect
from ssdag.states import JobState
from tests.simulators.asking import ended
from tests.simulators.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ssdag.providers.batch import BatchProvider

CLASSES = {
    "pbs": "PBSProvider",
    "torque": "TorqueProvider",
    "cobalt": "CobaltProvider",
    "gridengine": "GridEngineProvider",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Folders of commands, each with a ``qsub`` and a ``qstat`` of its own."""
    grid = tmp_path_factory.mktemp("gridengine")
    answers = {
        "qsub": "echo 'qsub: Unknown option --version' >&2; exit 2",
        "qstat": "echo '<?xml version=\"1.0\"?><job_info><queue_info/></job_info>'",
    }
    for name, line in answers.items():
        (grid / name).write_text(f"#!/bin/sh\n{line}\n")
        (grid / name).chmod(0o755)
    with ExitStack() as stack:
        made = {
            kind: str(stack.enter_context(Simulator(kind)).bin)
            for kind in ("pbs", "torque", "cobalt")
        }
        yield {**made, "gridengine": str(grid)}


def only(monkeypatch: pytest.MonkeyPatch, *folders: str) -> None:
    """Leave these folders and the shell on PATH, and no trace of a job in the environment."""
    monkeypatch.setenv("PATH", os.pathsep.join([*folders, "/bin"]))
    for name in list(os.environ):
        if name.startswith(("SLURM_", "PBS_", "COBALT_", "LSB_", "FLUX_", "SGE_", "JOB_ID")):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("first", CLASSES)
def test_the_first_qsub_that_answers_decides(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    others = [kind for kind in CLASSES if kind != first]
    for order in permutations(others, 2):
        only(monkeypatch, folders[first], *(folders[kind] for kind in order))
        assert type(detect()).__name__ == CLASSES[first]


@pytest.mark.parametrize("kind", ["pbs", "torque", "cobalt"])
def test_a_job_of_the_scheduler_that_was_found_runs(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    rest = [folder for name, folder in folders.items() if name != kind]
    only(monkeypatch, folders[kind], *rest)
    provider: BatchProvider = detect(walltime_s=60)  # type: ignore[assignment]
    status = ended(provider, provider.submit(provider.job("job", ["exit 4"], tmp_path)))
    assert (status.state, status.exit_code) == (JobState.FAILED, 4)


@pytest.mark.parametrize("kind", ["lsf", "flux"])
def test_schedulers_with_commands_of_their_own_are_found(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with Simulator(kind) as simulator:
        only(monkeypatch, str(simulator.bin))
        assert detect().name == kind
        simulator.fault("*", "down")
        assert detect().name == "local"


def test_inside_a_job_path_does_not_matter(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, folders["cobalt"])
    monkeypatch.setenv("PBS_JOBID", "1.pbs1")
    assert detect().name == "pbs"
