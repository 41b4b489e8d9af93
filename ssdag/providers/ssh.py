# SPDX-License-Identifier: BSD-3-Clause
"""A scheduler on another machine: its commands run there by OpenSSH's ``ssh``.

One connection is opened and shared by all commands; it is ours, and ends with the driver.
Whom to trust, which keys to use and how to get there are the user's affair, in
``~/.ssh/config`` and ``ssh_options``; a password is never asked for.

A host that cannot be reached is told apart from a command that fails: ssh's exit code 255
may be either, so each command's end is sent along with its output.
"""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
import secrets
import socket
import threading
import time
from dataclasses import replace
from enum import Enum, auto
from typing import TYPE_CHECKING

from ssdag.errors import ConfigError, ProviderError
from ssdag.providers import ssh_texts as texts
from ssdag.providers.commands import Answer, LocalRunner, Runner
from ssdag.providers.ssh_connection import Connection, NotReachedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.providers.ssh_tunnel import Tunnel

_log = logging.getLogger("ssdag")

#: sshd takes ten at a time over one connection, unless it was told otherwise.
_MOST_SESSIONS = 8
#: The remote end of a command may outlive ours by so long.
_REMOTE_SLACK_S = 10.0
_LARGEST_FILE_BYTES = 1 << 20


class _State(Enum):
    """What became of a command that was to be run."""

    NOT_SENT = auto()
    LOST = auto()  # with the connection, before its end was told
    LATE = auto()
    ENDED = auto()


