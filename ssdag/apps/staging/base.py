# SPDX-License-Identifier: BSD-3-Clause
"""What a staging promises, and what all that fetch files from elsewhere share."""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol, TypeVar

from ssdag.apps.staging import places
from ssdag.errors import ConfigError, MissingOutputError, StagingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.apps.files import File

_T = TypeVar("_T")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LONGEST_PAUSE_S = 8.0


class Staging(Protocol):
    """Moves files of one kind; called in the process where the task runs.

    Both moves must be atomic (a reader never sees half a file) and may be repeated:
    a retry of the task stages again. A staging travels to workers by pickle.

    To fetch files from elsewhere, subclass :class:`RemoteStaging`, which leaves less to do.
    """

    #: URL schemes that it serves, for error messages.
    schemes: tuple[str, ...]

    def can_stage_in(self, file: File) -> bool:
        """Return True if it can bring this file; looks at the URL only, does no I/O."""

    def can_stage_out(self, file: File) -> bool:
        """Return True if it can put this file where its URL says."""

    def stage_in(self, file: File, folder: str | None) -> File:
        """Bring `file` to this machine; blocks.

        Parameters
        ----------
        file : File
            What the task takes.
        folder : str or None
            Where it has to appear under its own name; None: anywhere readable.

        Returns
        -------
        File
            The same file, with a local path if it is not the file itself.

        Raises
        ------
        MissingDataError
            There is no such file.
        StagingError
            It cannot be brought.
        """

    def stage_out(self, file: File, folder: str | None) -> None:
        """Put an output where its URL says; blocks.

        Parameters
        ----------
        file : File
            The declared output.
        folder : str or None
            Where the task wrote it under its own name; None: it wrote it in place, which
            for a remote file is its local path.

        Raises
        ------
        MissingOutputError
            The task did not write it.
        StagingError
            It cannot be put there.
        """


class RemoteStaging(ABC):
    """A staging for files that lie elsewhere; a kind is what this leaves open.

    A subclass says which files it serves (``schemes``), what changes when a file does
    (:meth:`version`) and how one file is read (:meth:`fetch`) and written (:meth:`store`).
    The rest is here: a file is fetched once for all tasks of a node that take it, into a
    folder of its own, and appears there in one step; what fails for a moment is tried
    again; a full disk is told.

    Attributes
    ----------
    attempts : int
        How often a move is tried that fails with a transient error.
    first_pause_s : float
        Seconds before the second attempt; each further pause doubles.
    """

    schemes: tuple[str, ...] = ()
    attempts: int = 4
    first_pause_s: float = 0.5

    def can_stage_in(self, file: File) -> bool:
        """See :meth:`Staging.can_stage_in`."""
        return file.scheme in self.schemes

    def can_stage_out(self, file: File) -> bool:
        """See :meth:`Staging.can_stage_out`."""
        return file.scheme in self.schemes

    @abstractmethod
    def version(self, file: File) -> str:
        """Return a text that changes when the content does; empty if nothing tells.

        Asked before each use of a copy that lies here already, so that an old one is never
        taken for a new one.

        Raises
        ------
        MissingDataError
            There is no such file.
        StagingError
            It cannot be asked; ``transient`` if another attempt may help.
        """

    @abstractmethod
    def fetch(self, file: File, target: str) -> None:
        """Read `file` into the new file `target`; blocks.

        Nobody else sees the target before this returns, and it is removed if this raises.
        A connection that ends early must raise: half a file is none.

        Parameters
        ----------
        file : File
            What to read.
        target : str
            Where to write it: a path in a private folder.

        Raises
        ------
        MissingDataError
            There is no such file.
        StagingError
            It cannot be read; ``transient`` if another attempt may help.
        OSError
            The target cannot be written.
        """

    def store(self, source: str, file: File) -> None:
        """Write the file `source` of this machine to where `file` is; blocks.

        Guarantees for readers there: they see the whole new file or what was there before,
        also if this process dies. Called again with the same arguments after a failure.

        Raises
        ------
        StagingError
            It cannot be written; ``transient`` if another attempt may help.
        """
        raise StagingError(f"{shown(file)} cannot be written: this kind of file is only read")

    # -- what is the same for all ----------------------------------------------------

    def stage_in(self, file: File, folder: str | None) -> File:
        """See :meth:`Staging.stage_in`."""
        name = _name(file)
        what = f"{shown(file)} cannot be brought to {socket.gethostname()}"
        version = self._try(what, lambda: self.version(file))

        def fetch(target: str) -> None:
            def once() -> None:
                if os.path.lexists(target):
                    os.unlink(target)
                self.fetch(file, target)

            self._try(what, once)

        try:
            path = places.keep(f"{type(self).__name__} {file.url}", version, name, fetch)
            if folder is None:
                return file.at(path)
            return file.at(places.link(path, os.path.join(os.path.abspath(folder), name)))
        except OSError as error:
            raise _of_system(what, error) from error

    def stage_out(self, file: File, folder: str | None) -> None:
        """See :meth:`Staging.stage_out`."""
        name = _name(file)
        source = file.local_path if folder is None else os.path.join(folder, name)
        if source is None or not os.path.exists(source):
            raise MissingOutputError(
                f"the task ended well but did not write its output {shown(file)}"
                + (f" (as {source!r})" if source else ""),
                missing=(shown(file),),
            )
        what = f"{shown(file)} cannot be written"
        if not os.path.isfile(source):
            raise StagingError(f"{what}: {source!r} is no file; a folder can go as a zip file")
        self._try(what, lambda: self.store(source, file))

    def _try(self, what: str, move: Callable[[], _T]) -> _T:
        pause_s = self.first_pause_s
        for attempt in range(1, self.attempts + 1):
            try:
                return move()
            except StagingError as error:
                if not error.transient or attempt == self.attempts:
                    times = f" (tried {attempt} times)" if attempt > 1 else ""
                    told = StagingError(f"{what}: {error}{times}")
                    told.transient = error.transient
                    raise told from error
            except OSError as error:
                raise _of_system(what, error) from error
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        raise AssertionError


def transient(message: str) -> StagingError:
    """Return an error after which another attempt may help."""
    error = StagingError(message)
    error.transient = True
    return error


def shown(file: File) -> str:
    """Return a URL for messages: without a password, and without a query, which may be one."""
    url = re.sub(r"(//[^/@:]*):[^/@]*@", r"\1:***@", file.url)
    return re.sub(r"\?.*", "?...", url)


def _name(file: File) -> str:
    if file.filename in ("", ".", "..") or "\0" in file.filename:
        raise ConfigError(f"{shown(file)} does not end in the name of a file")
    return file.filename


def _of_system(what: str, error: OSError) -> StagingError:
    reason = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    if error.errno in _FULL:
        reason += f"; {places.VARIABLE} names another folder for staged files"
    return StagingError(f"{what}: {reason}")
