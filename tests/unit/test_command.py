# SPDX-License-Identifier: BSD-3-Clause
"""Commands of bash apps, run for real."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ssdag.apps import shell
from ssdag.apps.command import run_command
from ssdag.errors import CommandError, ConfigError, WalltimeExceededError
from ssdag.wire import process as process_module
from ssdag.wire import reaper
from ssdag.wire.streams import StreamSpec, last_lines, parse

if TYPE_CHECKING:
    from pathlib import Path

    from ssdag.wire.process import Process


@pytest.fixture(params=["driver", "worker"], autouse=True)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run every test as in a thread of the driver, and as in a worker process."""
    monkeypatch.setattr(process_module, "_owned", request.param == "worker")
    return str(request.param)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("true", ["true"]),
        (
            "  a\t-b --c=d,e:f /g/h.i @j +k %l ^m ",
            ["a", "-b", "--c=d,e:f", "/g/h.i", "@j", "+k", "%l", "^m"],
        ),
        ("""echo 'a $b\n;' "c|d" e'f'"g" ''""", ["echo", "a $b\n;", "c|d", "efg", ""]),
        ("echo 'it' \"isn't\"", ["echo", "it", "isn't"]),
    ],
)
def test_commands_that_need_no_shell(command: str, words: list[str]) -> None:
    assert shell.split(command) == words


@pytest.mark.parametrize(
    "command",
    [
        *("a | b", "a > b", "a < b", "a; b", "a & b", "a && b", "a\nb", "echo $A", "echo `a`"),
        *("ls *.x", "ls ?", "ls [ab]", "echo {a,b}", "ls ~", "(a)", "! a", "a # b", "echo a\\ b"),
        *('echo "$A"', 'echo "a\\"b"', 'echo "`a`"', "A=b c", "cd /x", "exit 3", "source x"),
        *(". x", ": x", "export A", "exec a", "'cd' x", "echo 'a", 'echo "a', "a\r\nb", "'' a"),
        *("[ -f x ]", "time a", "echo --version", "é x"),
    ],
)
def test_commands_that_need_a_shell(command: str) -> None:
    assert shell.split(command) is None


def test_a_function_from_the_environment_needs_the_shell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not shell.program().endswith("bash"):
        pytest.skip("no bash")
    monkeypatch.setenv("BASH_FUNC_module%%", "() { echo loaded $1; }")
    run_command("module gcc", stdout=tmp_path / "out")
    assert (tmp_path / "out").read_text() == "loaded gcc\n"
    (tmp_path / "env").write_text("ml() { echo ml $1; }\n")
    monkeypatch.setenv("BASH_ENV", str(tmp_path / "env"))
    run_command("ml gcc", stdout=(tmp_path / "out", "w"))
    assert (tmp_path / "out").read_text() == "ml gcc\n"


