# SPDX-License-Identifier: BSD-3-Clause
"""What ``ssdag plan`` prints, for every scheduler and the configurations of the examples.

After a wanted change, ``SSDAG_WRITE_GOLDEN=1 pytest tests/golden/test_plan.py`` writes the
files of ``plans/`` anew.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ssdag.cli.plan.command import plan
from ssdag.cli.plan.values import PlanEnd, Unknown
from ssdag.config import Config
from ssdag.executors import AllocationExecutor, PilotExecutor
from ssdag.executors.pilot import manager
from ssdag.launchers.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent / "plans"
SITES = sorted((ROOT / "examples" / "configs").glob("*.toml"))
FILES = [path for path in (*SITES, *sorted(FOLDER.glob("*.toml"))) if path.stem != "laptop"]


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In no allocation, in an empty folder."""
    for name in list(os.environ):
        if re.match(r"SLURM_|PBS_|LSB_|COBALT_|FLUX_|SGE_|JOB_ID|OMP_NUM_THREADS", name):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def plain(text: str, folder: Path) -> str:
    """Without what is different on each machine."""
    for found, name in (
        (os.path.abspath(manager.__file__), "MANAGER"),
        (sys.executable, "PYTHON"),
        (os.path.realpath(folder), "FOLDER"),
        (str(folder), "FOLDER"),
    ):
        text = text.replace(found, name)
    return text


def check(name: str, text: str) -> None:
    path = FOLDER / f"{name}.txt"
    if os.environ.get("SSDAG_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_plan_of_a_configuration(path: Path, tmp_path: Path) -> None:
    check(path.stem, plain(plan(None, path), tmp_path))
    assert not list(tmp_path.iterdir())  # a plan makes nothing


def test_the_plan_of_a_laptop() -> None:
    text = plan(None, next(path for path in SITES if path.stem == "laptop"))
    assert "8 threads of the driver" in text
    assert "steps in an allocation of local" in text


@pytest.mark.parametrize("path", [*SITES, *FILES], ids=lambda p: p.stem)
def test_scripts_are_shell_and_launch_lines_read_back(path: Path) -> None:
    config = Config.from_toml(path)
    for executor in config.executors:
        if isinstance(executor, PilotExecutor):
            job = executor.job(1)
            done = subprocess.run(
                ["bash", "-n"], input=executor.provider.script(job), text=True, check=False,
                capture_output=True,
            )  # fmt: skip
            assert (done.returncode, done.stderr) == (0, "")
            if executor.launcher is not None:
                (line,) = job.commands
                (step,) = executor.launcher.parse(shlex.split(line))
                assert isinstance(step, Step)
                assert step.ranks == executor.provider.options.nodes_per_block
                assert step.argv[-4:] == ("--contact", "CONTACT", "--block", "1")
        elif isinstance(executor, AllocationExecutor):
            assert executor.label in plan(None, path)


@pytest.mark.parametrize(
    ("provider", "launcher"),
    [("cobalt", "aprun -n 1 -N 1 -cc none "), ("slurm", ""), ("pbs", ""), ("flux", "")],
)
def test_a_block_of_one_node_needs_a_launcher_where_scripts_do_not_run_on_it(
    tmp_path: Path, provider: str, launcher: str
) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'[[executors]]\nkind = "pilot"\nprovider = "{provider}"\n')
    text = plain(plan(None, config), tmp_path)
    assert f"\n  launch      {launcher}PYTHON -P MANAGER --contact" in text


def test_the_plan_of_a_system_that_ssh_reaches(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        '[[executors]]\nkind = "pilot"\npython = "/opt/ssdag/bin/python"\n[executors.provider]\n'
        'kind = "slurm"\nssh = "me@far.example.org"\nssh_folder = "/scratch/me/ssdag"\n'
    )
    text = plan(None, config)
    assert "workers in blocks of slurm on me@far.example.org" in text
    assert re.search(r"submit      sbatch --parsable /scratch/me/ssdag/\S+/ssdag-pilot-1.sh", text)
    assert "launch      /opt/ssdag/bin/python -m ssdag.executors.pilot.manager" in text


