# SPDX-License-Identifier: BSD-3-Clause
"""Steps on this machine: commands, Python functions, real MPI ranks, and their ends."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import ssdag
from ssdag import (
    CommandError,
    Config,
    Resources,
    UnsupportedError,
    WalltimeExceededError,
    WorkerLostError,
    bash_app,
    mpi_app,
    python_app,
)
from ssdag.errors import (
    AppDefinitionError,
    ConfigError,
    LauncherError,
    MissingOutputError,
    WouldDeadlockError,
)
from ssdag.executors import AllocationExecutor, LocalExecutor
from ssdag.executors.allocation.mpi import find_launcher
from ssdag.launchers import Launcher, MpiexecLauncher, MpirunLauncher
from ssdag.providers.base import Node
from ssdag.wire.process import spawn
from tests.conftest import wait_until
from tests.contract import bodies
from tests.integration import step_bodies
from tests.integration.mpi.found import OPENMPI_ENV

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ssdag.dataflow.engine import Engine
    from ssdag.launchers import Step
    from ssdag.tasks import AppFuture

pytestmark = pytest.mark.usefixtures("no_old_segments")

DEADLINE_S = 60.0
HERE = "localhost"

needs_mpi = pytest.mark.skipif(
    find_launcher() is None or importlib.util.find_spec("mpi4py") is None,
    reason="no MPI here: pip install mpich mpi4py",
)


@pytest.fixture
def start() -> Iterator[Callable[..., Engine]]:
    """Start engines on an allocation of this machine; closed after the test."""
    engines: list[Engine] = []

    def make(*nodes: Node, **options: Any) -> Engine:
        executor = AllocationExecutor("local", nodes=list(nodes) or [Node(HERE, 2)], **options)
        engines.append(ssdag.load(Config(executors=[executor])))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@bash_app
def run(command: str, **_: Any) -> str:
    return command


def until_exists(path: Path) -> None:
    wait_until(path.exists, DEADLINE_S, f"{path.name} exists")


# -- commands ----------------------------------------------------------------------------


def test_commands_and_their_streams(start: Callable[..., Engine], tmp_path: Path) -> None:
    start()
    out, both = str(tmp_path / "new" / "out"), str(tmp_path / "both")
    assert run("echo one; echo two >&2", stdout=out, stderr=(both, "w")).result(DEADLINE_S) == 0
    assert run("echo more", stdout=out).result(DEADLINE_S) == 0
    assert Path(out).read_text() == "one\nmore\n"
    assert Path(both).read_text() == "two\n"
    run("echo a; echo b >&2", stdout=both, stderr=both).result(DEADLINE_S)
    assert Path(both).read_text() == "two\na\nb\n"


def test_stderr_shows_and_its_tail_is_in_the_error(
    start: Callable[..., Engine], capfd: pytest.CaptureFixture[str]
) -> None:
    start()
    error = run("echo oops >&2; exit 3").exception(DEADLINE_S)
    assert isinstance(error, CommandError)
    assert (error.exit_code, error.stderr_tail) == (3, "oops")
    assert "echo oops" in str(error)
    assert "oops\n" in capfd.readouterr().err


def test_what_cannot_run(start: Callable[..., Engine], tmp_path: Path) -> None:
    start()
    script = tmp_path / "script"
    script.write_text("exit 4\n")
    script.chmod(0o755)
    for command, code in (
        ("no-such-program-xyz 1", 127), (str(tmp_path), 126), (str(script), 4), ("kill -9 $$", -9),
    ):  # fmt: skip
        error = run(command).exception(DEADLINE_S)
        assert isinstance(error, CommandError), command
        assert error.exit_code == code
    assert isinstance(run(" ").exception(DEADLINE_S), CommandError)
    assert isinstance(run(3).exception(DEADLINE_S), AppDefinitionError)
    blocked = run("true", stdout=str(script / "x")).exception(DEADLINE_S)
    assert isinstance(blocked, OSError)
    missing = run("true", outputs=[str(tmp_path / "none")]).exception(DEADLINE_S)
    assert isinstance(missing, MissingOutputError)
    assert run("true").result(DEADLINE_S) == 0, "all slots came back"


def test_a_body_that_waits_is_refused(start: Callable[..., Engine]) -> None:
    start(Node(HERE, 2))
    held = run("sleep 600")

    @bash_app
    def waits() -> str:
        return f"exit {held.result()}"

    wait_until(held.running, DEADLINE_S)
    with pytest.raises(WouldDeadlockError, match="Pass the future as an argument"):
        waits().result(DEADLINE_S)
    assert held.cancel()


def test_slow_bodies_hold_up_no_ends(start: Callable[..., Engine], tmp_path: Path) -> None:
    start(Node(HERE, 8), pin=False)
    go = threading.Event()

    @bash_app
    def slow() -> str:
        assert go.wait(DEADLINE_S)
        return "true"

    quick = run(f"until [ -e {tmp_path}/go ]; do sleep 0.01; done")
    wait_until(quick.running, DEADLINE_S)
    held = [slow() for _ in range(6)]
    (tmp_path / "go").touch()
    assert quick.result(DEADLINE_S) == 0
    go.set()
    assert ssdag.gather(held, timeout=DEADLINE_S) == [0] * 6


def test_steps_never_overlap_and_slots_are_filled_again(
    start: Callable[..., Engine], tmp_path: Path
) -> None:
    start(Node(HERE, 3), pin=False)
    log = tmp_path / "log"

    def task(i: int, cores: int) -> AppFuture[int]:
        text = f"echo + {cores} >> {log}; sleep 0.0{i % 5 + 1}; echo - {cores} >> {log}"
        return run(text, resources=Resources(cores=cores))

    assert ssdag.gather([task(i, 1 + i % 3) for i in range(30)], timeout=DEADLINE_S) == [0] * 30
    used, peak = 0, 0
    for line in log.read_text().splitlines():
        sign, cores = line.split()
        used += int(cores) if sign == "+" else -int(cores)
        peak = max(peak, used)
        assert used <= 3
    assert (used, peak) == (0, 3)


def test_cores_and_gpus_are_the_steps_own(start: Callable[..., Engine], tmp_path: Path) -> None:
    start(Node(HERE, 2, ("GPU-a", "GPU-b")))
    here = os.sched_getaffinity(0)
    go = tmp_path / "go"
    text = (
        "echo $CUDA_VISIBLE_DEVICES $ROCR_VISIBLE_DEVICES $OMP_NUM_THREADS "
        "$(grep Cpus_allowed_list /proc/self/status); touch {0}.on; "
        "until [ -e " + str(go) + " ]; do sleep 0.01; done"
    )
    needs = Resources(gpus=1)
    outs = [tmp_path / "a", tmp_path / "b"]
    futures = [run(text.format(out), stdout=str(out), resources=needs) for out in outs]
    for out in outs:
        until_exists(Path(f"{out}.on"))
    go.touch()
    ssdag.gather(futures, timeout=DEADLINE_S)
    said = [out.read_text().split() for out in outs]
    assert sorted(words[0] for words in said) == ["GPU-a", "GPU-b"]
    assert all(words[:1] == words[1:2] and words[2] == "1" for words in said)
    if len(here) >= 2:
        assert len({words[4] for words in said}) == 2, "each on a core of its own"
    with pytest.raises(UnsupportedError, match=r"3 GPUs asked.*2 cores and 2 GPUs"):
        run("true", resources=Resources(gpus=3))


# -- ends --------------------------------------------------------------------------------


def left(mark: str) -> list[int]:
    """Return the processes that have a word in their command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if mark in words and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def test_walltime_ends_all_of_a_step(start: Callable[..., Engine]) -> None:
    start(Node(HERE, 1), grace_s=0.3)
    for command in ("sleep 601.1 & sleep 601.1", "trap '' TERM; sleep 601.1 & sleep 601.1; wait"):
        error = run(command, walltime=0.3).exception(DEADLINE_S)
        assert isinstance(error, WalltimeExceededError)
        assert error.walltime_s == 0.3
        assert left("601.1") == []
    assert run("true").result(DEADLINE_S) == 0


