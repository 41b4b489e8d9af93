# SPDX-License-Identifier: BSD-3-Clause
"""A simulated scheduler, as a test holds it: commands on a PATH, and ways to break it."""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from tests.simulators.command import ask
from tests.simulators.f58 import value as flux_value

if TYPE_CHECKING:
    from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(__file__).with_name("command.py")
LAUNCH = Path(__file__).with_name("launch.py")


class Simulator:
    """A scheduler that exists as long as this object is open.

    Parameters
    ----------
    kind : str
        ``pbs``, ``torque``, ``lsf``, ``cobalt`` or ``flux``.
    nodes : int
        Hosts; each runs one job at a time.

    Attributes
    ----------
    bin : Path
        Folder of its commands; put it first on PATH.
    folder : Path
        Its state, and the spool.
    server_pid : int
        The process behind it.
    """

    def __init__(self, kind: str, nodes: int = 2) -> None:
        self.kind = kind
        self.folder = Path(tempfile.mkdtemp(prefix=f"ssdag-{kind}-"))
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        dialect = importlib.import_module(f"tests.simulators.{kind}").Dialect
        self.commands: tuple[str, ...] = dialect.COMMANDS
        for name in self.commands:
            self._shim(name)
        start = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
            "from tests.simulators.server import main; main()"
        )
        words = [kind, str(self.folder), str(os.getpid()), str(nodes)]
        argv = [sys.executable, "-I", "-S", "-c", start, *words]
        started = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            timeout=30,
            check=False,
        )
        if not started.stdout.strip().isdigit():
            rmtree(self.folder, ignore_errors=True)
            raise RuntimeError(f"the simulator of {kind} did not start")
        self.server_pid = int(started.stdout)
        self._server = os.pidfd_open(self.server_pid)

    def _shim(self, name: str) -> None:
        words = [sys.executable, "-I", "-S", str(COMMAND), str(self.folder), name]
        text = f'exec {shlex.join(words)} "$@"\n'
        launch = shlex.join([sys.executable, "-I", "-S", str(LAUNCH), name])
        if name in ("jsrun", "aprun"):
            text = f'exec {launch} "$@"\n'
        elif name == "flux":
            text = f'if [ "$1" = run ]; then shift; exec {launch} "$@"; fi\n{text}'
        shim = self.bin / name
        shim.write_text(f"#!/bin/sh\n{text}")
        shim.chmod(0o755)

    def __enter__(self) -> Simulator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, and everything that its jobs have started."""
        if self._server < 0:
            return
        with contextlib.suppress(OSError):
            self.control("stop")
        over, _, _ = select.select([self._server], [], [], 15)
        if not over:
            signal.pidfd_send_signal(self._server, signal.SIGKILL)
        os.close(self._server)
        self._server = -1
        rmtree(self.folder, ignore_errors=True)

    def env(self) -> dict[str, str]:
        """Return an environment in which its commands are found first."""
        return {**os.environ, "PATH": f"{self.bin}{os.pathsep}{os.environ.get('PATH', '')}"}

    def run(self, *argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run one of its commands, by default in its own folder, where stray output goes."""
        return subprocess.run(
            argv,
            capture_output=True,
            text=True,
            env=self.env(),
            cwd=cwd or self.folder,
            timeout=30,
            check=False,
        )

    # -- what can happen to it -------------------------------------------------------

    def control(self, control: str, **more: Any) -> list[dict[str, Any]]:
        """Do something to the scheduler; return its own view of the jobs that it is about."""
        answer = ask(str(self.folder), {"control": control, **more})
        if "error" in answer:
            raise ValueError(answer["error"])
        jobs: list[dict[str, Any]] = answer["jobs"]
        return jobs

    def fault(
        self,
        command: str,
        kind: str,
        times: int = 1_000_000,
        seconds: float = 0.0,
        answer: dict[str, Any] | None = None,
    ) -> None:
        """Let a command (``*``: each) go wrong.

        Parameters
        ----------
        command : str
            Name of the command.
        kind : str
            ``down`` (the scheduler is not there), ``slow`` (by `seconds`), ``hang``,
            ``garbled``, ``empty`` (nothing, and return code 0) or ``answer`` (what is given).
        times : int
            How often.
        """
        more = {"kind": kind, "times": times, "seconds": seconds, "answer": answer}
        ask(str(self.folder), {"control": "fault", "command": command, **more})

    def heal(self) -> None:
        """End all faults."""
        self.control("heal")

    def job(self, job_id: str) -> list[dict[str, Any]]:
        """Return the truth about a job: one entry, or one for each task of an array."""
        return self.control("look", number=self.number(job_id))

    def jobs(self, *stages: str) -> list[dict[str, Any]]:
        """Return the truth about all jobs, or those in some stages."""
        return [job for job in self.control("look") if not stages or job["stage"] in stages]

    def number(self, job_id: str) -> int:
        """Return the number of a job."""
        if self.kind == "flux":
            return int(flux_value(job_id) or 0) // 58
        return int("".join(c for c in job_id.partition(".")[0] if c.isdigit()))
