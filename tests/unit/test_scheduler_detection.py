# SPDX-License-Identifier: BSD-3-Clause
"""Which scheduler is here: the environment first, then the commands' own words."""

from __future__ import annotations

import pytest

from ssdag.errors import ConfigError
from ssdag.providers import GridEngineProvider, LocalProvider, SlurmProvider, auto, detect
from tests.unit.answering import Answering


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "1"}, "slurm"),
        ({"PBS_JOBID": "1.s"}, "pbs"),
        ({"PBS_JOBID": "1.s", "PBS_VERSION": "TORQUE-6.1.3"}, "torque"),
        ({"COBALT_JOBID": "1"}, "cobalt"),
        ({"LSB_JOBID": "1"}, "lsf"),
        ({"JOB_ID": "1", "SGE_ROOT": "/x", "NSLOTS": "1"}, "gridengine"),
        ({"JOB_ID": "1"}, None),
        ({"FLUX_URI": "local:///x", "SLURM_JOB_ID": "1"}, "flux"),
        ({"SSDAG_JOB_ID": "1-1"}, "local"),
        ({"SSDAG_JOB_ID": "1-1", "SLURM_JOB_ID": "1"}, "slurm"),
    ],
)
def test_inside_a_job_the_environment_tells(env: dict[str, str], name: str | None) -> None:
    assert auto.inside(env) == name


@pytest.mark.parametrize(
    ("answers", "name"),
    [
        ({}, "local"),
        ({"scontrol": ("Slurmctld(primary) at n1 is UP\n", 0, "")}, "slurm"),
        ({"scontrol": ("Slurmctld(primary) at n1 is DOWN\n", 1, "")}, "slurm"),
        # Slurm's client is installed, but there is no cluster.
        ({"scontrol": ("", 1, "Could not establish a configuration source")}, "local"),
        ({"qsub": ("pbs_version = 23.06.06\n", 0, "")}, "pbs"),
        ({"qsub": ("", 0, "Version: 6.1.3\nCommit: a6b0\n")}, "torque"),
        ({"qsub": ("", 0, "version: 4.2.10\n")}, "torque"),
        ({"qsub": ("", 1, "version: 'qsub.py' TBD, Cobalt Version: 1.0\n")}, "cobalt"),
        (
            {
                "qsub": ("", 2, 'qsub: invalid option argument "--version"\n'),
                "qstat": ("<?xml version='1.0'?>\n<job_info>\n</job_info>\n", 0, ""),
            },
            "gridengine",
        ),
        # Its client is installed, but there is no cell.
        (
            {
                "qsub": ("", 1, "error: cell directory does not exist"),
                "qstat": ("", 1, "error: cell directory does not exist"),
            },
            "local",
        ),
        ({"lsid": ("IBM Spectrum LSF Standard 10.1.0.13\n", 0, "")}, "lsf"),
        ({"lsid": ("", 255, "ls_getclustername(): LIM is down; LSF")}, "local"),
        ({"flux": ("1\n", 0, "")}, "flux"),
    ],
)
def test_outside_the_commands_are_asked(
    answers: dict[str, tuple[str, int, str]], name: str
) -> None:
    runner = Answering()
    for program, answer in answers.items():
        runner.put(program, *answer)
    assert auto.outside(runner) == name


def test_the_provider_is_made_with_the_options() -> None:
    runner = Answering()
    runner.put("scontrol", "Slurmctld(primary) at n1 is UP\n")
    found = detect(runner=runner, walltime="00:10:00")
    assert isinstance(found, SlurmProvider)
    assert (found.options.walltime_s, found.runner) == (600, runner)


def test_names_are_found_and_near_ones_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(auto.named("gridengine", max_blocks=2), GridEngineProvider)
    assert isinstance(auto.named("local"), LocalProvider)
    with pytest.raises(ConfigError, match="did you mean 'slurm'"):
        auto.named("slrum")
    for variable in ("SLURM_JOB_ID", "PBS_JOBID", "FLUX_URI", "COBALT_JOBID", "LSB_JOBID"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("SSDAG_JOB_ID", "1-1")
    assert isinstance(auto.named("auto"), LocalProvider)
