# SPDX-License-Identifier: BSD-3-Clause
"""Files of machines that ssh reaches: ``ssh://user@host/path``, by rsync where it is there."""

from __future__ import annotations

import logging
import os
import posixpath
import re
import secrets
import shlex
import shutil
import subprocess
from typing import IO, TYPE_CHECKING

from ssdag.apps.staging.base import RemoteStaging, transient
from ssdag.errors import ConfigError, MissingDataError, StagingError
from ssdag.providers.commands import LocalRunner
from ssdag.providers.ssh_connection import Connection
from ssdag.providers.ssh_texts import between, check_host, check_options, join, remote_line
from ssdag.wire.process import spawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.apps.files import File

_log = logging.getLogger("ssdag")

_SHORT_S = 60.0
_ABSENT, _FOLDER = 44, 45
_STAT = (
    f'[ -e "$1" ] || exit {_ABSENT}; [ ! -d "$1" ] || exit {_FOLDER}; '
    'stat -L -c "%s %y %i" -- "$1" 2>/dev/null || :'
)
# $1 the path, $2 one beside it, $3 the size.
_STORE = (
    'cat >"$2" && [ "$(($(wc -c <"$2")))" -eq "$3" ] && mv -f -- "$2" "$1" || '
    '{ c=$?; rm -f -- "$2"; exit $c; }'
)
_MAKE_PARENT = 'case $1 in */*) mkdir -p -- "${1%/*}/" ;; esac'
#: What rsync takes for more than a name.
_PATTERN = re.compile(r"[*?\[\]\\:]")
_NO_RSYNC = re.compile(r"rsync[^\n]*(not found|No such file)|unknown option", re.IGNORECASE)
#: rsync's exit codes that speak of the connection.
_LOST = (10, 12, 30, 35, 255)


class SshStaging(RemoteStaging):
    """Files that ``ssh:`` and ``rsync:`` URLs name; both mean the same.

    ``ssh://user@host:port/path`` is an absolute path there, ``ssh://host/~/path`` one in
    the user's home. It works where ``ssh host`` does without a question; set up keys and
    ``~/.ssh/config`` on the nodes where tasks run.

    Parameters
    ----------
    options : sequence of str
        Options of the ``ssh`` command, such as ``["-i", "key"]``.
    rsync : bool
        False: never use it.
    """

    schemes: tuple[str, ...] = ("ssh", "rsync")

    def __init__(self, options: Sequence[str] = (), *, rsync: bool = True) -> None:
        self.options = check_options(options)
        self.rsync = rsync

    def version(self, file: File) -> str:
        """See :meth:`RemoteStaging.version`."""
        connection, path = self._to(file)
        return self._run(connection, file, _STAT, path).strip()

    def fetch(self, file: File, target: str) -> None:
        """See :meth:`RemoteStaging.fetch`."""
        connection, path = self._to(file)
        if self._rsync(connection, path, f"{connection.host}:{path}", target):
            return
        with open(target, "wb") as out:
            self._stream(connection, ["cat", "--", path], into=out)

    def store(self, source: str, file: File) -> None:
        """See :meth:`RemoteStaging.store`."""
        connection, path = self._to(file)
        self._run(connection, file, _MAKE_PARENT, path)
        if self._rsync(connection, path, source, f"{connection.host}:{path}"):
            return
        name = f".{posixpath.basename(path)[:200]}.{secrets.token_hex(4)}"
        aside = posixpath.join(posixpath.dirname(path), name)
        with open(source, "rb") as data:
            size = str(os.fstat(data.fileno()).st_size)
            argv = ["/bin/sh", "-c", _STORE, "ssdag", path, aside, size]
            self._stream(connection, argv, stdin=data.fileno())

    def _to(self, file: File) -> tuple[Connection, str]:
        host, _, port = file.netloc.rpartition(":")
        if not host or not port.isdigit():
            host, port = file.netloc, ""
        if ":" in host.partition("@")[0] and "@" in host:
            raise ConfigError("a password in an ssh: URL would be seen by others; use keys")
        options = (*self.options, "-p", port) if port else self.options
        path = file.path[3:] if file.path.startswith("/~/") else file.path
        if path.startswith("-"):
            path = f"./{path}"
        return Connection(check_host(host), options, 20.0), path

    def _run(self, connection: Connection, file: File, shell: str, path: str) -> str:
        mark = f"ssdag-{secrets.token_hex(8)}"
        argv = ["/bin/sh", "-c", shell, "ssdag", path]
        line = remote_line(argv, mark, _SHORT_S, login=False)
        answer = LocalRunner().run(connection.command(line), _SHORT_S)
        found = between(answer.stdout, mark)
        if found is None:
            raise transient(f"{connection.host} is not reached: {answer.words}")
        output, code = found
        if code == _ABSENT:
            raise MissingDataError(f"there is no file {path!r} on {connection.host}")
        if code == _FOLDER:
            raise StagingError(f"{path!r} on {connection.host} is a folder")
        if code:
            raise StagingError(f"{connection.host}: {answer.words or f'exit code {code}'}")
        return output

    def _stream(
        self,
        connection: Connection,
        argv: list[str],
        *,
        stdin: int | None = None,
        into: IO[bytes] | None = None,
    ) -> None:
        """Run a command there, with a file of ours as its input or output."""
        code, words = _ended(connection.command(f"exec {join(argv)}"), stdin, into)
        if code == 0:
            return
        if code == 255:
            raise transient(f"the connection to {connection.host} was lost: {words}")
        raise StagingError(f"{connection.host}: {words or f'exit code {code}'}")

    def _rsync(self, connection: Connection, path: str, source: str, target: str) -> bool:
        """Copy by rsync; returns False where ssh alone has to: the name is not for rsync, say."""
        if not self.rsync or _PATTERN.search(path) or shutil.which("rsync") is None:
            return False
        # Its last argument is what rsync calls the host.
        shell = shlex.join(connection.command("")[:-2])
        argv = ["rsync", "-s", "-L", "-t", "--timeout=60", "-e", shell, "--", source, target]
        code, words = _ended(argv)
        if code == 0:
            return True
        if _NO_RSYNC.search(words):
            _log.debug("no rsync on %s: %s", connection.host, words)
            return False
        if code in _LOST:
            raise transient(f"the connection to {connection.host} was lost: {words}")
        if words:
            raise StagingError(words)
        # The far rsync's words are lost at times when its disk is full; ssh alone will say.
        _log.debug("rsync to or from %s ended with %d without a word", connection.host, code)
        return False


def _ended(
    argv: list[str], stdin: int | None = None, into: IO[bytes] | None = None
) -> tuple[int, str]:
    """Run a command of ours to its end; returns its exit code and last words.

    We write its output ourselves: ssh may end with the command's exit code 0 although it
    could not write all of it, where a full disk raises OSError here.
    """
    errors = os.memfd_create("ssdag-staging")
    try:
        process = spawn(argv, stdin=stdin, stdout=errors if into is None else subprocess.PIPE,
                        stderr=errors, own_session=False)  # fmt: skip
        try:
            if process.stdout is not None and into is not None:
                with process.stdout as output:
                    shutil.copyfileobj(output, into, 1 << 20)
                into.flush()
            code = process.wait()
        finally:
            process.kill_session()
        size = os.fstat(errors).st_size
        return code, os.pread(errors, 2000, max(0, size - 2000)).decode(errors="replace").strip()
    finally:
        os.close(errors)
