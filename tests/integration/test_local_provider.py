# SPDX-License-Identifier: BSD-3-Clause
"""This machine as a scheduler, where things go wrong: dead drivers, zombies, full arrays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from ssdag.errors import SubmitError, UnsupportedError
from ssdag.providers import LocalProvider
from ssdag.providers.gpus import installed_gpus, visible_gpus
from ssdag.providers.local import memory_limit_bytes
from ssdag.states import JobState
from tests.conftest import is_live, wait_until
from tests.unit.answering import Answering

if TYPE_CHECKING:
    from ssdag.providers.base import JobStatus

ROOT = Path(__file__).parents[2]


def state(provider: LocalProvider, job_id: str) -> JobState:
    """Return the state of a job."""
    return provider.poll([job_id])[job_id].state


def end(provider: LocalProvider, job_id: str) -> JobStatus:
    """Wait for a job's end."""
    wait_until(lambda: state(provider, job_id).final, what=f"end of {job_id}")
    return provider.poll([job_id])[job_id]


def pids_in(path: Path, count: int) -> list[int]:
    """Wait until a file holds so many process numbers, and return them."""
    wait_until(lambda: path.exists() and len(path.read_text().split()) == count, what=str(path))
    return [int(word) for word in path.read_text().split()]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_jobs_end_with_their_driver(tmp_path: Path, how: signal.Signals | None) -> None:
    code = f"""
import sys
from ssdag.providers import LocalProvider
provider = LocalProvider()
commands = ["sleep 300 & echo $$ $! >>pids; wait"]
for name in ("a", "b"):
    provider.submit(provider.job(name, commands, {str(tmp_path)!r}))
print("up", flush=True)
sys.stdin.readline()
"""
    driver = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert driver.stdin is not None
    assert driver.stdout is not None
    with driver:
        assert driver.stdout.readline() == "up\n"
        pids = pids_in(tmp_path / "pids", 4)
        if how is None:
            driver.stdin.write("end\n")
            driver.stdin.flush()
        else:
            driver.send_signal(how)
        driver.wait(10)
    wait_until(lambda: not any(is_live(pid) for pid in pids), what="jobs end")


def test_what_a_job_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    provider = LocalProvider()
    job_id = provider.submit(provider.job("job", ["sleep 300 & echo $! >pids", "exit 4"], tmp_path))
    assert end(provider, job_id).exit_code == 4
    (pid,) = pids_in(tmp_path / "pids", 1)
    wait_until(lambda: not is_live(pid), what="the sleep ends")


def test_one_that_ignores_sigterm_is_killed_in_the_end(tmp_path: Path) -> None:
    provider = LocalProvider()
    spec = provider.job(
        "job", ["trap '' TERM", "echo $$ >pids", "while :; do sleep 0.05; done"], tmp_path
    )
    job_id = provider.submit(spec)
    pids_in(tmp_path / "pids", 1)
    began = time.monotonic()
    provider.cancel([job_id])
    assert time.monotonic() - began < 1.5  # it does not wait for the end
    status = end(provider, job_id)
    assert (status.state, status.signal) == (JobState.CANCELLED, signal.SIGKILL)
    assert 1.5 < time.monotonic() - began < 30


def test_a_job_killed_from_outside_has_failed(tmp_path: Path) -> None:
    provider = LocalProvider()
    job_id = provider.submit(provider.job("job", ["echo $$ >pids", "sleep 300"], tmp_path))
    (pid,) = pids_in(tmp_path / "pids", 1)
    os.kill(pid, signal.SIGKILL)
    status = end(provider, job_id)
    assert (status.state, status.signal, status.reason) == (
        JobState.FAILED,
        signal.SIGKILL,
        "killed by signal 9",
    )


def test_an_array_runs_as_many_tasks_at_once_as_there_are_cores(tmp_path: Path) -> None:
    provider = LocalProvider()
    cores = len(os.sched_getaffinity(0))
    commands = ["echo + >>log", "sleep 0.02", "echo - >>log"]
    spec = replace(provider.job("job", commands, tmp_path), array=4 * cores)
    assert end(provider, provider.submit(spec)).state is JobState.COMPLETED
    running = most = 0
    for mark in (tmp_path / "log").read_text().split():
        running += 1 if mark == "+" else -1
        most = max(most, running)
    assert most <= cores
    assert running == 0