def test_cancel_of_running_and_waiting(start: Callable[..., Engine], tmp_path: Path) -> None:
    start(Node(HERE, 1), grace_s=0.3)
    running = run(f"touch {tmp_path}/on; trap '' TERM; sleep 601.2 & wait; sleep 601.2")
    waiting = run(f"touch {tmp_path}/never")
    until_exists(tmp_path / "on")
    assert waiting.cancel()
    assert running.cancel()
    assert running.cancelled()
    assert run("true").result(DEADLINE_S) == 0, "the slot came back"
    assert left("601.2") == []
    assert not (tmp_path / "never").exists()


def test_what_a_step_leaves_behind_ends_with_it(start: Callable[..., Engine]) -> None:
    start()
    assert run("sleep 601.3 > /dev/null 2>&1 &").result(DEADLINE_S) == 0
    assert left("601.3") == []


def test_the_end_of_the_engine_ends_all(start: Callable[..., Engine], tmp_path: Path) -> None:
    engine = start(grace_s=0.3)
    futures = [
        run(f"touch {tmp_path}/{i}; trap '' TERM; sleep 601.4; sleep 601.4 ") for i in (1, 2)
    ]
    futures += [run("sleep 601.4") for _ in range(5)]
    for i in (1, 2):
        until_exists(tmp_path / str(i))
    engine.close()
    assert left("601.4") == []
    assert all(future.exception(0) is not None for future in futures)


