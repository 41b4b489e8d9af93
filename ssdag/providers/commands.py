# SPDX-License-Identifier: BSD-3-Clause
"""How a provider reaches its scheduler: by commands, with a time limit, never a shell.

A :class:`Runner` is where the commands run. :class:`LocalRunner` is this machine;
another one may put ``ssh host`` in front. Files of jobs are written and read through the
runner too, so that they are where the scheduler is.
"""

from __future__ import annotations

import os
import shlex
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssdag.errors import ProviderError
from ssdag.wire.process import spawn

if TYPE_CHECKING:
    import re
    from collections.abc import Sequence

    from ssdag.providers.ssh_tunnel import Tunnel

#: No answer of a scheduler that we read is longer; one that is cannot be trusted.
LONGEST_ANSWER_BYTES = 256 << 20


@dataclass(frozen=True)
class Answer:
    """How a command ended.

    Parameters
    ----------
    argv : tuple of str
        The command.
    exit_code : int or None
        Its exit code, negative for minus a signal's number; None if it did not end in
        time, or could not be started.
    stdout, stderr : str
        What it wrote; bytes that are no UTF-8 are replaced.
    """

    argv: tuple[str, ...]
    exit_code: int | None
    stdout: str = ""
    stderr: str = ""

    @property
    def words(self) -> str:
        """The last words of the command: of stderr, or else of stdout; at most 2000 letters."""
        return (self.stderr.strip() or self.stdout.strip())[-2000:]

    @property
    def summary(self) -> str:
        """One line that tells what was asked and how it ended."""
        how = "did not end" if self.exit_code is None else f"ended with exit code {self.exit_code}"
        said = f": {self.words}" if self.words else ""
        return f"{shlex.join(self.argv)[:500]} {how}{said}"


class Runner(ABC):
    """Runs commands where the scheduler is. Threads may share one."""

    @abstractmethod
    def run(self, argv: Sequence[str], timeout_s: float, stdin: str | None = None) -> Answer:
        """Run a command to its end, without a shell; blocks for at most `timeout_s`.

        Never raises for what the command does: one that does not exist or does not end in
        time (it is killed) has no exit code, and the reason in ``stderr``.
        """

    def once(self, argv: Sequence[str], timeout_s: float, beside: str) -> Answer:
        """Run a command that must not be run twice, as :meth:`run` does.

        Parameters
        ----------
        argv : sequence of str
            The command.
        timeout_s : float
            Longest time that it may take.
        beside : str
            Begins the paths of notes that are kept meanwhile. Another call with the same
            path, after one whose end is not known, does not run the command again: it
            finds its answer.

        Raises
        ------
        ProviderError
            It was not run, and it is certain that it was not.
        """
        return self.run(argv, timeout_s)

    def folder_of(self, folder: str | os.PathLike[str]) -> str:
        """Return the path, where commands run, of what a user calls `folder`; pure."""
        return os.path.abspath(folder)

    def place(self, source: str, folder: str, timeout_s: float) -> None:
        """See that a small text file of this machine lies in a folder where commands run.

        Raises
        ------
        OSError
            It cannot be read here.
        ProviderError
            It cannot be written there.
        """
        with open(source, encoding="utf-8", errors="surrogateescape") as file:
            self.write(f"{folder}/{os.path.basename(source)}", file.read(), timeout_s)

    def tail(self, path: str, size: int, timeout_s: float) -> str:
        """Return the last bytes of a file as text; empty if there is none, or it is not reached."""
        answer = self.run(["tail", "-c", str(size), "--", path], timeout_s)
        return answer.stdout if answer.exit_code == 0 else ""

    def close(self) -> None:
        """Give back connections; those that are needed again are made again."""
        return

    def tunnel(self, python: str) -> Tunnel | None:
        """Return a way for nodes over there to a port of this machine; None if there is none.

        Parameters
        ----------
        python : str
            An interpreter over there, 3.7 or later.
        """
        return None

    def write(self, path: str, text: str, timeout_s: float) -> None:
        """Write a file that only its owner can read and execute, whole or not at all.

        Raises
        ------
        ProviderError
            It could not be written.
        """
        shell = 'umask 077 && cat >"$1.part" && chmod 700 "$1.part" && mv -f "$1.part" "$1"'
        answer = self.run(["sh", "-c", shell, "sh", path], timeout_s, stdin=text)
        if answer.exit_code != 0:
            raise ProviderError(
                f"cannot write {path}: {answer.words}",
                command=answer.argv,
                exit_code=answer.exit_code,
                stderr_tail=answer.stderr[-2000:],
            )

    def read(self, path: str, timeout_s: float) -> str | None:
        """Return the text of a small file; None if it is not there or cannot be read."""
        answer = self.run(["cat", "--", path], timeout_s)
        return answer.stdout if answer.exit_code == 0 else None


