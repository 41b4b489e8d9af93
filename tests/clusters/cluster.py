# SPDX-License-Identifier: BSD-3-Clause
"""Real schedulers on this machine, as objects: start, stop, stop answering, lose a node."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from ssdag.providers.commands import LocalRunner

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ssdag.providers.commands import Answer

HERE = Path(__file__).parent


def free_ports(count: int) -> int:
    """Return the first of `count` ports in a row that nobody listens on."""
    # Below the ports that the kernel gives to clients. Drivers that start at the same time
    # look at different places.
    for step in range(190):
        base = 20000 + (os.getpid() + step) * 64 % 12160
        try:
            for port in range(base, base + count):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise OSError("no free ports")


class Cluster:
    """A scheduler that a script of this folder starts and stops.

    Parameters
    ----------
    nodes : int
        How many nodes it has.
    **settings : str
        Variables that its script knows, such as ``GPUS="1"``.
    """

    script: str
    programs: tuple[str, ...]
    package: str

    def __init__(self, nodes: int, **settings: str) -> None:
        self._settings = settings
        if os.geteuid() != 0:
            pytest.skip(f"{self.package}: only root can start it")
        for program in self.programs:
            if shutil.which(program) is None and not os.path.exists(program):
                pytest.skip(f"no {program}: apt-get install {self.package}")
        self.nodes = nodes
        self.folder = Path(tempfile.gettempdir(), f"ssdag-cluster-{secrets.token_hex(4)}")

    def start(self) -> None:
        """Start it; it ends with this process in any case."""
        self.folder.mkdir(mode=0o755)
        answer = self._call(
            "up", *self._arguments(), env={"OWNER": str(os.getpid()), **self._settings}
        )
        if answer.returncode != 0:
            self.stop()
            pytest.skip(f"{self.package} cannot be started here: {answer.stderr.strip()[-300:]}")

    def _arguments(self) -> list[str]:
        return [str(self.nodes), "4"]

    def stop(self) -> None:
        """Stop it and remove its files."""
        self._call("down")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _call(
        self, command: str, *arguments: str, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(HERE / self.script), command, str(self.folder), *arguments],
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


class SlurmCluster(Cluster):
    """Slurm with nodes n1, n2, ... of four CPUs. Needs SLURM_CONF in the environment."""

    script = "slurm_up.sh"
    programs = ("slurmctld", "slurmd", "munged", "sbatch")
    package = "slurm-wlm munge"

    def __init__(self, nodes: int = 4, **settings: str) -> None:
        super().__init__(nodes, **settings)
        self.port = free_ports(12 + nodes)
        self.env = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        #: Daemons of nodes that tests have killed.
        self._killed: set[int] = set()

    def _arguments(self) -> list[str]:
        return [*super()._arguments(), str(self.port)]

    def run(self, *argv: str) -> str:
        """Run a command of Slurm's and return what it says."""
        return subprocess.run(
            argv, env={**os.environ, **self.env}, capture_output=True, text=True, check=True
        ).stdout

    def _pid(self, name: str) -> int:
        return int((self.folder / "run" / f"{name}.pid").read_text())

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Let the controller take connections, and answer nobody."""
        pid = self._pid("slurmctld")
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def stop_controller(self) -> None:
        """End the controller in order: it saves all that it knows."""
        pid = self._pid("slurmctld")
        os.kill(pid, signal.SIGTERM)
        psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], 20)

    def kill_controller(self) -> None:
        """Kill the controller as a crash would."""
        os.kill(self._pid("slurmctld"), signal.SIGKILL)

    def start_controller(self) -> None:
        """Start the controller again, with what it had saved."""
        self.run("slurmctld", "-f", self.env["SLURM_CONF"])

    def kill_node(self, name: str) -> None:
        """Kill a node's daemon; what runs there runs on until the daemon is back."""
        pid = self._pid(f"slurmd-{name}")
        self._killed.add(pid)
        os.kill(pid, signal.SIGKILL)

    def start_node(self, name: str) -> None:
        """Start a node's daemon again."""
        self.run("slurmd", "-N", name, "-f", self.env["SLURM_CONF"])

    def revive(self) -> None:
        """Start the daemons of nodes again that have crashed.

        Debian's slurmd 22.05 does, very rarely, when several steps begin at once; the
        node would be down for all tests to come.
        """
        from tests.conftest import wait_until  # which loads the fixtures that load us

        dead = list(self._dead())
        for name in dead:
            self.start_node(name)
        for name in dead:
            wait_until(partial(self._is_up, name), 60.0, f"node {name} is back")

    def crashed(self) -> list[str]:
        """Return the nodes whose daemons have ended by themselves, until they are revived."""
        return [name for name, pid in self._dead().items() if pid not in self._killed]

    def _dead(self) -> dict[str, int]:
        names = [path.stem for path in (self.folder / "run").glob("slurmd-*.pid")]
        pids = {name.removeprefix("slurmd-"): self._pid(name) for name in names}
        return {name: pid for name, pid in pids.items() if not _is_alive(pid)}

    def _is_up(self, name: str) -> bool:
        argv = ["srun", "--immediate=5", "-Q", "-w", name, "-N1", "true"]
        done = subprocess.run(argv, env={**os.environ, **self.env}, check=False, timeout=60,
                              stderr=subprocess.DEVNULL)  # fmt: skip
        return done.returncode == 0


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class GridEngineCluster(Cluster):
    """Grid Engine with hosts sge1, sge2, ...; commands need :attr:`runner`."""

    script = "sge_up.sh"
    programs = ("/usr/lib/gridengine/sge_qmaster", "/usr/lib/gridengine/sge_execd", "qsub", "ip")
    package = "gridengine-master gridengine-exec gridengine-client iproute2"

    def __init__(self, nodes: int = 2) -> None:
        super().__init__(nodes)
        self.runner = NamespaceRunner(HERE / self.script, self.folder)

    def pids(self, name: str) -> dict[int, str]:
        """Return the processes of a host, with their names."""
        namespaces = [os.stat(path).st_ino for path in self._namespaces(name)]
        found = {}
        for process in psutil.process_iter(["name"]):
            try:
                if os.stat(f"/proc/{process.pid}/ns/net").st_ino in namespaces:
                    found[process.pid] = str(process.info["name"])
            except OSError:
                continue
        return found

    def _namespaces(self, name: str) -> list[Path]:
        words = (self.folder / "tag").read_text().split()
        return [Path("/run/netns", f"{word}-{name}") for word in words]

    def kill_node(self, name: str) -> None:
        """Kill all processes of a host, as a power cut would."""
        for pid in self.pids(name):
            os.kill(pid, signal.SIGKILL)

    def start_node(self, name: str) -> None:
        """Start a host's daemon again."""
        answer = self._call("execd", name.removeprefix("sge"))
        assert answer.returncode == 0, answer.stderr

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Stop the master: it takes connections, and answers nobody."""
        masters = [pid for pid, what in self.pids("sge1").items() if what == "sge_qmaster"]
        for pid in masters:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in masters:
                os.kill(pid, signal.SIGCONT)


class NamespaceRunner(LocalRunner):
    """Runs commands on the first host of a Grid Engine cluster."""

    def __init__(self, script: Path, folder: Path) -> None:
        super().__init__()
        self._prefix = ("bash", str(script), "run", str(folder))

    def run(self, argv: Sequence[str], timeout_s: float, stdin: str | None = None) -> Answer:
        """See :meth:`Runner.run`."""
        return super().run((*self._prefix, *argv), timeout_s, stdin)
