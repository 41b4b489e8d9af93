# SPDX-License-Identifier: BSD-3-Clause
"""A real OpenSSH server on a loopback port, with keys of its own: another machine, for tests."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.clusters.cluster import free_ports
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class LoopbackSshd:
    """A host that ssh reaches as :attr:`host` with :attr:`options`.

    Parameters
    ----------
    env : mapping of str to str, optional
        The environment of what runs there, beside what sshd sets itself.
    address : str
        Where it listens.
    enter : sequence of str
        What stands in front of its command, to start it where that address is.
    settings : sequence of str
        Further lines of its configuration.
    """

    def __init__(
        self,
        env: Mapping[str, str] | None = None,
        *,
        address: str = "127.0.0.1",
        enter: Sequence[str] = (),
        settings: Sequence[str] = (),
    ) -> None:
        needed = [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None]
        if _SSHD is None or needed:
            pytest.skip(f"no {(needed or ['sshd'])[0]}: apt-get install openssh-server")
        self.folder = Path(tempfile.mkdtemp(prefix="ssdag-sshd-"))
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.port = free_ports(1)
        self.address = address
        self._enter = list(enter)
        self.host = f"{self.user}@{address}"
        for name in ("host_key", "key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)],
                check=True,
            )
        shutil.copy(self.folder / "key.pub", self.folder / "authorized_keys")
        key = (self.folder / "host_key.pub").read_text().split()
        known = self.folder / "known_hosts"
        known.write_text(f"[{address}]:{self.port} {key[0]} {key[1]}\n")
        self.options = (
            "-F", "none", "-p", str(self.port), "-i", str(self.folder / "key"),
            "-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={known}",
            "-o", "StrictHostKeyChecking=yes",
        )  # fmt: skip
        home = self.folder / "home"  # an empty one: the user's own start-up files are not ours
        home.mkdir()
        variables = " ".join(
            f'"{name}={value}"' for name, value in {"HOME": str(home), **(env or {})}.items()
        )
        config = [
            f"Port {self.port}", f"ListenAddress {address}", f"HostKey {self.folder / 'host_key'}",
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}", "StrictModes no",
            "UsePAM no", "PasswordAuthentication no", "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password", "PidFile none", "PrintMotd no", "UseDNS no",
            f"Subsystem sftp {_sftp_server()}", "MaxStartups 100",
            f"SetEnv {variables}", *settings,
        ]  # fmt: skip
        (self.folder / "config").write_text("\n".join(config) + "\n")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._server: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Let it answer (again)."""
        log = (self.folder / "log").open("ab")
        with log:
            self._server = subprocess.Popen(
                [*self._enter, str(_SSHD), "-D", "-e", "-f", str(self.folder / "config")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        server = self._server

        def listens() -> bool:
            if server.poll() is not None:
                pytest.skip(f"sshd does not start: {(self.folder / 'log').read_text()[-300:]}")
            return self.answers()

        wait_until(listens, 20, "sshd listens")

    def answers(self) -> bool:
        """Say whether it takes connections."""
        with socket.socket() as one:
            return one.connect_ex((self.address, self.port)) == 0

    def connections(self) -> list[psutil.Process]:
        """Return the processes that serve connections."""
        if self._server is None:
            return []
        try:
            return psutil.Process(self._server.pid).children()
        except psutil.NoSuchProcess:
            return []

    def cut(self) -> None:
        """Cut all connections, as a network that fails does; what runs there runs on."""
        for process in self.connections():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue

    def stop(self) -> None:
        """Cut all connections and take no new ones."""
        if self._server is None:
            return
        connections = self.connections()
        self._server.kill()
        self._server.wait()
        self._server = None
        for process in connections:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue

    def close(self) -> None:
        """Stop it and remove its files."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def _sftp_server() -> str:
    for path in ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server"):
        if os.path.exists(path):
            return path
    return "internal-sftp"
