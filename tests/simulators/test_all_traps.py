# SPDX-License-Identifier: BSD-3-Clause
"""What every provider must not fall for, whatever its scheduler does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ssdag.errors import ProviderError, SubmitError
from ssdag.providers.script import SECOND_RUN_EXIT_CODE
from ssdag.states import JobState
from tests.conftest import wait_until
from tests.simulators.asking import ended, on, provider_of, running, sleeper

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulators.simulator import Simulator

KINDS = ("pbs", "torque", "lsf", "cobalt", "flux")
STATUS = {"pbs": "qstat", "torque": "qstat", "lsf": "bjobs", "cobalt": "qstat", "flux": "flux"}
SUBMIT = {"pbs": "qsub", "torque": "qsub", "lsf": "bsub", "cobalt": "qsub", "flux": "flux"}

every = pytest.mark.parametrize("simulator", KINDS, indirect=True)


# -- all of them -------------------------------------------------------------------------


@every
def test_every_word_for_a_state_is_known(simulator: Simulator, tmp_path: Path) -> None:
    provider = provider_of(simulator)
    job_id = provider.submit(sleeper(provider, tmp_path))
    running(provider, job_id)
    for word, state in provider.states.items():
        if state.final:
            continue
        simulator.control("show", number=simulator.number(job_id), state=word)
        found = provider.poll([job_id])[job_id].state
        assert found is state, word


@every
def test_an_unknown_word_is_unknown_and_told_once(
    simulator: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    provider = provider_of(simulator)
    job_id = provider.submit(sleeper(provider, tmp_path))
    running(provider, job_id)
    simulator.control("show", number=simulator.number(job_id), state="Zz")
    for _ in range(3):
        assert provider.poll([job_id])[job_id].state is JobState.UNKNOWN
    assert sum("'Zz' is a state that no table has" in text for text in caplog.messages) == 1
    simulator.control("show", number=simulator.number(job_id), state="")
    (tmp_path / "go").touch()
    assert ended(provider, job_id).exit_code == 4


@every
@pytest.mark.parametrize("kind", ["down", "garbled", "empty"])
def test_an_answer_that_says_nothing_changes_nothing(
    simulator: Simulator, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    provider = provider_of(simulator, lost_after_s=0.01)
    job_id = provider.submit(sleeper(provider, tmp_path))
    before = running(provider, job_id)
    simulator.fault(STATUS[simulator.kind], kind)
    (tmp_path / "go").touch()
    for _ in range(3):
        assert provider.poll([job_id])[job_id] == before
    assert provider.trouble
    assert sum("does not say how jobs are" in text for text in caplog.messages) == 1
    simulator.heal()
    status = ended(provider, job_id)
    assert (status.state, status.exit_code) == (JobState.FAILED, 4)
    assert not provider.trouble


@every
def test_while_the_scheduler_is_down_nothing_is_submitted_or_cancelled(
    simulator: Simulator, tmp_path: Path
) -> None:
    provider = provider_of(simulator)
    job_id = provider.submit(sleeper(provider, tmp_path))
    running(provider, job_id)
    simulator.fault("*", "down")
    with pytest.raises(SubmitError) as caught:
        provider.submit(sleeper(provider, tmp_path, "other"))
    assert caught.value.transient  # no job exists: trying again cannot make two
    with pytest.raises(ProviderError, match="did not cancel"):
        provider.cancel([job_id])
    simulator.heal()
    assert provider.poll([job_id])[job_id].state is JobState.RUNNING
    provider.cancel([job_id])
    assert ended(provider, job_id).state is JobState.CANCELLED


@every
def test_a_submission_without_an_id_is_an_error_that_is_not_repeated(
    simulator: Simulator, tmp_path: Path
) -> None:
    provider = provider_of(simulator)
    simulator.fault(SUBMIT[simulator.kind], "empty")
    with pytest.raises(SubmitError, match="no job id was found") as caught:
        provider.submit(sleeper(provider, tmp_path))
    assert not caught.value.transient


@every
def test_a_slow_scheduler_is_waited_for(simulator: Simulator, tmp_path: Path) -> None:
    simulator.fault("*", "slow", seconds=0.1)
    provider = provider_of(simulator)
    job_id = provider.submit(sleeper(provider, tmp_path))
    assert running(provider, job_id)
    provider.cancel([job_id])
    assert ended(provider, job_id).state is JobState.CANCELLED


@on("pbs", "torque", "lsf", "cobalt")
def test_a_held_job_is_held_and_runs_when_it_is_released(
    simulator: Simulator, tmp_path: Path
) -> None:
    provider = provider_of(simulator)
    simulator.control("freeze", on=True)
    job_id = provider.submit(provider.job("job", ["true"], tmp_path))
    assert provider.poll([job_id])[job_id].state is JobState.PENDING
    simulator.control("hold", number=simulator.number(job_id))
    assert provider.poll([job_id])[job_id].state is JobState.HELD
    simulator.control("freeze", on=False)
    assert provider.poll([job_id])[job_id].state is JobState.HELD
    simulator.control("release", number=simulator.number(job_id))
    assert ended(provider, job_id).state is JobState.COMPLETED


@every
def test_a_forgotten_job_has_failed_unless_its_script_says_how_it_ended(
    simulator: Simulator, tmp_path: Path
) -> None:
    provider = provider_of(simulator, lost_after_s=0.2)
    ids = {
        name: provider.submit(provider.job(name, [command], tmp_path))
        for name, command in [("good", "true"), ("bad", "exit 9"), ("killed", "kill -9 $$")]
    }
    for job_id in ids.values():
        number = simulator.number(job_id)
        wait_until(
            lambda number=number: simulator.control("look", number=number)[0]["stage"] == "ENDED"  # type: ignore[misc]
        )
        simulator.control("forget", number=number)
    (tmp_path / f"{simulator.number(ids['killed'])}.cobaltlog").unlink(missing_ok=True)
    assert ended(provider, ids["good"]).state is JobState.COMPLETED
    assert ended(provider, ids["bad"]).exit_code == 9
    lost = ended(provider, ids["killed"])
    assert lost.state is JobState.FAILED
    assert "told nowhere" in lost.reason


@on("pbs", "torque", "lsf", "cobalt")
def test_a_job_that_the_scheduler_starts_again_does_not_run_twice(
    simulator: Simulator, tmp_path: Path
) -> None:
    provider = provider_of(simulator)
    note = tmp_path / "note"
    job = provider.job("job", [f"echo ran >>{note}", "sleep 60"], tmp_path)
    job_id = provider.submit(job)
    wait_until(lambda: note.exists() and note.read_text(), what="first run")
    simulator.control("requeue", number=simulator.number(job_id))
    status = ended(provider, job_id)
    assert (status.state, status.exit_code) == (JobState.FAILED, SECOND_RUN_EXIT_CODE)
    assert note.read_text() == "ran\n"
    twice = replace(job, name="twice", rerunnable=True)
    job_id = provider.submit(twice)
    wait_until(lambda: len(note.read_text().split()) == 2, what="its first run")
    simulator.control("requeue", number=simulator.number(job_id))
    wait_until(lambda: len(note.read_text().split()) == 3, what="its second run")