def test_a_done_callback_may_end_the_engine(start: Callable[..., Engine]) -> None:
    engine = start()
    run("true").add_done_callback(lambda _: engine.close())
    held = run("sleep 601.5")
    assert held.exception(DEADLINE_S) is not None
    wait_until(lambda: left("601.5") == [], DEADLINE_S, "it is gone")


# -- Python ------------------------------------------------------------------------------


def test_python_functions(start: Callable[..., Engine]) -> None:
    engine = start()
    double = python_app(step_bodies.double)
    assert double([1, "a"]).result(DEADLINE_S) == [1, "a", 1, "a"]
    assert engine.submit(lambda x: x + 1, double(4)).result(DEADLINE_S) == 9
    error = python_app(bodies.trouble)(7).exception(DEADLINE_S)
    assert type(error) is bodies.Trouble
    assert error.code == 7
    lost = python_app(step_bodies.dies)().exception(DEADLINE_S)
    assert isinstance(lost, WorkerLostError)
    assert lost.exit_code == 7
    for wrong, text in (
        (python_app(step_bodies.locked)(), "result of locked"),
        (double(threading.Lock()), "argument 0"),
    ):
        with pytest.raises(ssdag.SerializationError, match=text):
            wrong.result(DEADLINE_S)


def test_files_of_calls_are_private_and_go(start: Callable[..., Engine], tmp_path: Path) -> None:
    engine = start(folder=tmp_path / "steps")

    def modes(root: str) -> set[int]:
        (run_folder,) = Path(root).iterdir()
        paths = [run_folder, *run_folder.rglob("*")]
        return {stat.S_IMODE(path.stat().st_mode) for path in paths}

    assert engine.submit(modes, str(tmp_path / "steps")).result(DEADLINE_S) == {0o700, 0o600}
    (run_folder,) = (tmp_path / "steps").iterdir()
    assert list(run_folder.iterdir()) == []
    engine.close()
    assert list((tmp_path / "steps").iterdir()) == []


# -- ranks -------------------------------------------------------------------------------


@mpi_app(python=True, returns="all", resources=Resources(ranks=2))
def world(value: int) -> Any:
    return step_bodies.world(value)


@needs_mpi
def test_a_command_with_ranks(start: Callable[..., Engine], tmp_path: Path) -> None:
    start()
    out = tmp_path / "out"

    @mpi_app(resources=Resources(ranks=2))
    def ranks(as_list: bool) -> Any:
        return ["sh", "-c", "echo 'one rank'"] if as_list else "echo 'one rank'"

    for as_list in (True, False):
        assert ranks(as_list, stdout=str(out)).result(DEADLINE_S) == 0
        assert ranks(as_list, stdout=str(out), resources=Resources(ranks=1)).result(DEADLINE_S) == 0
    assert out.read_text() == "one rank\n" * 6
    run("echo 'one rank'", stdout=str(out), resources=Resources(ranks=2)).result(DEADLINE_S)
    assert out.read_text() == "one rank\n" * 8


