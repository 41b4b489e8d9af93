# SPDX-License-Identifier: BSD-3-Clause
"""Files of this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING

from ssdag.errors import MissingDataError, MissingOutputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.apps.files import File


class LocalStaging:
    """Files of this machine, or of a file system that all machines share.

    Parameters
    ----------
    copy : bool
        Copy an input into the working folder; by default it is linked (symbolically).
    """

    schemes: tuple[str, ...] = ("file",)

    def __init__(self, copy: bool = False) -> None:
        self.copy = copy

    def can_stage_in(self, file: File) -> bool:
        """Return True for plain paths and ``file:`` URLs."""
        return file.scheme == "file"

    def can_stage_out(self, file: File) -> bool:
        """Return True for plain paths and ``file:`` URLs."""
        return file.scheme == "file"

    def stage_in(self, file: File, folder: str | None) -> File:
        """See :meth:`Staging.stage_in`."""
        source = os.path.abspath(file.path)
        if not os.path.exists(source):
            what = "is a broken link" if os.path.islink(source) else "does not exist"
            raise MissingDataError(
                f"the input file {file.path!r} {what} (looked for {source!r}): if a task "
                "writes it, pass that task's output future instead of a File"
            )
        if folder is None:
            return file
        target = os.path.join(os.path.abspath(folder), os.path.basename(source))
        if os.path.exists(target) and os.path.samefile(source, target):
            return file.at(target)  # staged before, or it lies in this folder
        if self.copy:
            _copy(source, target)
        else:
            _replace(target, lambda aside: os.symlink(source, aside))
        return file.at(target)

    def stage_out(self, file: File, folder: str | None) -> None:
        """See :meth:`Staging.stage_out`."""
        target = os.path.abspath(file.path)
        source = target if folder is None else os.path.join(folder, file.filename)
        if not os.path.exists(source):
            raise MissingOutputError(
                f"the task ended well but did not write its output {source!r}",
                missing=(file.path,),
            )
        if not (os.path.exists(target) and os.path.samefile(source, target)):
            _copy(source, target)


def _replace(target: str, make: Callable[[str], object]) -> None:
    """Make something beside `target` and move it there in one step."""
    parent = os.path.dirname(target)
    os.makedirs(parent, exist_ok=True)
    aside = tempfile.mkdtemp(prefix=".staging-", dir=parent)
    try:
        inner = os.path.join(aside, os.path.basename(target))
        make(inner)
        if os.path.isdir(target) and not os.path.islink(target):
            # No system call replaces a full folder: the old one is moved away first.
            os.rename(target, os.path.join(aside, ".old"))
        os.replace(inner, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _copy(source: str, target: str) -> None:
    if os.path.isdir(source):
        _replace(target, lambda aside: shutil.copytree(source, aside, symlinks=True))
    else:
        _replace(target, lambda aside: shutil.copy2(source, aside))
