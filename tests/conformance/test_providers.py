# SPDX-License-Identifier: BSD-3-Clause
"""What every provider must do, on every scheduler that can be had: black box."""

from __future__ import annotations

import itertools
import json
import os
import re
import stat
import sys
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import pytest

from ssdag.errors import SubmitError, UnsupportedError
from ssdag.providers.script import output_paths
from ssdag.states import JobState
from tests.conformance.conftest import is_waiting, wait_for
from tests.conformance.systems import RecordingRunner
from tests.conftest import is_live, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.providers.base import JobSpec, JobStatus, Provider
    from tests.conformance.conftest import LateCases
    from tests.conformance.systems import System

    Finish = Callable[..., JobStatus]

ROOT = Path(__file__).parents[2]
_numbers = itertools.count()


def job(provider: Provider, system: System, *commands: str, **changes: object) -> JobSpec:
    """Return a job with a name of its own."""
    spec = provider.job(f"job{next(_numbers)}", commands, system.folder)
    return replace(spec, **changes)  # type: ignore[arg-type]


def test_a_job_runs_and_its_output_is_in_its_files(
    provider: Provider, system: System, finish: Finish
) -> None:
    spec = job(provider, system, "echo out", "echo err >&2", "pwd")
    status = finish(provider, provider.submit(spec))
    assert status.state is JobState.COMPLETED
    assert status.exit_code in (0, None)
    assert status.signal is None
    out, err = (Path(path) for path in output_paths(spec))
    wait_until(lambda: out.exists() and "out" in out.read_text(), what="output")
    assert out.read_text().splitlines() == ["out", str(system.folder)]
    assert err.read_text().splitlines() == ["err"]


def test_how_a_job_ended_is_told(provider: Provider, system: System, finish: Finish) -> None:
    cases = {
        ("exit 7",): 7,
        ("exit 99",): 99,  # Grid Engine would run it again
        ("exit 100",): 100,  # and keep this one in an error state
        ("true", "(exit 5)"): 5,
        ("false", "true"): 0,
        ("kill -SEGV $$",): -11,
    }
    ids = {provider.submit(job(provider, system, *commands)): commands for commands in cases}
    for job_id, commands in ids.items():
        status, code = finish(provider, job_id), cases[commands]
        if code == 0:
            assert status.state is JobState.COMPLETED
            continue
        assert status.state is JobState.FAILED, commands
        assert status.reason, commands
        if code > 0:
            assert (status.exit_code, status.signal) == (code, None), commands
        else:
            assert status.signal == -code or status.exit_code == 128 - code, commands


def test_worker_init_that_fails_fails_the_job_with_its_words(
    provider: Provider, system: System, finish: Finish, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    spec = job(
        provider,
        system,
        f"touch {ran}",
        worker_init="export GOOD=1\nsource /does/not/exist.sh\nexport LATER=1",
    )
    status = finish(provider, provider.submit(spec))
    assert status.state is JobState.FAILED
    error = Path(output_paths(spec)[1])
    wait_until(lambda: error.exists() and "worker_init" in error.read_text(), what="words")
    assert "/does/not/exist.sh: No such file" in error.read_text()
    assert "at: source /does/not/exist.sh" in error.read_text()
    assert not ran.exists()


def test_worker_init_and_env_reach_the_commands(
    provider: Provider, system: System, finish: Finish
) -> None:
    value = "a 'b' \"c\" $HOME `id` \\ ü\nsecond line"
    spec = job(
        provider,
        system,
        'printf "%s" "$ODD"',
        'printf "|%s" "$INIT" "$(say)"',
        env={"ODD": value},
        worker_init="export INIT=done\nsay() { echo said; }",
    )
    assert finish(provider, provider.submit(spec)).state is JobState.COMPLETED
    out = Path(output_paths(spec)[0])
    wait_until(lambda: out.exists() and out.read_text().endswith("said"), what="output")
    assert out.read_text() == f"{value}|done|said"


def test_names_and_folders_are_quoted(
    provider: Provider, system: System, finish: Finish, tmp_path: Path
) -> None:
    folder = tmp_path / "a b'c\"d $x #e;f&%j(ü)"
    folder.mkdir()
    spec = replace(provider.job("na me'with\"all #%a of;it", ["pwd; echo err >&2"], folder), env={})
    assert finish(provider, provider.submit(spec)).state is JobState.COMPLETED
    out, err = (Path(path) for path in output_paths(spec))
    wait_until(lambda: out.exists() and out.read_text(), what="output")
    assert out.read_text().rstrip("\n") == spec.folder
    assert err.read_text() == "err\n"


def test_what_no_script_can_express_is_refused(provider: Provider, system: System) -> None:
    spec = job(provider, system, "true")
    for changes in ({"name": "a\nb"}, {"folder": f"{spec.folder}\nx"}, {"directives": ("a\nb",)}):
        with pytest.raises(UnsupportedError):
            provider.submit(replace(spec, **changes))


def test_secrets_are_in_no_argument_and_the_script_is_ours_alone(
    system: System, finish: Finish
) -> None:
    provider = system.make(walltime_s=300, env={"TOKEN": "hunter2"})
    assert "hunter2" not in repr(provider)
    spec = provider.job("secret", ["test ${#TOKEN} = 7"], system.folder)
    assert "hunter2" not in repr(spec)
    if hasattr(provider, "runner"):
        provider.runner = RecordingRunner(provider.runner)
    assert finish(provider, provider.submit(spec)).state is JobState.COMPLETED
    if hasattr(provider, "runner"):
        assert not [argv for argv in provider.runner.commands if "hunter2" in " ".join(argv)]
    mode = stat.S_IMODE(os.stat(system.folder / "secret.sh").st_mode)
    assert mode == 0o700


def test_a_running_job_is_cancelled_with_all_its_processes(
    provider: Provider, system: System, finish: Finish
) -> None:
    pids = system.folder / f"pids{next(_numbers)}"
    spec = job(provider, system, f"sleep 300 & echo $$ $! >{quote(str(pids))}", "wait")
    job_id = provider.submit(spec)
    running = wait_for(system, provider, job_id, lambda s: s.state is JobState.RUNNING)
    assert not running.state.final
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, what="pids")
    provider.cancel([job_id])
    status = finish(provider, job_id)
    assert status.state is JobState.CANCELLED
    left = [int(pid) for pid in pids.read_text().split()]
    wait_until(lambda: not any(is_live(pid) for pid in left), 15, "all processes end")
    provider.cancel([job_id])  # what is gone is no error
    assert provider.poll([job_id])[job_id] == status