@needs_mpi
def test_python_on_every_rank(start: Callable[..., Engine], tmp_path: Path) -> None:
    start()
    assert world(5).result(DEADLINE_S) == [(0, 2, 10, "2"), (1, 2, 10, "2")]
    first = mpi_app(step_bodies.world, python=True)  # type: ignore[call-overload]
    assert first(5, resources=Resources(ranks=1)).result(DEADLINE_S)[:3] == (0, 1, 5)
    out = tmp_path / "out"
    printing = mpi_app(python=True, resources=Resources(ranks=2))(step_bodies.rank_prints)
    printing(stdout=str(out)).result(DEADLINE_S)
    assert sorted(out.read_text().split("\n")) == ["", "rank 0", "rank 1"]


@needs_mpi
def test_a_rank_that_fails_ends_all(start: Callable[..., Engine]) -> None:
    start()

    def ranks(body: Callable[[int], None]) -> BaseException | None:
        app = mpi_app(python=True, resources=Resources(ranks=2))(body)
        return app(1).exception(DEADLINE_S)

    error = ranks(step_bodies.rank_raises)
    assert isinstance(error, ValueError)
    assert str(error) == "rank 1 has enough"
    assert error.__notes__ == ["raised on rank 1 of 2"]
    died = ranks(step_bodies.rank_dies)
    assert isinstance(died, WorkerLostError)
    left_ = ranks(step_bodies.rank_exits)
    assert "SystemExit('no more')" in str(left_)
    assert run("true", resources=Resources(cores=2)).result(DEADLINE_S) == 0


@needs_mpi
def test_ranks_over_invented_hosts(start: Callable[..., Engine]) -> None:
    found = find_launcher()
    if not isinstance(found, MpiexecLauncher):
        pytest.skip("only Hydra starts ranks on hosts that do not exist")
    fork = MpiexecLauncher(found.executable, options=("-launcher", "fork"))
    start(*(Node(f"invented{i}", 2) for i in range(3)), launcher=fork, pin=False)
    shapes = [
        (Resources(ranks=3, nodes=3), "111"),
        (Resources(ranks=5), "221"),
        (Resources(ranks=2), "2"),
    ]
    for resources, per_node in shapes:
        ends = world(1, resources=resources).result(DEADLINE_S)
        assert [end[0] for end in ends] == list(range(sum(map(int, per_node))))
        counts = Counter(end[3] for end in ends)
        assert counts == Counter({n: per_node.count(n) * int(n) for n in set(per_node)})
    assert run("true").result(DEADLINE_S) == 0
    with pytest.raises(UnsupportedError, match=r"7 ranks.*3 nodes with 2 cores"):
        world(1, resources=Resources(ranks=7))