def command_line(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "ssdag.cli.main", "plan", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_the_plan_of_a_script(tmp_path: Path) -> None:
    script = FOLDER / "campaign.py"
    done = command_line(str(script), "a", "b", "--config", str(FOLDER / "two_systems.toml"))
    tasks = [text[text.index("  tasks ") :] for text in done.stdout.split("\n\nexecutor ")]
    ends = done.stdout[done.stdout.rindex("\nservice ") :]
    tasks[1] = tasks[1][: tasks[1].index("\n\n")] + "\n"
    text = "\n".join(tasks) + ends.replace(f"{FOLDER}{os.sep}", "")
    check("campaign", plain(text, tmp_path))
    # What the script prints is not the plan.
    assert "model <train of task 20.loss> ['a', 'b']" in done.stderr
    assert "model" not in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_plan_of_a_script_that_waits_for_data(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(
        "import ssdag\n"
        "@ssdag.python_app\ndef f(x): return x\n"
        "with ssdag.load():\n"
        "    db = ssdag.Orchestrator()\n"
        "    waited = [db.tensor('t'), db.dataset('d'), db.list('l', length=2), db.key('k'),\n"
        "              db.stream('s'), db.when(lambda c: True, keys=['k'])]\n"
        "    ssdag.gather([f(one) for one in waited])\n"
        "    db.steer('stop')\n"
        "    f([db.steering(), db.step_counter(ranks=2), db.checkpoint(keep=2)]).result()\n"
    )
    assert "7 tasks planned, to the end of the script" in command_line(str(script)).stdout


def test_the_plan_of_a_sweep_in_jobs(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(
        "import ssdag\n"
        "@ssdag.bash_app\ndef f(i): return f'solve {i}'\n"
        "@ssdag.mpi_app(resources=ssdag.Resources(ranks=32))\ndef g(): return 'solve all'\n"
        "with ssdag.load():\n    f.map(range(7))\n    g()\n"
    )
    text = command_line(str(script), "--config", str(FOLDER / "batch_jobs.toml")).stdout
    assert "7 x f (bash_app)" in text
    assert re.search(r"srun .*solve 0\n +in 3 jobs", text)
    assert re.search(r"srun .*--ntasks=32 .*solve all\n +in 1 job,", text)


def test_a_script_without_configuration_and_one_that_fails(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    text = "import ssdag\n@ssdag.python_app(cache=True)\ndef f(x): return x\n"
    script.write_text(text + "print(ssdag.gather([f(f(i)) for i in range(3)]))\n")
    done = command_line(str(script))
    assert "executor 'local' (LocalExecutor)" in done.stdout
    assert "tasks       6, at most 3 of them side by side" in done.stdout
    assert "6 tasks planned, to the end of the script" in done.stdout
    script.write_text(text + "f(1).result()\nimport sys\nsys.exit(3)\n")
    assert "1 task planned; the plan goes up to here: it left with exit code 3" in (
        command_line(str(script)).stdout
    )
    script.write_text(text + "f(1).result()\n1 / 0\n")
    done = command_line(str(script))
    assert "it failed, with exit code 1" in done.stdout
    assert "ZeroDivisionError" in done.stderr
    script.write_text("print('nothing')\n")
    assert "starts no engine" in command_line(str(script)).stdout


def test_a_script_with_a_configuration_of_its_own(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(
        "import numpy as np\nimport ssdag\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "from ssdag import Config, Resources, mpi_app, python_app\n"
        "from ssdag.executors import AllocationExecutor, FuturesExecutor\n"
        "from ssdag.providers import SlurmProvider\n"
        "@mpi_app(resources=Resources(ranks=4))\ndef f(): return 'solve'\n"
        "@python_app(executors=['pool'], cache=True)\ndef g(x): return x\n"
        "steps = AllocationExecutor(SlurmProvider(cores_per_node=4))\n"
        "pool = FuturesExecutor(lambda: ThreadPoolExecutor(1), label='pool')\n"
        "with ssdag.load(Config(executors=[steps, pool])) as engine:\n"
        "    f()\n    print(engine.graph())\n"
        "    values = ssdag.gather([g(i) for i in range(3)])\n"
        "    print(np.mean(values))\n"
    )
    done = command_line(str(script))
    assert "srun --nodes=1 --ntasks=4" in done.stdout
    assert "executor 'pool' (FuturesExecutor): it starts what it needs itself" in done.stdout
    assert re.search(r"4 tasks planned; the plan .* the value of g of task 1 is", done.stdout)


def test_a_checkpoint_gets_nothing_of_a_plan(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(
        "import ssdag\n@ssdag.python_app(cache=True)\ndef f(x): return x\nprint(f(1).result())\n"
    )
    config = tmp_path / "c.toml"
    config.write_text('checkpoint = "results.sqlite"\n')
    command_line(str(script), "--config", str(config))
    assert not (tmp_path / "results.sqlite").exists()


def test_what_cannot_be_planned_is_told_in_a_line(tmp_path: Path) -> None:
    assert "name a script, or a configuration" in command_line(code=2).stderr
    config = tmp_path / "c.toml"
    config.write_text('[[executors]]\nkind = "pilot"\nprovider = { kind = "lsf", qos = "high" }\n')
    done = command_line("--config", str(config), code=2)
    assert "executor 'pilot': lsf: no qos" in done.stderr
    assert "Traceback" not in done.stderr
    script = tmp_path / "work.py"
    script.write_text(
        "from ssdag import Resources, mpi_app\n"
        "@mpi_app(resources=Resources(ranks=99))\ndef f(): return 'true'\nf()\n"
    )
    config.write_text(
        '[[executors]]\nkind = "allocation"\n'
        'provider = { kind = "slurm", nodes_per_block = 2, cores_per_node = 8 }\n'
    )
    done = command_line(str(script), "--config", str(config))
    assert "UnsupportedError" in done.stderr
    assert "99" in done.stderr
    assert "0 tasks planned; the plan goes up to here: it failed" in done.stdout


def test_unknown_values() -> None:
    value: Any = Unknown("f of task 1")
    assert str(value) == f"{value:.3f}" == "<f of task 1>"
    assert str(value.a["b"](1) * 2 + 1 - value).startswith("<a number from sub of")
    uses: list[Callable[[Any], object]] = [
        bool, list, len, float, int, max, sorted, open, lambda v: v > 1, lambda v: 1 in v,
        lambda v: v == 0, lambda v: v != 0,
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(PlanEnd, match="the value of f of task 1 is needed"):
            use(value)
    with pytest.raises(AttributeError):
        value.__wrapped__  # noqa: B018