class LocalRunner(Runner):
    """Runs commands on this machine, each in its own session.

    Parameters
    ----------
    without : pattern, optional
        Variables of our environment whose names begin so are not passed on: inside an
        allocation those of the job that we are in would change the one that we submit.
    """

    def __init__(self, without: re.Pattern[str] | None = None) -> None:
        self._without = without

    def _env(self) -> dict[str, str] | None:
        if self._without is None:
            return None
        drop = self._without.match
        return {name: value for name, value in os.environ.items() if not drop(name)}

    def run(self, argv: Sequence[str], timeout_s: float, stdin: str | None = None) -> Answer:
        """See :meth:`Runner.run`."""
        argv = tuple(argv)
        # Memory files instead of pipes: nothing can block, and a daemon that the command
        # leaves behind cannot keep us waiting for the end of its output.
        fds = [os.memfd_create(f"ssdag-{name}") for name in ("stdout", "stderr")]
        try:
            if stdin is not None:
                fds.append(os.memfd_create("ssdag-stdin"))
                _fill(fds[2], stdin.encode("utf-8", "surrogateescape"))
            try:
                process = spawn(
                    argv,
                    env=self._env(),
                    stdout=fds[0],
                    stderr=fds[1],
                    stdin=fds[2] if stdin is not None else None,
                )
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                return Answer(argv, None, stderr=f"{argv[0]}: {reason}")
            try:
                code: int | None = process.wait(timeout_s)
                late = ""
            except TimeoutError:
                code, late = None, f"no answer within {timeout_s:g} s"
            finally:
                process.kill_session()
            error_text = "\n".join(part for part in (_text(fds[1]), late) if part)
            return Answer(argv, code, _text(fds[0]), error_text)
        finally:
            for fd in fds:
                os.close(fd)

    def write(self, path: str, text: str, timeout_s: float) -> None:
        """See :meth:`Runner.write`."""
        part = f"{path}.part"
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o700)
            try:
                os.fchmod(fd, 0o700)
                _fill(fd, text.encode("utf-8", "surrogateescape"))
            finally:
                os.close(fd)
            os.replace(part, path)
        except OSError as error:
            raise ProviderError(f"cannot write {path}: {error.strerror}") from error

    def place(self, source: str, folder: str, timeout_s: float) -> None:
        """See :meth:`Runner.place`."""
        if os.path.abspath(source) != os.path.join(folder, os.path.basename(source)):
            super().place(source, folder, timeout_s)

    def read(self, path: str, timeout_s: float) -> str | None:
        """See :meth:`Runner.read`."""
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read(1 << 20)
        except OSError:
            return None


def _fill(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
    if os.lseek(fd, 0, os.SEEK_CUR):
        os.lseek(fd, 0, os.SEEK_SET)


def _text(fd: int) -> str:
    size = os.fstat(fd).st_size
    if size > LONGEST_ANSWER_BYTES:
        return ""
    parts = []
    offset = 0
    while offset < size and (part := os.pread(fd, size - offset, offset)):
        parts.append(part)
        offset += len(part)
    return b"".join(parts).decode("utf-8", "replace")
