# SPDX-License-Identifier: BSD-3-Clause
"""From a file to the staging that moves it."""

from __future__ import annotations

import functools
import logging
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from ssdag.apps.staging.local import LocalStaging
from ssdag.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.apps.files import File
    from ssdag.apps.staging.base import Staging

_log = logging.getLogger("ssdag")

#: The entry-point group of other stagings: classes that are called without arguments.
GROUP = "ssdag.staging"

_LOCAL = LocalStaging()
_OURS = {
    "http": "ssdag.apps.staging.http:HttpStaging",
    "https": "ssdag.apps.staging.http:HttpStaging",
    "ssh": "ssdag.apps.staging.ssh:SshStaging",
    "rsync": "ssdag.apps.staging.ssh:SshStaging",
    "zip": "ssdag.apps.staging.archive:ZipStaging",
}


def find(file: File, *, out: bool = False, stagings: Sequence[Staging] = ()) -> Staging:
    """Return the first staging that can move `file`.

    Parameters
    ----------
    file : File
        What is to be moved.
    out : bool
        True for an output.
    stagings : sequence of Staging
        Tried first, in order: those of the configuration. Then come those of installed
        packages, then ours.

    Raises
    ------
    ConfigError
        None can; the text names the schemes that are known.
    """
    for staging in stagings:
        if _can(staging, file, out):
            return staging
    if file.scheme == "file":  # nearly all are, and need no look at what is installed
        return _LOCAL
    for staging in (*_installed(), *_ours(file.scheme)):
        if _can(staging, file, out):
            return staging
    served = {scheme for staging in (*stagings, *_installed()) for scheme in staging.schemes}
    known = ", ".join(sorted(served | {"file"} | set(_OURS)))
    verb = "write" if out else "read"
    known_scheme = file.scheme in served or file.scheme in _OURS
    why = f"can only be {'read' if out else 'written'}" if known_scheme else "is not known"
    raise ConfigError(
        f"no staging can {verb} {file!r}: the scheme {file.scheme!r} {why} (known: {known})"
    )


def _can(staging: Staging, file: File, out: bool) -> bool:
    return staging.can_stage_out(file) if out else staging.can_stage_in(file)


def _ours(scheme: str) -> list[Staging]:
    where = _OURS.get(scheme)
    return [] if where is None else [_made(where)]


@functools.cache
def _made(where: str) -> Staging:
    module, name = where.split(":")
    staging: Staging = getattr(import_module(module), name)()
    return staging


@functools.cache
def _installed() -> tuple[Staging, ...]:
    found = []
    for point in entry_points(group=GROUP):
        try:
            found.append(point.load()())
        except Exception as error:  # plug-in load
            _log.warning("the staging %r cannot be loaded: %s", point.name, error)
    return tuple(found)
