# SPDX-License-Identifier: BSD-3-Clause
"""Every script and command line of a table of jobs, as text to check against manuals.

Each file of ``providers/`` holds the table for one provider. After a wanted change,
``SSDAG_WRITE_GOLDEN=1 pytest tests/golden/test_provider_scripts.py`` writes them anew.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ssdag.errors import UnsupportedError
from ssdag.providers import LocalProvider
from ssdag.providers.auto import BUILT_IN, named
from ssdag.providers.options import minutes_of
from tests.golden.provider_jobs import JOBS, READERS

if TYPE_CHECKING:
    from ssdag.providers.base import JobSpec, Provider
    from ssdag.providers.batch import BatchProvider

FOLDER = Path(__file__).parent / "providers"
IDS = {
    "pbs": "12.pbs1",
    "torque": "12.torque1",
    "flux": "fABC",
}
OPTIONS: dict[str, dict[str, Any]] = {"gridengine": {"parallel_environment": "mpi"}}
BATCH = [name for name in BUILT_IN if name != "local"]


def job_of(name: str, case: str) -> JobSpec:
    """Return a job of the table with ids and marks as this provider has them."""
    job = JOBS[case]
    mark = getattr(provider_of(name), "mark", "#")
    return replace(
        job,
        after=tuple(one.replace("{id}", IDS.get(name, "12")) for one in job.after),
        directives=tuple(one.replace("{mark}", mark) for one in job.directives),
    )


def provider_of(name: str) -> Provider:
    made = named(name, **OPTIONS.get(name, {}))
    if name == "gridengine":  # it tells a job how another ended by files of its own
        made._jobs.add("12", JOBS["plain"])  # type: ignore[attr-defined]
    return made


def shown(name: str, case: str) -> str:
    """Return submit line and script, as the golden files have them."""
    provider, job = provider_of(name), job_of(name, case)
    try:
        script = provider.script(job)
        path = os.path.join(job.folder, "sim.sh")
        line = shlex.join(provider.submit_command(job, path))
    except UnsupportedError as error:
        return f"! {error}\n"
    return f"> {line}\n" + "".join(f"    {row}".rstrip() + "\n" for row in script.splitlines())


def commands(provider: BatchProvider, name: str) -> str:
    ids = [IDS.get(name, "12"), IDS.get(name, "12").replace("12", "13").replace("C", "D")]
    lines = (provider.status_command(ids), provider.cancel_command(ids))
    return "".join(f"> {shlex.join(line)}\n" for line in lines)


def table(name: str) -> str:
    provider = provider_of(name)
    asked = "" if isinstance(provider, LocalProvider) else commands(provider, name)  # type: ignore[arg-type]
    head = f"== status and cancel\n{asked}\n" if asked else ""
    return head + "\n".join(f"== {case}\n{shown(name, case)}" for case in JOBS)


@pytest.mark.parametrize("name", BUILT_IN)
def test_scripts_and_lines_are_those_of_the_golden_file(name: str) -> None:
    path = FOLDER / f"{name}.txt"
    text = table(name)
    if os.environ.get("SSDAG_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def scripts(name: str) -> dict[str, tuple[list[str], str]]:
    """Read submit lines and scripts of a golden file."""
    found = {}
    text = (FOLDER / f"{name}.txt").read_text()
    for entry in re.split(r"^== ", text, flags=re.MULTILINE)[1:]:
        case, _, rest = entry.partition("\n")
        if case in JOBS and not rest.startswith("! "):
            line, _, script = rest.removeprefix("> ").partition("\n    ")
            found[case] = shlex.split(line), re.sub(r"^    ", "", script, flags=re.MULTILINE)
    return found


@pytest.mark.parametrize("name", BATCH)
def test_each_golden_script_says_to_its_scheduler_what_was_asked_for(name: str) -> None:
    found = scripts(name)
    assert "everything" in found
    for case, (line, script) in found.items():
        if case == "directives":
            continue  # made-up ones, which no scheduler takes
        job = job_of(name, case)
        for key, value in READERS[name](script, line).items():
            if key == "minutes":
                assert value == minutes_of(job.walltime_s), case
            elif key == "walltime_s":
                assert job.walltime_s <= value < job.walltime_s + 1, case
            elif key == "queue or reservation":
                assert value == (job.queue or job.reservation), case
            elif key == "log":
                assert value == os.devnull or value.startswith(f"{job.folder}/"), case
            elif key == "output":
                plain = value.replace("%%", "%").replace("%a.", "")
                assert plain == f"{job.folder}/{job.name.replace('/', '_')}.out", case
            else:
                assert value == getattr(job, key), (case, key)


@pytest.mark.parametrize("name", BATCH)
def test_users_directives_come_last_and_with_one_mark(name: str) -> None:
    _, script = scripts(name)["directives"]
    mark = provider_of(name).mark  # type: ignore[attr-defined]
    rows = [row for row in script.splitlines() if row.startswith(mark)]
    assert rows[-3:] == [f"{mark} -x y", f"{mark} --key=value", f"{mark} --flag"]
    # Directives follow the first line without a gap, as Cobalt wants it.
    assert script.splitlines()[1 : 1 + len(rows)] == rows


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_golden_script_is_good_shell_and_holds_its_commands(name: str) -> None:
    for case, (_, script) in scripts(name).items():
        checked = subprocess.run(
            ["bash", "-n"], input=script, text=True, capture_output=True, check=False, timeout=30
        )
        assert (checked.returncode, checked.stderr) == (0, ""), case
        for command in JOBS[case].commands:
            assert f"\n{command}\n" in script, case


@pytest.mark.parametrize("name", BATCH)
def test_no_secret_is_in_a_line(name: str) -> None:
    assert "export OMP_NUM_THREADS=8" in scripts(name)["everything"][1]
    for line, script in scripts(name).values():
        mark = provider_of(name).mark  # type: ignore[attr-defined]
        told = [*line, *(row for row in script.splitlines() if row.startswith(mark))]
        assert not re.search("HOME|OMP_NUM_THREADS", " ".join(told))