def test_a_waiting_job_is_cancelled_and_never_runs(
    provider: Provider, system: System, finish: Finish
) -> None:
    ran = system.folder / f"ran{next(_numbers)}"
    first = provider.submit(job(provider, system, "sleep 300"))
    second = provider.submit(job(provider, system, f"touch {quote(str(ran))}", after=(first,)))
    wait_for(system, provider, first, lambda s: s.state is JobState.RUNNING)
    assert is_waiting(provider.poll([second])[second])
    provider.cancel([second])
    assert finish(provider, second).state is JobState.CANCELLED
    provider.cancel([first])
    assert finish(provider, first).state is JobState.CANCELLED
    assert not ran.exists()


def test_a_job_runs_after_one_that_ended_well_and_only_then(
    provider: Provider, system: System, finish: Finish
) -> None:
    notes = system.folder / f"notes{next(_numbers)}"
    good = provider.submit(job(provider, system, f"echo first >>{quote(str(notes))}; sleep 0.3"))
    bad = provider.submit(job(provider, system, "exit 3"))
    after_good = provider.submit(
        job(provider, system, f"echo second >>{quote(str(notes))}", after=(good,))
    )
    after_bad = provider.submit(
        job(provider, system, f"echo never >>{quote(str(notes))}", after=(bad,))
    )
    assert finish(provider, after_good).state is JobState.COMPLETED
    status = finish(provider, after_bad)
    assert status.state in (JobState.CANCELLED, JobState.FAILED)
    assert notes.read_text().split() == ["first", "second"]


def test_an_array_has_tasks_with_ends_of_their_own(
    provider: Provider, system: System, finish: Finish
) -> None:
    if not system.arrays:
        spec = job(provider, system, "true", array=2)
        with pytest.raises(UnsupportedError):
            provider.submit(spec)
        return
    spec = job(
        provider,
        system,
        'echo "task $SSDAG_ARRAY_INDEX"',
        "exit $((SSDAG_ARRAY_INDEX * 2))",
        array=3,
    )
    array = provider.submit(spec)
    members = provider.members(array)  # type: ignore[attr-defined]
    assert len(set(members)) == 3
    status = finish(provider, array)
    assert (status.state, status.exit_code) == (JobState.FAILED, 2)
    parts = provider.poll(members)
    assert [parts[one].exit_code or 0 for one in members] == [0, 2, 4]
    assert parts[members[0]].state is JobState.COMPLETED
    for index in range(3):
        out = Path(output_paths(spec, index)[0])
        wait_until(lambda out=out: out.exists() and out.read_text(), what="output")  # type: ignore[misc]
        assert out.read_text() == f"task {index}\n"


def test_an_array_is_cancelled_whole(provider: Provider, system: System, finish: Finish) -> None:
    if not system.arrays:
        return
    array = provider.submit(job(provider, system, "sleep 300", array=3))
    wait_for(system, provider, array, lambda s: s.state is JobState.RUNNING)
    provider.cancel([array])
    assert finish(provider, array).state is JobState.CANCELLED
    parts = provider.poll(provider.members(array))  # type: ignore[attr-defined]
    assert {part.state for part in parts.values()} == {JobState.CANCELLED}


