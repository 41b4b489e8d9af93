# SPDX-License-Identifier: BSD-3-Clause
"""Files in zip archives: ``zip:/folder/a.zip/inside/name``."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ssdag.apps.staging import places
from ssdag.apps.staging.base import RemoteStaging
from ssdag.errors import ConfigError, MissingDataError, StagingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.apps.files import File


class ZipStaging(RemoteStaging):
    """Members of archives on a file system that the task sees.

    The archive is the first part of the path that ends in ``.zip``. A new member goes into
    a copy of the archive, which then takes its place: readers see the old one or the new
    one. Several writers wait for one another.
    """

    schemes: tuple[str, ...] = ("zip",)

    def version(self, file: File) -> str:
        """See :meth:`RemoteStaging.version`."""
        archive, inside = _split(file)
        try:
            status = os.stat(archive)
        except (FileNotFoundError, NotADirectoryError):
            raise MissingDataError(f"there is no archive {archive!r}") from None
        with _opened(archive) as members:
            info = _info(members, archive, inside)
        return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {info.CRC}"

    def fetch(self, file: File, target: str) -> None:
        """See :meth:`RemoteStaging.fetch`; the member's checksum is verified."""
        archive, inside = _split(file)
        with _opened(archive) as members:
            info = _info(members, archive, inside)
            with members.open(info) as source, open(target, "xb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
                if out.tell() != info.file_size:
                    raise StagingError(f"the archive {archive!r} is damaged: {inside!r} is short")

    def store(self, source: str, file: File) -> None:
        """See :meth:`RemoteStaging.store`."""
        archive, inside = _split(file)
        parent, name = os.path.split(archive)
        os.makedirs(parent, exist_ok=True)
        with places.locked(os.path.join(parent, f".{name}.lock")):
            aside = tempfile.mkdtemp(prefix=".staging-", dir=parent)
            try:
                made = os.path.join(aside, name)
                if os.path.exists(archive):
                    _without(archive, inside, made)
                with zipfile.ZipFile(made, "a", zipfile.ZIP_DEFLATED) as members:
                    members.write(source, inside)
                os.replace(made, archive)
            finally:
                shutil.rmtree(aside, ignore_errors=True)


def _split(file: File) -> tuple[str, str]:
    """Return the path of the archive and the name in it."""
    parts = file.path.split("/")
    for index, part in enumerate(parts):
        if part.lower().endswith(".zip") and len(part) > 4:
            inside = parts[index + 1 :]
            if not inside or any(p in ("", ".", "..") or "\\" in p or "\0" in p for p in inside):
                break
            return os.path.abspath("/".join(parts[: index + 1])), "/".join(inside)
    raise ConfigError(
        f"{file.url!r} names no member of an archive: write zip:/folder/a.zip/inside/name"
    )


@contextmanager
def _opened(archive: str) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as members:
            yield members
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise StagingError(f"the archive {archive!r} is damaged: {error}") from error
    except (NotImplementedError, RuntimeError) as error:  # a password, an unknown compression
        raise StagingError(f"the archive {archive!r} cannot be read: {error}") from error


def _info(members: zipfile.ZipFile, archive: str, inside: str) -> zipfile.ZipInfo:
    try:
        info = members.getinfo(inside)
    except KeyError:
        raise MissingDataError(f"there is no {inside!r} in the archive {archive!r}") from None
    if stat.S_ISLNK(info.external_attr >> 16):
        raise StagingError(f"{inside!r} in the archive {archive!r} is a link, which may lead out")
    return info


def _without(archive: str, inside: str, target: str) -> None:
    """Copy an archive, but for one member."""
    with _opened(archive) as members:
        if inside not in members.namelist():
            shutil.copyfile(archive, target)
            return
        with zipfile.ZipFile(target, "w") as made:
            made.comment = members.comment
            for info in members.infolist():
                if info.filename == inside:
                    continue
                with members.open(info) as source, made.open(info, "w") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