class SshRunner(Runner):
    """Runs commands on a host that ssh reaches. Threads may share one.

    Parameters
    ----------
    host : str
        ``HOST``, ``USER@HOST``, or an alias of ``~/.ssh/config``.
    folder : str
        A folder there, as an absolute path, that its compute nodes see too: what belongs
        to jobs is kept in it. It is made if it does not exist.
    options : sequence of str
        Options of ssh, such as ``["-p", "2222", "-i", "key"]``.
    login : bool
        Commands get the environment of a login: where the scheduler's commands are on PATH
        only then.
    connect_timeout_s : float
        So long a connection may take to come up.
    patience_s : float
        So long the end of a submission is asked for whose connection was lost.

    Raises
    ------
    ConfigError
        One of them cannot be what it has to be.
    """

    def __init__(
        self,
        host: str,
        folder: str,
        *,
        options: Sequence[str] = (),
        login: bool = False,
        connect_timeout_s: float = 20.0,
        patience_s: float = 120.0,
    ) -> None:
        if not isinstance(folder, str) or not folder.startswith("/") or "\n" in folder:
            raise ConfigError(
                f"ssh_folder={folder!r}: an absolute path on {host} is needed, of a folder that "
                "its compute nodes see too"
            )
        self.host = texts.check_host(host)
        self.folder = posixpath.normpath(folder)
        self._login = login
        self._connection = Connection(host, texts.check_options(options), connect_timeout_s)
        self._local = LocalRunner()
        self._slots = threading.BoundedSemaphore(_MOST_SESSIONS)
        self._patience_s = patience_s
        self._unknown: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"SshRunner({self.host!r}, {self.folder!r})"

    def close(self) -> None:
        """See :meth:`Runner.close`."""
        self._connection.close()

    def tunnel(self, python: str) -> Tunnel:
        """See :meth:`Runner.tunnel`."""
        from ssdag.providers.ssh_tunnel import Tunnel

        return Tunnel(self._connection, python)

    def run(self, argv: Sequence[str], timeout_s: float, stdin: str | None = None) -> Answer:
        """See :meth:`Runner.run`; a host that is not reached gives no exit code either."""
        return self._run(tuple(argv), timeout_s, stdin)[0]

    def _run(
        self, argv: tuple[str, ...], timeout_s: float, stdin: str | None = None
    ) -> tuple[Answer, _State]:
        shown = ("ssh", self.host, *argv)
        with self._slots:
            if reason := self._connection.open():
                told = f"{self.host} is not reached: {reason}"
                return Answer(shown, None, stderr=told), _State.NOT_SENT
            mark = f"ssdag-{secrets.token_hex(8)}"
            line = texts.remote_line(argv, mark, timeout_s + _REMOTE_SLACK_S, login=self._login)
            answer = self._local.run(self._connection.command(line), timeout_s, stdin)
        found = texts.between(answer.stdout, mark)
        if found is not None:
            return Answer(shown, found[1], found[0], answer.stderr), _State.ENDED
        if answer.exit_code is None:
            return Answer(shown, None, stderr=answer.stderr), _State.LATE
        told = answer.stderr.strip() or f"ssh ended with exit code {answer.exit_code}"
        told = f"the connection to {self.host} was lost: {told}"
        return Answer(shown, None, stderr=told), _State.LOST

    def once(self, argv: Sequence[str], timeout_s: float, beside: str) -> Answer:
        """See :meth:`Runner.once`.

        The command is run by a remote shell that notes beside its files that it has begun,
        and how it ended. If the connection is lost, the notes are asked for: a command
        that had begun is not begun again, and its answer is not lost.
        """
        notes = self._unknown.setdefault(beside, f"{beside}.{secrets.token_hex(4)}.notes")
        shell = ("/bin/sh", "-c", texts.ONCE, "ssdag", notes, str(max(1, round(timeout_s))))
        shown = ("ssh", self.host, *argv)
        deadline = time.monotonic() + timeout_s + self._patience_s
        pause_s = 0.2
        sent_before = False
        while True:
            answer, state = self._run((*shell, *argv), timeout_s)
            sent_before = sent_before or state is not _State.NOT_SENT
            if not sent_before:
                del self._unknown[beside]
                raise NotReachedError(f"{answer.stderr}; nothing was submitted", command=shown)
            if state is _State.ENDED and texts.UNANSWERED not in answer.stderr:
                del self._unknown[beside]
                self._run(("rm", "-rf", "--", notes), timeout_s)
                return replace(answer, argv=shown)
            # Only a connection that was lost is worth another one: if nobody answers over
            # one that holds, the scheduler is silent, and its caller will ask again.
            if state in (_State.LATE, _State.ENDED) or time.monotonic() > deadline:
                said = f"{answer.words}; notes of it are in {self.host}:{notes}"
                return Answer(shown, None, stderr=said)
            _log.warning("%s; asking whether it was done", answer.stderr)
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 5.0)

    def write(self, path: str, text: str, timeout_s: float) -> None:
        """See :meth:`Runner.write`; folders on the way are made."""
        size = len(text.encode("utf-8", "surrogateescape"))
        argv = ("/bin/sh", "-c", texts.WRITE, "ssdag", path, str(size))
        answer, _ = self._run(argv, timeout_s, text)
        if answer.exit_code != 0:
            raise (ProviderError if answer.exit_code else NotReachedError)(
                f"cannot write {self.host}:{path}: {answer.words}",
                exit_code=answer.exit_code,
                stderr_tail=answer.stderr[-2000:],
            )

    def read(self, path: str, timeout_s: float) -> str | None:
        """See :meth:`Runner.read`.

        Raises
        ------
        NotReachedError
            It is not known whether there is such a file.
        """
        answer = self.run(["head", "-c", str(_LARGEST_FILE_BYTES), "--", path], timeout_s)
        if answer.exit_code is None:
            raise NotReachedError(f"cannot read {self.host}:{path}: {answer.words}")
        return answer.stdout if answer.exit_code == 0 else None

    def folder_of(self, folder: str | os.PathLike[str]) -> str:
        """See :meth:`Runner.folder_of`: one of our folder there, called after the local one."""
        path = os.path.abspath(folder)
        if path == self.folder or path.startswith(f"{self.folder}/"):
            return path  # it was meant so
        name = f"{socket.gethostname()}:{path}"
        tag = hashlib.blake2b(os.fsencode(name), digest_size=4).hexdigest()
        return posixpath.join(self.folder, f"{os.path.basename(path) or 'jobs'}-{tag}")


def runner_of(
    provider: str,
    ssh: str | None,
    options: Sequence[str],
    folder: str | None,
    login: bool,
) -> SshRunner | None:
    """Return the runner that a provider's ssh options ask for; None if they don't.

    Raises
    ------
    ConfigError
        They do not fit together.
    """
    if ssh is None:
        if options or folder is not None or login:
            raise ConfigError(f"{provider}: options of ssh are given, but no host: add ssh=")
        return None
    if folder is None:
        raise ConfigError(
            f"{provider}: ssh_folder= is needed beside ssh={ssh!r}: a folder there, as an "
            "absolute path, that its compute nodes see too"
        )
    return SshRunner(ssh, folder, options=options, login=login)