@pytest.mark.parametrize("command", ["echo a 'b  c'", "echo a 'b  c' | cat"])
def test_output_to_a_file_in_a_new_folder(command: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "out.txt"
    result = run_command(command, stdout=str(path))
    assert path.read_text() == "a b  c\n"
    assert (result.exit_code, result.stdout, result.stderr) == (0, str(path), None)
    assert 0 < result.elapsed_s < 30


def test_modes(tmp_path: Path) -> None:
    path = tmp_path / "out"
    run_command("echo 1", stdout=path)
    run_command("echo 2", stdout=path)
    assert path.read_text() == "1\n2\n"
    run_command("echo 3", stdout=(path, "w+"))
    assert path.read_text() == "3\n"
    with pytest.raises(FileExistsError):
        run_command("echo 4", stdout=(path, "x"))


@pytest.mark.parametrize("spec", [3, b"x", ("a", "r"), ("a", "rw"), ("a", 1), ("a",), ""])
def test_stream_specifications_that_are_wrong(spec: object) -> None:
    with pytest.raises(ConfigError, match="stderr="):
        run_command("true", stderr=spec)  # type: ignore[arg-type]


def test_one_file_for_both_streams(tmp_path: Path) -> None:
    path = tmp_path / "log"
    same: StreamSpec = (os.path.join(tmp_path, "..", tmp_path.name, "log"), "w")
    run_command("echo 1; echo 2 >&2; echo 3", stdout=(path, "w"), stderr=same)
    assert path.read_text() == "1\n2\n3\n"
    with pytest.raises(CommandError) as caught:
        run_command("echo 4 >&2; exit 1", stdout=path, stderr=path)
    assert caught.value.stderr_tail == "4"


@pytest.mark.parametrize("redirected", [True, False])
def test_failure_carries_code_and_last_lines(
    redirected: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "err"
    path.write_text("of an earlier run\n")
    with pytest.raises(
        CommandError, match=r"(?s)sim: exit code 3: .*last lines.*line 50$"
    ) as caught:
        run_command(
            "seq -f 'line %g' 50 >&2; exit 3", stderr=path if redirected else None, label="sim"
        )
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.exit_code == 3
    assert error.command.startswith("seq")
    assert error.stderr_tail.split("\n") == [f"line {i}" for i in range(31, 51)]
    assert capfd.readouterr().err.count("\n") == (0 if redirected else 50)
    with pytest.raises(CommandError) as caught:
        run_command("exit 4", stderr=path if redirected else None)
    assert caught.value.stderr_tail == ""


def test_huge_stderr_is_passed_on_whole(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CommandError) as caught:
        run_command("seq 300000 >&2; exit 1")
    assert capfd.readouterr().err == "".join(f"{i}\n" for i in range(1, 300001))
    assert caught.value.stderr_tail.endswith("\n300000")


def test_tail_is_short_also_without_lines() -> None:
    assert last_lines(b"x" * 10000) == "x" * 4096
    assert last_lines(b"\xff\n\n") == "\ufffd"


def test_background_process_keeps_its_stderr(tmp_path: Path) -> None:
    """It meets no broken pipe when the command has ended, and does not hold it up."""
    fifo, done = tmp_path / "fifo", tmp_path / "done"
    os.mkfifo(fifo)
    os.mkfifo(done)
    run_command(f"(read x < {fifo}; echo late >&2; echo $? > {done}) > {os.devnull} &")
    fifo.write_text("\n")
    assert done.read_text() == "0\n"


@pytest.mark.parametrize("command", ["no-such-program 1", "no-such-program 1; exit $?"])
def test_program_not_found(command: str) -> None:
    with pytest.raises(CommandError, match=r"not found.*PATH") as caught:
        run_command(command)
    assert caught.value.exit_code == 127


@pytest.mark.parametrize("suffix", ["", " 2>&1"])
def test_program_that_cannot_be_executed(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("x")
    with pytest.raises(CommandError, match="chmod") as caught:
        run_command(f"{tmp_path}/text{suffix}")
    assert caught.value.exit_code == 126


def test_script_without_interpreter_line(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("exit 5\n")
    (tmp_path / "script").chmod(0o755)
    with pytest.raises(CommandError) as caught:
        run_command(f"{tmp_path}/script")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("command", ["", "  \n", "echo a\0b"])
def test_what_is_no_command(command: str) -> None:
    with pytest.raises(CommandError, match="cannot be run"):
        run_command(command)


def test_command_longer_than_the_system_takes() -> None:
    with pytest.raises(CommandError, match=r"cannot be started.*too long.*chars") as caught:
        run_command("echo " + "x" * 10_000_000)
    assert caught.value.exit_code is None
    assert len(str(caught.value)) < 1000


def test_signal(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"signal 9.*memory") as caught:
        run_command("kill -9 $$")
    assert caught.value.exit_code == -9


@pytest.mark.parametrize("redirected", [True, False])
def test_walltime_kills_all(redirected: bool, tmp_path: Path) -> None:
    pids: list[int] = []
    # The inner bash makes a process group of its own, as job control does.
    script = f"{sys.executable} -S -c 'import os,time; os.setpgid(0,0); time.sleep(600)' & wait"

    def note(process: Process) -> None:
        pids.append(process.pid)

    begin = time.monotonic()
    with pytest.raises(WalltimeExceededError, match=r"walltime of 0.2 s") as caught:
        run_command(
            f"sleep 600 & {script}",
            walltime_s=0.2,
            stderr=tmp_path / "e" if redirected else None,
            on_start=note,
        )
    assert caught.value.walltime_s == 0.2
    assert 0.2 <= time.monotonic() - begin < 5
    assert reaper.Session(pids[0]).find() == []
    assert reaper.Group(pids[0], tree=False).find() == []


def test_walltime_that_is_kept() -> None:
    assert run_command("true", walltime_s=60).exit_code == 0


def test_place_of_the_command(place: str, tmp_path: Path) -> None:
    run_command("ps -o sid=,pgid= -p $$", stdout=tmp_path / "out")
    sid, pgid = map(int, (tmp_path / "out").read_text().split())
    assert pgid != os.getpgid(0)
    assert sid == (os.getsid(0) if place == "worker" else pgid)


def test_an_error_while_waiting_kills_the_command() -> None:
    seen: list[Process] = []

    def interrupt(process: Process) -> None:
        seen.append(process)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_command("sleep 600", on_start=interrupt)
    assert seen[0].poll() == -9


def test_killed_from_another_thread() -> None:
    started = threading.Event()
    seen: list[Process] = []

    def note(process: Process) -> None:
        seen.append(process)
        started.set()

    def kill() -> None:
        started.wait(30)
        seen[0].kill_session()

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(CommandError) as caught:
        run_command("sleep 600", on_start=note)
    thread.join()
    assert caught.value.exit_code == -9


def test_no_descriptor_stays(tmp_path: Path) -> None:
    run_command("true")  # starts the guard
    before = set(os.listdir("/proc/self/fd"))
    run_command("true", stdout=tmp_path / "o")
    run_command("true", stdout=tmp_path / "o", stderr=tmp_path / "e")
    with pytest.raises(CommandError):
        run_command("no-such-program", stderr=tmp_path / "e")
    assert set(os.listdir("/proc/self/fd")) == before


def test_stdin_is_empty(tmp_path: Path) -> None:
    run_command("cat", stdout=tmp_path / "out")
    assert (tmp_path / "out").read_text() == ""


def test_without_bash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shell, "program", lambda: "/bin/sh")
    run_command("echo a | cat", stdout=tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a\n"


def test_parse_keeps_relative_paths() -> None:
    assert parse(("a/b", "wb"), "stdout") == ("a/b", "w")
    assert parse("c", "stdout") == ("c", "a")
    assert parse(None, "stdout") is None


def test_killed_driver_takes_the_command_along(place: str, tmp_path: Path) -> None:
    if place == "worker":
        pytest.skip("the owner of the worker does it")
    script = (
        "from ssdag.apps.command import run_command\n"
        "run_command('sleep 600', on_start=lambda process: print(process.pid, flush=True))"
    )
    driver = process_module.spawn(
        [sys.executable, "-W", "ignore", "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert driver.stdout is not None
    with driver.stdout:
        pid = int(driver.stdout.readline())
    fd = os.pidfd_open(pid)
    driver.send_signal(9)
    begin = time.monotonic()
    process_module._wait_readable(fd, 5)
    os.close(fd)
    assert time.monotonic() - begin < 5
    driver.wait(30)