def test_an_unknown_id_is_not_completed_and_disturbs_nobody(system: System, finish: Finish) -> None:
    options = {} if system.unknown_is_lost else {"lost_after_s": 1.0}
    provider = system.make(walltime_s=300, **options)
    known = provider.submit(job(provider, system, "sleep 0.5; exit 4"))
    unknown = re.sub(r"\d+", "987654", known, count=1)
    first = provider.poll([unknown, known])
    assert first[unknown].state is not JobState.COMPLETED
    provider.cancel([unknown])
    assert finish(provider, known).exit_code == 4
    other = system.make(walltime_s=300, **options)
    status = finish(other, unknown)
    assert status.state is JobState.FAILED
    assert "987654" in status.reason


def test_what_the_scheduler_refuses_is_told_in_its_words(
    provider: Provider, system: System
) -> None:
    if system.refused is None:
        pytest.skip("this scheduler takes all jobs")
    spec = job(provider, system, "true", **system.refused)
    with pytest.raises(SubmitError) as caught:
        provider.submit(spec)
    assert caught.value.stderr_tail
    assert caught.value.stderr_tail in str(caught.value)
    assert not caught.value.transient
    assert caught.value.command


def test_one_query_asks_for_all_jobs(system: System, finish: Finish) -> None:
    provider = system.make(walltime_s=300)
    if not hasattr(provider, "runner"):
        pytest.skip("this one asks nobody")
    ids = [provider.submit(job(provider, system, "sleep 300")) for _ in range(6)]
    provider.runner = runner = RecordingRunner(provider.runner)
    found = provider.poll(ids)
    assert set(found) == set(ids)
    assert len(runner.commands) == 1
    provider.cancel(ids)
    assert len(runner.commands) == 2
    for job_id in ids:
        assert finish(provider, job_id).state is JobState.CANCELLED
    asked = len(runner.commands)
    provider.poll(ids)
    assert len(runner.commands) == asked  # what is over is not asked for


def test_a_scheduler_that_does_not_answer_changes_nothing(
    system: System, finish: Finish, caplog: pytest.LogCaptureFixture
) -> None:
    if system.silent is None:
        pytest.skip("this scheduler cannot be silenced")
    provider = system.make(walltime_s=300, timeout_s=10.0)
    go = system.folder / f"go{next(_numbers)}"
    spec = job(provider, system, f"until [ -e {quote(str(go))} ]; do sleep 0.05; done; exit 6")
    job_id = provider.submit(spec)
    running = wait_for(system, provider, job_id, lambda s: s.state is JobState.RUNNING)
    provider.timeout_s = 0.5  # type: ignore[attr-defined]
    with system.silent():
        go.touch()
        for _ in range(2):
            assert provider.poll([job_id])[job_id] == running
        with pytest.raises(SubmitError, match="did not end"):
            provider.submit(job(provider, system, "true"))
    assert sum("does not say how jobs are" in text for text in caplog.messages) == 1
    provider.timeout_s = 10.0  # type: ignore[attr-defined]
    status = finish(provider, job_id)
    assert (status.state, status.exit_code) == (JobState.FAILED, 6)
    assert any("answers again" in text for text in caplog.messages)


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_job_sees_the_nodes_it_has(system: System, finish: Finish, nodes: int) -> None:
    options = {} if nodes == 1 else system.two_nodes
    if options is None:
        pytest.skip("this scheduler has one node")
    provider = system.make(walltime_s=300, **options)
    out = system.folder / f"allocation{next(_numbers)}"
    code = (
        "import json, os, sys; from ssdag.providers.auto import detect; p = detect();"
        "a = p.allocation(); json.dump([p.name, a.job_id, [[n.host, n.cores] for n in a.nodes],"
        "a.ends_s], open(os.environ['OUT'], 'w'))"
    )
    spec = job(
        provider,
        system,
        f'"{sys.executable}" -c "{code}"',
        env={"OUT": str(out), "PYTHONPATH": str(ROOT)},
    )
    job_id = provider.submit(spec)
    status = finish(provider, job_id)
    assert status.state is JobState.COMPLETED, Path(output_paths(spec)[1]).read_text()
    name, seen_id, seen, _ = json.loads(out.read_text())
    assert (name, seen_id) == (provider.name, job_id)
    assert len({host for host, _ in seen}) == nodes
    assert all(cores >= 1 for _, cores in seen)
    if nodes == 2 and len(status.hosts) == 2:
        assert set(status.hosts) == {host for host, _ in seen}


def test_a_job_over_its_time_limit_is_told_so(late: LateCases, finish: Finish) -> None:
    status = finish(late.provider, late.limit, late.system.limit_deadline_s)
    assert status.state is JobState.TIMEOUT
    assert status.reason


def test_a_job_on_a_lost_node_has_failed_and_does_not_run_again(
    late: LateCases, finish: Finish
) -> None:
    if late.losing is None:
        pytest.skip("no node of this scheduler can be lost")
    if late.system.told_on_return:
        assert late.losing.poll([late.lost])[late.lost].state is JobState.RUNNING
        late.bring_back()
    status = finish(late.losing, late.lost, late.system.lose_deadline_s)
    assert status.state is JobState.FAILED
    assert status.reason
    if not late.system.told_on_return:
        late.bring_back()
    assert late.losing.poll([late.lost])[late.lost] == status
    assert late.marker.read_text() == "ran\n"
