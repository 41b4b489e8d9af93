# SPDX-License-Identifier: BSD-3-Clause
"""The simulators answer as was recorded: each line here stands for an observation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.simulators.simulator import ROOT, Simulator

only = pytest.mark.parametrize


def script(folder: Path, *lines: str, name: str = "job.sh") -> str:
    path = folder / name
    path.write_text("\n".join(["#!/bin/bash", *lines]) + "\n")
    path.chmod(0o755)
    return str(path)


def submit(simulator: Simulator, *argv: str) -> str:
    done = simulator.run(*argv)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ended(simulator: Simulator, job_id: str, tasks: int = 1) -> None:
    def is_over() -> bool:
        found = simulator.job(job_id)
        return len(found) == tasks and all(task["stage"] == "ENDED" for task in found)

    wait_until(is_over, what=f"end of {job_id}")


def running(simulator: Simulator, job_id: str) -> None:
    wait_until(lambda: simulator.job(job_id)[0]["stage"] == "RUNNING", what=f"start of {job_id}")


# -- PBS ---------------------------------------------------------------------------------


@only("simulator", ["pbs"], indirect=True)
def test_pbs_replies(simulator: Simulator, tmp_path: Path) -> None:
    path = script(tmp_path, "exit 7")
    first = submit(simulator, "qsub", "-o", str(tmp_path), path)
    second = submit(simulator, "qsub", "-o", str(tmp_path), path)
    assert (first, second) == ("1.pbs1", "2.pbs1")
    assert submit(simulator, "qsub", "-J", "0-3", path) == "3[].pbs1"
    ended(simulator, first)
    ended(simulator, second)
    ended(simulator, "3", 4)
    refusals = [
        (["qsub", "-q", "nope", path], 170, "qsub: Unknown queue\n"),
        (["qsub", "/nope.sh"], 1, "qsub: script file:: No such file or directory\n"),
        (["qsub", "-v", 'A="q', path], 1, "qsub: cannot send environment with the job\n"),
        (["qdel", "2.pbs1"], 35, "qdel: Job has finished 2.pbs1\n"),
        (["qdel", "9999.pbs1"], 153, "qdel: Unknown Job Id 9999.pbs1\n"),
        (["qstat", "9999.pbs1"], 153, "qstat: Unknown Job Id 9999.pbs1\n"),
        (
            ["qstat", "1.pbs1"],
            35,
            "qstat: 1.pbs1 Job has finished, use -x or -H to obtain historical job information\n",
        ),
    ]
    for argv, code, words in refusals:
        done = simulator.run(*argv)
        assert (done.returncode, done.stderr, done.stdout) == (code, words, "")
    assert simulator.run("qstat").stdout == ""  # nothing at all when it is empty
    assert simulator.run("qstat", "--version").stdout == "pbs_version = 23.06.06\n"
    simulator.fault("*", "down")
    assert simulator.run("qstat").returncode == 255
    assert simulator.run("qdel", "1").returncode == 162


@only("simulator", ["pbs"], indirect=True)
def test_pbs_json_names_only_the_first_and_turns_texts_into_numbers(
    simulator: Simulator, tmp_path: Path
) -> None:
    path = script(tmp_path, "sleep 60")
    ids = [submit(simulator, "qsub", "-v", "A=0123,B=1e5,C=x", path) for _ in range(2)]
    answer = json.loads(simulator.run("qstat", "-f", "-F", "json", *ids).stdout)
    assert list(answer["Jobs"]) == ids[:1]
    variables = answer["Jobs"][ids[0]]["Variable_List"]
    assert (variables["A"], variables["B"], variables["C"]) == (123, 100000, "x")
    whole = simulator.run("qstat", "-f", "-F", "dsv", *ids).stdout
    assert [line.partition("|")[0] for line in whole.splitlines()] == [
        f"Job Id: {job_id}" for job_id in ids
    ]
    unknown = simulator.run("qstat", "-f", "-F", "json", "9999.pbs1")
    assert "Jobs" not in json.loads(unknown.stdout)
    assert unknown.returncode == 153


@only("simulator", ["pbs"], indirect=True)
def test_pbs_exit_statuses(simulator: Simulator, tmp_path: Path) -> None:
    def row(job_id: str) -> str:
        return simulator.run("qstat", "-x", "-f", job_id).stdout

    by_signal = submit(simulator, "qsub", script(tmp_path, "kill -9 $$"))
    ended(simulator, by_signal)
    assert "Exit_status = 265" in row(by_signal)
    late = submit(simulator, "qsub", "-l", "walltime=1", script(tmp_path, "sleep 60"))
    ended(simulator, late)
    assert "Exit_status = -29" in row(late)
    assert "substate = 93" in row(late)
    deleted = submit(simulator, "qsub", script(tmp_path, "sleep 60"))
    running(simulator, deleted)
    assert simulator.run("qdel", deleted).returncode == 0
    ended(simulator, deleted)
    assert "Exit_status = 0" in row(deleted)  # (!)
    assert "substate = 91" in row(deleted)


@only("simulator", ["pbs"], indirect=True)
def test_pbs_lost_node(simulator: Simulator, tmp_path: Path) -> None:
    again = submit(simulator, "qsub", "-l", "select=2", script(tmp_path, "sleep 60"))
    running(simulator, again)
    simulator.control("lose", host="pbs2")
    wait_until(lambda: simulator.job(again)[0]["stage"] == "QUEUED", what="requeue")
    row = simulator.run("qstat", "-f", again).stdout
    assert "job_state = Q" in row
    assert "Exit_status = -20" in row  # while it waits to run again
    never = submit(simulator, "qsub", "-r", "n", script(tmp_path, "sleep 60"))
    running(simulator, never)
    simulator.control("lose", host="pbs1")
    ended(simulator, never)
    assert "Exit_status = -20" in simulator.run("qstat", "-x", "-f", never).stdout


# -- LSF, Cobalt, Flux -------------------------------------------------------------------


@only("simulator", ["lsf"], indirect=True)
def test_lsf_replies(simulator: Simulator, tmp_path: Path) -> None:
    def bsub(*argv: str, text: str = "exit 0\n") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bsub", *argv],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            cwd=tmp_path,
        )

    assert bsub().stdout == "Job <1> is submitted to default queue <normal>.\n"
    assert bsub("-q", "debug").stdout == "Job <2> is submitted to queue <debug>.\n"
    ended(simulator, "1")
    ended(simulator, "2")
    alone = simulator.run("bjobs", "99")
    assert (alone.returncode, alone.stderr) == (0, "Job <99> is not found\n")
    beside = simulator.run("bjobs", "1", "99")
    assert beside.returncode == 255
    assert "DONE" in beside.stdout
    assert simulator.run("bjobs").stderr == "No unfinished job found\n"
    records = json.loads(simulator.run("bjobs", "-json", "-o", "jobid stat", "1", "99").stdout)
    assert records["RECORDS"][0] == {"JOBID": "1", "STAT": "DONE"}
    assert "ERROR" in records["RECORDS"][1]
    for job_id, words in [("1", "Job has already finished"), ("99", "No matching job found")]:
        done = simulator.run("bkill", job_id)
        assert (done.returncode, done.stderr) == (255, f"Job <{job_id}>: {words}\n")


@only("simulator", ["cobalt"], indirect=True)
def test_cobalt_replies(simulator: Simulator, tmp_path: Path) -> None:
    path = script(tmp_path, "exit 3")
    argv = ["qsub", "-n", "1", "-t", "5", "--cwd", str(tmp_path)]
    assert submit(simulator, *argv, path) == "1"
    ended(simulator, "1")
    gone = simulator.run("qstat", "1")
    assert (gone.returncode, gone.stdout, gone.stderr) == (1, "", "")
    assert simulator.run("qstat").stdout.splitlines()[0].split() == [
        *("JobID", "User", "WallTime", "Nodes", "State", "Location")
    ]
    assert "exit code of 3; initiating job cleanup" in (tmp_path / "1.cobaltlog").read_text()
    os.chmod(path, 0o644)
    assert "is not executable" in simulator.run(*argv, path).stderr
    late = script(tmp_path, "# a line between", "#COBALT -n 1", "#COBALT -t 5", name="late.sh")
    assert simulator.run("qsub", late).stderr == "'time' not provided\n"
    assert "Maybe a queue isn't there?" in simulator.run(*argv, "-q", "nope", late).stderr
    assert simulator.run("qstat", "x").stderr == "x is not a valid jobid or queue name\n"


@only("simulator", ["flux"], indirect=True)
def test_flux_replies(simulator: Simulator, tmp_path: Path) -> None:
    path = script(tmp_path, "# flux: -N1 --output='{{id}}.out' # a comment", "exit 3")
    job_id = submit(simulator, "flux", "batch", path)
    assert job_id.startswith("ƒ")
    wait_until(lambda: simulator.control("look", number=1)[0]["stage"] == "ENDED")
    done = simulator.run("flux", "jobs", "-no", "{id.f58} {state} {result} {returncode}", job_id)
    assert done.stdout == f"{job_id} INACTIVE FAILED 3\n"
    assert simulator.run("flux", "jobs", "fzzzz").returncode == 1


# -- what the machinery promises ---------------------------------------------------------


def test_all_that_jobs_start_ends_with_the_simulator(tmp_path: Path) -> None:
    with Simulator("pbs") as simulator:
        note = tmp_path / "pids"
        lines = (
            f"setsid sleep 600 & echo $! >>{note}; nohup sleep 600 & echo $! >>{note}; sleep 600"
        )
        submit(simulator, "qsub", script(tmp_path, lines))
        wait_until(lambda: note.exists() and len(note.read_text().split()) == 2, what="children")
        pids = [int(pid) for pid in note.read_text().split()]
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not simulator.folder.exists()


def test_it_ends_when_its_test_is_killed(tmp_path: Path) -> None:
    path = script(tmp_path, f"echo $$ >{tmp_path}/pid", "sleep 600")
    code = (
        "from tests.simulators.simulator import Simulator\n"
        f"s = Simulator('pbs'); s.run('qsub', {path!r})\n"
        "print(s.server_pid, s.folder, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        assert driver.stdout is not None
        pid, folder = driver.stdout.readline().split()
        wait_until((tmp_path / "pid").exists, what="start of the job")
        os.kill(driver.pid, signal.SIGKILL)
    server, job = int(pid), int((tmp_path / "pid").read_text())
    wait_until(lambda: not _alive(server) and not _alive(job), what="end of server and job")
    assert not Path(folder).exists()


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
