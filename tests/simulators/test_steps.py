# SPDX-License-Identifier: BSD-3-Clause
"""Steps in allocations of simulated schedulers, by their own launchers' lines."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

from ssdag.states import JobState
from tests.simulators.asking import ended, on, provider_of
from tests.simulators.simulator import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulators.simulator import Simulator

RANK = {"lsf": "JSM_NAMESPACE_RANK", "cobalt": "ALPS_APP_PE", "flux": "FLUX_TASK_RANK"}

DRIVER = """
import json, sys
import ssdag
from ssdag import Config, Resources, bash_app
from ssdag.errors import UnsupportedError
from ssdag.executors import AllocationExecutor

rank, folder = sys.argv[1:]

@bash_app(resources=Resources(ranks=4, ranks_per_node=2))
def spread(): return f'echo "${rank} $SSDAG_TEST_HOST" >>spread'

@bash_app(resources=Resources(ranks=1, cores_per_rank=2))
def one(index): return f'echo "$SSDAG_TEST_HOST" >one{index}'

@bash_app(resources=Resources(ranks=2))
def fails(): return f'[ ${rank} = 0 ] || exit 7'

@bash_app(resources=Resources(ranks=999))
def huge(): return "true"

with ssdag.load(Config(executors=[AllocationExecutor(folder=folder)])) as engine:
    done = [spread(), *(one(index) for index in range(4))]
    said = {"codes": [future.result(60) for future in done]}
    error = fails().exception(60)
    said["fails"] = [type(error).__name__, error.exit_code]
    try:
        huge()
    except UnsupportedError as error:
        said["huge"] = str(error)
json.dump(said, open("said", "w"))
"""


def words(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines())


@on(*RANK)
def test_ranks_run_where_they_were_asked_for(simulator: Simulator, tmp_path: Path) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    provider = provider_of(
        simulator,
        nodes_per_block=2,
        env={"PYTHONPATH": str(ROOT)},
        worker_init=f"export PATH={simulator.bin}:$PATH",
    )
    line = shlex.join([sys.executable, str(driver), RANK[simulator.kind], str(tmp_path)])
    job_id = provider.submit(provider.job("job", [line], tmp_path))
    status = ended(provider, job_id)
    assert status.state is JobState.COMPLETED, (tmp_path / "job.err").read_text()
    first, second = status.hosts
    assert words(tmp_path / "spread") == [
        f"{rank} {host}" for rank, host in enumerate([first, first, second, second])
    ]
    homes = [words(tmp_path / f"one{index}")[0] for index in range(4)]
    assert set(homes) <= {first, second}
    said = json.loads((tmp_path / "said").read_text())
    assert said["codes"] == [0] * 5
    assert said["fails"] == ["CommandError", 7]
    assert "999 ranks" in said["huge"]
