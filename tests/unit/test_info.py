# SPDX-License-Identifier: BSD-3-Clause
"""``ssdag info``: finds what is there, survives what is odd."""

from __future__ import annotations

import io
import os
import time
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from ssdag.cli import info
from ssdag.version import __version__

if TYPE_CHECKING:
    from pathlib import Path


def put(folder: Path, name: str, script: str) -> None:
    """Write a program."""
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make PATH one empty folder."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def rows(title: str) -> dict[str, str]:
    """Return one section."""
    return dict(next(section.rows for section in info.collect() if section.title == title))


@pytest.mark.parametrize(
    ("qstat", "qsub", "environment", "family"),
    [
        ("pbs_version = 23.06.06", None, {"SGE_ROOT": "/x"}, "PBS 23.06.06"),
        ("SGE 8.1.9\nusage: qstat [options]", None, {}, "Grid Engine (SGE 8.1.9)"),
        ("Unknown option --version", "usage", {"SGE_ROOT": "/x"}, "Grid Engine"),
        ("Version: 6.1.2\nCommit: 1", None, {}, "Torque"),
        ("", 'version: "qsub.py Cobalt 1.0"', {}, "Cobalt"),
        (None, None, {"COBALT_JOBID": "1", "PBS_JOBID": "1"}, "Cobalt"),
        (None, None, {"PBS_JOBID": "1"}, "PBS"),
        (None, "?", {}, "unknown family of qsub"),
    ],
)
def test_queue_family(
    qstat: str | None, qsub: str | None, environment: dict[str, str], family: str
) -> None:
    assert info.queue_family(qstat, qsub, environment) == family


def test_programs_are_found_and_asked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SGE_ROOT", raising=False)
    put(path, "sbatch", "echo; echo slurm 22.05.8; echo more")
    put(path, "bsub", 'echo "bsub $1" >&2')
    put(path, "qsub", "echo pbs_version = 23.06.06")
    schedulers = rows("Schedulers")
    assert schedulers["Slurm"] == f"slurm 22.05.8  ({path}/sbatch)"
    assert schedulers["LSF"] == f"bsub -V  ({path}/bsub)"
    assert schedulers["qsub"] == f"PBS 23.06.06  ({path}/qsub)"
    assert schedulers["Flux"] == info.NOT_FOUND


def test_bare_machine(path: Path) -> None:
    assert set(rows("Compilers").values()) == {info.NOT_FOUND}
    assert set(rows("Schedulers").values()) == {info.NOT_FOUND}
    assert rows("Servers")["redis-server"] == info.NOT_FOUND
    put(path, "redis-server", "echo Redis server v=7.0.15 sha=0:0 malloc=x")
    assert rows("Servers")["redis-server"] == f"Redis server v=7.0.15  ({path}/redis-server)"


def test_gpus(path: Path) -> None:
    put(path, "nvidia-smi", "echo 'H100, 81559 MiB, 550'; echo 'H100, 81559 MiB, 550'")
    put(path, "rocm-smi", "echo ====; echo 'GPU[0] : Card series: MI300X'")
    gpus = rows("GPUs")
    assert gpus["NVIDIA 1"] == "H100, 81559 MiB, 550"
    assert gpus["AMD"] == "GPU[0] : Card series: MI300X"
    assert "devices" in gpus


def test_versions_and_machine() -> None:
    versions, machine = rows("Versions"), rows("Machine")
    assert versions["ssdag"] == __version__
    assert versions["numpy"][0].isdigit()
    assert machine["cores that we may use"].startswith(f"{len(os.sched_getaffinity(0))} of ")
    assert "GiB" in machine["memory"]
    assert "/dev/shm" in machine


def test_programs_that_hang_or_fail(path: Path) -> None:
    begin = time.monotonic()
    assert info.ask(["/bin/sleep", "600"], patience_s=0.05) is None
    assert time.monotonic() - begin < 5
    assert info.ask(["/no/such/program"]) is None
    put(path, "fails", "exit 3")
    assert info.first_line(info.ask([f"{path}/fails"])) == "no answer"
    assert info.first_line(None) == "no answer"
    assert info.first_line("\n title\n release 1.2\n") == "release 1.2"
    (path / "cc").write_text("not a program")
    (path / "cc").chmod(0o755)
    assert rows("Compilers")["cc"] == f"no answer  ({path}/cc)"


def test_a_probe_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[info.Row]:
        raise RuntimeError("odd machine")

    monkeypatch.setattr(info, "_PROBES", (("Odd", fail), ("Versions", lambda: [("a", "b")])))
    assert info.collect() == [
        info.Section("Odd", [("could not be determined", "RuntimeError: odd machine")]),
        info.Section("Versions", [("a", "b")]),
    ]


def test_render() -> None:
    output = io.StringIO()
    sections = [info.Section("Title", [("what", "[red]finding"), ("gone", info.NOT_FOUND)])]
    info.render(sections, Console(file=output, width=80))
    info.render([], Console(file=output))
    assert [line.split() for line in output.getvalue().splitlines()] == [
        ["Title"],
        ["what", "[red]finding"],
        ["gone", "not", "found"],
    ]
