# SPDX-License-Identifier: BSD-3-Clause
"""Executors with providers and launchers in a configuration file."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from ssdag import Config, ConfigError
from ssdag.executors import AllocationExecutor, LocalExecutor, PilotExecutor
from ssdag.launchers import JsrunLauncher, PalsLauncher, SrunLauncher, Wrapped
from ssdag.providers import LocalProvider, LSFProvider, PBSProvider, SlurmProvider

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FILE = """
retries = 2

[[executors]]
kind = "pilot"
label = "simulations"
workers_per_node = 4
affinity = [[0, 1], [2, 3]]
accelerators = 2

[executors.provider]
kind = "slurm"
partition = "normal"
nodes_per_block = 2
max_blocks = 4
walltime = "02:30:00"
directives = ["--mail-type=NONE"]
modules = ["cuda/12"]
worker_init = '''
source ~/venv/bin/activate
'''
env = { OMP_NUM_THREADS = "4" }

[executors.launcher]
kind = "srun"
mpi = "none"
options = ["--label"]
wrapper = ["apptainer", "exec", "cfd.sif"]

[[executors]]
kind = "allocation"
label = "steps"
reserve_after_s = 5

[executors.provider]
kind = "pbs"
cores_per_node = 32

[executors.provider.launcher]
kind = "pals"

[[executors]]
kind = "pilot"
label = "summit"
provider = { kind = "lsf", project = "abc123" }
launcher = "jsrun"

[[executors]]
kind = "local"
max_workers = 1
"""


def in_python() -> Config:
    """The same, as a script would write it."""
    return Config(
        retries=2,
        executors=[
            PilotExecutor(
                SlurmProvider(
                    partition="normal",
                    nodes_per_block=2,
                    max_blocks=4,
                    walltime="02:30:00",
                    directives=["--mail-type=NONE"],
                    modules=["cuda/12"],
                    worker_init="source ~/venv/bin/activate\n",
                    env={"OMP_NUM_THREADS": "4"},
                ),
                launcher=Wrapped(
                    SrunLauncher(mpi="none", options=("--label",)),
                    ("apptainer", "exec", "cfd.sif"),
                ),
                label="simulations",
                workers_per_node=4,
                affinity=[[0, 1], [2, 3]],
                accelerators=2,
            ),
            AllocationExecutor(
                PBSProvider(cores_per_node=32, launcher=PalsLauncher()),
                label="steps",
                reserve_after_s=5,
            ),
            PilotExecutor(LSFProvider(project="abc123"), launcher=JsrunLauncher(), label="summit"),
            LocalExecutor(max_workers=1),
        ],
    )


def content(value: Any) -> Any:
    """What an object is made of, so that two of them can be compared."""
    if isinstance(value, (list, tuple)):
        return [content(item) for item in value]
    if isinstance(value, dict):
        return {name: content(item) for name, item in value.items()}
    if hasattr(value, "__dict__") and not isinstance(value, type):
        return type(value), {name: content(item) for name, item in vars(value).items()}
    if isinstance(value, (type(threading.Lock()), type(threading.RLock()))):
        return "a lock"
    slots = getattr(type(value), "__slots__", None)
    if slots and not isinstance(value, str):
        return type(value), [content(getattr(value, name, None)) for name in slots]
    return value


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    """Write a configuration file."""

    def write(text: str) -> Path:
        path = tmp_path / "engine.toml"
        path.write_text(text)
        return path

    return write


def test_a_file_and_python_make_the_same(file: Callable[[str], Path]) -> None:
    from_file = Config.from_toml(file(FILE))
    assert content(from_file) == content(in_python())
    first = from_file.executors[0].job(1)
    assert first == in_python().executors[0].job(1)
    assert "apptainer exec cfd.sif" in first.commands[0]
    # The comparison is no formality.
    other = Config.from_toml(file(FILE.replace("max_blocks = 4", "max_blocks = 5")))
    assert content(other) != content(in_python())


def test_auto_is_the_scheduler_that_is_here(
    file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file('[[executors]]\nkind = "allocation"\nprovider = "auto"')
    monkeypatch.delenv("FLUX_URI", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert content(Config.from_toml(path)) == content(
        Config(executors=[AllocationExecutor(SlurmProvider())])
    )
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.setenv("SSDAG_JOB_ID", "1")
    path.write_text('[[executors]]\nkind = "pilot"\nprovider = { kind = "auto", max_blocks = 3 }')
    executor = Config.from_toml(path).executors[0]
    assert content(executor) == content(PilotExecutor(LocalProvider(max_blocks=3)))


PILOT = '[[executors]]\nkind = "pilot"\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            PILOT + '[executors.provider]\nkind = "slurm"\nnode_per_block = 2',
            r"executors\.provider\]: slurm: unknown option 'node_per_block'; did you mean 'nodes_",
        ),
        (
            PILOT + '[executors.provider]\nkind = "slrum"',
            r"\[executors\.provider\]: a provider needs kind = .*did you mean 'slurm'",
        ),
        (
            PILOT + '[executors.provider]\nkind = "slurm"\nwalltime = "soon"',
            r"\[executors\.provider\]: slurm: walltime='soon': HH:MM:SS",
        ),
        (
            PILOT + 'provider = "local"\n[executors.launcher]\nkind = "srun"\nmpii = "pmi2"',
            r"\[executors\.launcher\]: launcher 'srun' takes no option 'mpii'; did you mean 'mpi'",
        ),
        (
            PILOT + '[executors.provider]\nkind = "pbs"\nlauncher = "pasl"',
            r"\[executors\.provider\.launcher\]: a launcher needs .*did you mean 'pals'",
        ),
        (
            PILOT + 'provider = "local"\nlauncher = {kind = "srun", wrapper = "apptainer exec"}',
            r"\[executors\.launcher\]: Wrapped\(argv='apptainer exec'\): a list of words",
        ),
        (PILOT + "provider = 3", r"\[executors\.provider\] is a table, or the name of a provider"),
        (PILOT, "executor 'pilot'.*provider"),
        (
            PILOT + 'provider = "local"\nworker_per_node = 2',
            "executor 'pilot' takes no option 'worker_per_node'; did you mean 'workers_per_node'",
        ),
        (
            '[[executors]]\nkind = "local"\nprovider = "slurm"',
            "executor 'local' takes no option 'provider'",
        ),
    ],
)
def test_a_wrong_table_is_told_with_its_name(
    file: Callable[[str], Path], text: str, told: str
) -> None:
    path = file(text)
    with pytest.raises(ConfigError, match=told) as caught:
        Config.from_toml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).count(str(path)) == 1