@pytest.mark.skipif(
    shutil.which("mpirun.openmpi") is None or importlib.util.find_spec("mpi4py") is None,
    reason="no Open MPI: apt-get install openmpi-bin; pip install mpi4py",
)
def test_ranks_of_open_mpi(start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OPENMPI_ENV.items():
        monkeypatch.setenv(name, value)
    start(launcher=MpirunLauncher("mpirun.openmpi", allow_run_as_root=True, oversubscribe=True))
    ends = world(5).result(DEADLINE_S)
    assert [end[:3] for end in ends] == [(0, 2, 10), (1, 2, 10)]
    raises = mpi_app(python=True, resources=Resources(ranks=2))(step_bodies.rank_raises)
    assert isinstance(raises(1).exception(DEADLINE_S), ValueError)


class Naive(Launcher):
    """Starts as many processes as there are ranks, of which no MPI knows."""

    name = "naive"

    def command(self, *steps: Step, folder: str = "") -> list[str]:
        text = 'n=$0; while [ $n -gt 0 ]; do "$@" & n=$((n - 1)); done; wait'
        return ["sh", "-c", text, str(steps[0].ranks), *steps[0].argv]


@needs_mpi
def test_a_launcher_that_the_mpi_does_not_understand(start: Callable[..., Engine]) -> None:
    start(launcher=Naive())
    with pytest.raises(LauncherError, match=r"2 ranks were launched by naive.*world of 1"):
        world(1).result(DEADLINE_S)


@needs_mpi
def test_a_command_may_launch_its_ranks_itself(
    start: Callable[..., Engine], tmp_path: Path
) -> None:
    found = find_launcher()
    assert isinstance(found, MpiexecLauncher)
    out = tmp_path / "out"
    plain = start()
    text = "echo start; $SSDAG_LAUNCH sh -c 'echo a rank'; echo end"
    run(text, stdout=str(out), resources=Resources(ranks=2)).result(DEADLINE_S)
    assert out.read_text() == "start\na rank\na rank\nend\n"
    plain.close()
    # A launch line that no variable can hold unquoted.
    start(launcher=MpiexecLauncher(found.executable, options=("-env", "WORDS", "two words")))
    text = "$SSDAG_LAUNCH sh -c 'echo $WORDS'"
    run(text, stdout=(str(out), "w"), resources=Resources(nodes=1)).result(DEADLINE_S)
    assert out.read_text() == "two words\n"


# -- refusals ----------------------------------------------------------------------------


def test_what_is_refused_at_once(start: Callable[..., Engine], tmp_path: Path) -> None:
    start(Node(HERE, 2), launcher=None)
    with pytest.raises(UnsupportedError, match=r"3 cores asked, but it has 1 node with 2 cores"):
        run("true", resources=Resources(cores=3))
    with pytest.raises(UnsupportedError, match=r"mpi_app\(python=True\)"):
        python_app(resources=Resources(ranks=2))(step_bodies.double)(1)
    with pytest.raises(UnsupportedError, match="cores_per_rank"):
        run("true", resources=Resources(ranks=2, cores=1))
    with pytest.raises(AppDefinitionError, match="returns"):
        mpi_app(returns="all")(step_bodies.double)
    with pytest.raises(AppDefinitionError, match=r"'retruns'.*did you mean 'returns'"):
        mpi_app(retruns="all")(step_bodies.double)
    with pytest.raises(ConfigError, match="no job of slurm"):
        ssdag.load(Config(executors=[AllocationExecutor("slurm")]))
    with pytest.raises(ConfigError, match="nodes=0"):
        AllocationExecutor(nodes=0)


def test_other_executors_start_no_ranks() -> None:
    with (
        ssdag.load(Config(executors=[LocalExecutor(1)])),
        pytest.raises(UnsupportedError, match="starts no MPI ranks; use an AllocationExecutor"),
    ):
        world(1)


# -- the driver dies ---------------------------------------------------------------------

DRIVER = """
import sys, time
import ssdag
from ssdag import Config, Resources, bash_app, mpi_app
from ssdag.executors import AllocationExecutor
from ssdag.providers.base import Node

@bash_app
def run(command):
    return command

@mpi_app(resources=Resources(ranks=2))
def ranks(command):
    return command

ssdag.load(Config(executors=[AllocationExecutor("local", nodes=[Node("localhost", 4)], grace_s=1)]))
# Nobody reads our stderr any more when bash tells how sleep has ended.
run(f"exec 2> /dev/null; trap 'touch {sys.argv[1]}/told' TERM; touch {sys.argv[1]}/a; sleep 601.6")
if sys.argv[2] == "mpi":
    ranks(f"touch {sys.argv[1]}/b; sleep 601.6")
print(ssdag.__file__, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_driver_is_killed(tmp_path: Path, how: signal.Signals) -> None:
    mpi = find_launcher() is not None
    argv = [sys.executable, "-c", DRIVER, str(tmp_path), "mpi" if mpi else ""]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    process = spawn(argv, env=env, stdout=subprocess.DEVNULL)
    try:
        until_exists(tmp_path / "a")
        if mpi:
            until_exists(tmp_path / "b")
        os.kill(process.pid, how)
        wait_until(lambda: left("601.6") == [], 20.0, "all steps are gone")
        wait_until((tmp_path / "told").exists, 5.0, "SIGTERM comes before SIGKILL")
        wait_until(lambda: not list(tmp_path.glob(".ssdag-*")), 20.0, "its folders are gone")
    finally:
        process.kill_session()
        shutil.rmtree(tmp_path / "steps", ignore_errors=True)