def test_a_chain_of_many_jobs_ends_also_when_the_first_fails(tmp_path: Path) -> None:
    provider = LocalProvider()
    ids = [provider.submit(provider.job("j0", ["sleep 0.1; exit 2"], tmp_path))]
    for number in range(1, 30):
        spec = provider.job(f"j{number}", ["touch ran"], tmp_path)
        ids.append(provider.submit(replace(spec, after=(ids[-1],))))
    last = end(provider, ids[-1])
    assert last.state is JobState.CANCELLED
    assert "must end well first" in last.reason
    assert not (tmp_path / "ran").exists()


def test_waiting_for_a_job_that_nobody_knows_ends_at_once(tmp_path: Path) -> None:
    provider = LocalProvider()
    spec = replace(provider.job("job", ["true"], tmp_path), after=("nobody",))
    assert end(provider, provider.submit(spec)).state is JobState.CANCELLED


def test_what_cannot_start_is_told_at_once(tmp_path: Path) -> None:
    provider = LocalProvider()
    with pytest.raises(SubmitError, match="No such file"):
        provider.submit(provider.job("job", ["true"], tmp_path / "none"))
    for changes in ({"nodes": 2}, {"queue": "x"}):
        with pytest.raises(UnsupportedError):
            provider.submit(replace(provider.job("job", ["true"], tmp_path), **changes))


def test_idle_providers_have_no_thread_and_forget(tmp_path: Path) -> None:
    import threading

    provider = LocalProvider()
    first = provider.submit(provider.job("a", ["true"], tmp_path))
    end(provider, first)
    wait_until(lambda: not any(t.name == "ssdag-local-jobs" for t in threading.enumerate()))
    second = provider.submit(provider.job("b", ["exit 3"], tmp_path))
    assert end(provider, second).exit_code == 3
    provider.forget([first])
    assert "not one of this provider" in provider.poll([first])[first].reason
    assert provider.poll([second])[second].exit_code == 3


def test_two_hundred_jobs_at_once(tmp_path: Path) -> None:
    provider = LocalProvider()
    ids = [provider.submit(provider.job(f"j{n}", [f"exit {n % 3}"], tmp_path)) for n in range(200)]
    for number, job_id in enumerate(ids):
        assert end(provider, job_id).exit_code == number % 3


def test_this_machine_is_the_allocation() -> None:
    found = LocalProvider().allocation({"CUDA_VISIBLE_DEVICES": "1,3"})
    (node,) = found.nodes
    assert node.cores == len(os.sched_getaffinity(0))
    assert node.gpus == ("1", "3")
    assert node.memory_bytes is not None
    assert 0 < node.memory_bytes <= psutil.virtual_memory().total


def test_gpus_are_those_that_may_be_used() -> None:
    assert visible_gpus({}) is None
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == ()
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == ()
    assert visible_gpus({"ROCR_VISIBLE_DEVICES": "0, 2"}) == ("0", "2")
    assert visible_gpus({"ZE_AFFINITY_MASK": "0.1,1.0"}) == ("0.1", "1.0")
    runner = Answering()
    assert installed_gpus(runner) == ()
    runner.put("nvidia-smi", "0\n1\n")
    assert installed_gpus(runner) == ("0", "1")
    runner.put("nvidia-smi", "NVIDIA-SMI has failed\n", 9)
    assert installed_gpus(runner) == ()


def test_memory_is_limited_by_control_groups(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    assert memory_limit_bytes(str(proc), str(groups)) is None
    (proc / "meminfo").write_text("MemTotal:  1000 kB\nMemFree: 1 kB\n")
    assert memory_limit_bytes(str(proc), str(groups)) == 1000 << 10
    # Version 2: the limit of a parent counts too.
    (proc / "self" / "cgroup").write_text("0::/job/step\n")
    (groups / "job" / "step").mkdir(parents=True)
    (groups / "job" / "step" / "memory.max").write_text("max\n")
    (groups / "job" / "memory.max").write_text("5000\n")
    assert memory_limit_bytes(str(proc), str(groups)) == 5000
    # Version 1
    (proc / "self" / "cgroup").write_text("3:cpu:/x\n4:memory:/slurm/job\n")
    (groups / "memory" / "slurm" / "job").mkdir(parents=True)
    (groups / "memory" / "slurm" / "job" / "memory.limit_in_bytes").write_text("7000\n")
    assert memory_limit_bytes(str(proc), str(groups)) == 7000
