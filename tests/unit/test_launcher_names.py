# SPDX-License-Identifier: BSD-3-Clause
"""Launchers by the names of configuration files."""

from __future__ import annotations

import doctest
from typing import Any

import pytest

from ssdag.errors import ConfigError
from ssdag.launchers import JsrunLauncher, SrunLauncher, Wrapped, named, wrapped
from ssdag.launchers.named import launcher_of


def test_names_tables_and_launchers_are_taken() -> None:
    launcher = SrunLauncher(mpi="pmi2", options=("--label",))
    assert launcher_of(launcher) is launcher
    assert launcher_of("srun") == SrunLauncher()
    assert launcher_of({"kind": "srun", "mpi": "pmi2", "options": ["--label"]}) == launcher
    assert launcher_of({"kind": "jsrun", "hosts": ["a"]}) == JsrunLauncher(hosts=("a",))
    wrapped = launcher_of({"kind": "srun", "wrapper": ["apptainer", "exec", "a.sif"]})
    assert wrapped == Wrapped(SrunLauncher(), ("apptainer", "exec", "a.sif"))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("srum", "did you mean 'srun'"),
        ({"mpi": "pmi2"}, "one of aprun, flux, jsrun, mpiexec, mpirun, pals, single, srun"),
        ({"kind": "srun", "mpii": "pmi2"}, "unknown option 'mpii'; did you mean 'mpi'"),
        ({"kind": "srun", "wrapper": "apptainer exec"}, "a list of words"),
    ],
)
def test_unknown_names_say_the_nearest(value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        launcher_of(value)


def test_examples_of_the_documentation_hold() -> None:
    for module in (named, wrapped):
        assert doctest.testmod(module).failed == 0
