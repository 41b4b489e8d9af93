# SPDX-License-Identifier: BSD-3-Clause
"""The command line: what it passes on, what it prints, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ssdag.cli import demo
from ssdag.cli.launch import existing_file, split_arguments
from ssdag.errors import ConfigError, SsdagError
from ssdag.version import __version__

ROOT = Path(__file__).resolve().parents[2]


def ssdag(*words: str, cwd: Path | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would; fail unless it ends with `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "ssdag.cli.main", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def script(folder: Path, text: str) -> str:
    path = folder / "work.py"
    path.write_text(text)
    return str(path)


# -- arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "config", "arguments"),
    [
        ([], None, []),
        (["a", "--flag"], None, ["a", "--flag"]),
        (["--config", "c.toml", "a"], "c.toml", ["a"]),
        (["a", "--config=c.toml"], "c.toml", ["a"]),
        (["--config", "c.toml", "--", "--config", "x"], "c.toml", ["--config", "x"]),
        (["--", "--", "a"], None, ["--", "a"]),
    ],
)
def test_split_arguments(rest: list[str], config: str | None, arguments: list[str]) -> None:
    assert split_arguments(rest) == (config, arguments)


def test_config_needs_a_value() -> None:
    with pytest.raises(ConfigError, match="needs a file name"):
        split_arguments(["a", "--config"])


def test_a_wrong_name_gets_the_near_one(tmp_path: Path) -> None:
    (tmp_path / "search.py").touch()
    with pytest.raises(ConfigError, match=r"did you mean .*search\.py\?"):
        existing_file(tmp_path / "serach.py", "script")
    with pytest.raises(ConfigError, match="is a folder"):
        existing_file(tmp_path, "script")
    with pytest.raises(ConfigError, match="there is no script"):
        existing_file(tmp_path / "absent" / "a.py", "script")


# -- the command --------------------------------------------------------------------------


def test_version() -> None:
    assert ssdag("--version").stdout.strip() == f"ssdag {__version__}"


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["info", "--help"]])
def test_help(words: list[str]) -> None:
    assert "Usage" in ssdag(*words).stdout


def test_wrong_usage_is_told_without_a_traceback(tmp_path: Path) -> None:
    for words in (["rum"], ["run"], ["run", "nope.py"], ["run", "--confg", "a", "b.py"]):
        done = ssdag(*words, cwd=tmp_path, code=2)
        assert "Traceback" not in done.stderr
        assert "rror" in done.stderr


def test_info_names_the_version() -> None:
    assert __version__ in ssdag("info").stdout


@pytest.mark.parametrize(
    ("words", "unbuffered"),
    [(["info"], "1"), (["info"], ""), (["--version"], "1"), (["run", "hello.py"], "")],
)
def test_output_that_cannot_be_written_is_no_traceback(
    tmp_path: Path, words: list[str], unbuffered: str
) -> None:
    (tmp_path / "hello.py").write_text("print('hello')\n")

    def to(descriptor: int) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "ssdag.cli.main", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered},
            stdout=descriptor,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
        os.close(descriptor)
        return done.returncode, done.stderr

    assert to(os.open("/dev/full", os.O_WRONLY)) == (1, "error: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    assert to(writer) == (1, "")


def test_a_script_sees_what_it_would_see_without_us(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("VALUE = 7\n")
    path = script(
        tmp_path,
        "import sys, neighbour, __main__\n"
        "assert __name__ == '__main__' and __main__.sys is sys\n"
        "print(sys.argv[1:], __file__, neighbour.VALUE, sys.path[0])\n",
    )
    out = ssdag("run", path, "one", "--help", "--", "--config", cwd=tmp_path).stdout
    assert out.split("\n")[0] == f"['one', '--help', '--config'] {path} 7 {tmp_path}"


def test_a_module_of_the_script_is_there_until_the_interpreter_exits(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        "import atexit, sys\n"
        "class Mine: pass\n"
        "atexit.register(lambda: print(sys.modules['__main__'].Mine is Mine))\n",
    )
    assert ssdag("run", path).stdout.strip() == "True"


@pytest.mark.parametrize(
    ("line", "code", "stderr"),
    [
        ("raise SystemExit(7)", 7, ""),
        ("raise SystemExit('stop')", 1, "stop\n"),
        ("raise SystemExit", 0, ""),
    ],
)
def test_exit_codes(tmp_path: Path, line: str, code: int, stderr: str) -> None:
    assert ssdag("run", script(tmp_path, line), code=code).stderr == stderr


@pytest.mark.parametrize("text", ["def f():\n    return 1 / 0\nf()\n", "def f(:\n"])
def test_tracebacks_are_those_of_plain_python(tmp_path: Path, text: str) -> None:
    path = script(tmp_path, text)
    plain = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, timeout=60, check=False
    )
    ours = ssdag("run", path, code=1)
    assert ours.stderr == plain.stderr
    assert plain.returncode == 1


def test_ctrl_c(tmp_path: Path) -> None:
    path = script(
        tmp_path, f"import os\nos.kill(os.getpid(), {int(signal.SIGINT)})\nimport signal\n"
    )
    done = ssdag("run", path, code=130)
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    assert "cli" not in done.stderr


def test_a_configuration_reaches_the_script(tmp_path: Path) -> None:
    (tmp_path / "three.toml").write_text("max_pending = 3\n")
    path = script(
        tmp_path, "import ssdag\nwith ssdag.load() as e:\n    print(e.config.max_pending)\n"
    )
    for words in (["--config", "three.toml", path], [path, "--config", "three.toml"]):
        assert ssdag("run", *words, cwd=tmp_path).stdout.strip() == "3"


def test_a_wrong_configuration_is_told_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text("max_pendin = 3\n")
    path = script(tmp_path, "print('never')\n")
    done = ssdag("run", path, "--config", "wrong.toml", cwd=tmp_path, code=2)
    assert "max_pending" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    done = ssdag("run", path, "--config", "wrnog.toml", cwd=tmp_path, code=2)
    assert "did you mean wrong.toml?" in done.stderr


def test_the_demonstration_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "CHEM", {"no_such_module": "no-such-package", "ssdag": "ssdag"})
    with pytest.raises(
        SsdagError, match=r"needs no-such-package: .* -m pip install no-such-package$"
    ):
        demo.run_demo([])
