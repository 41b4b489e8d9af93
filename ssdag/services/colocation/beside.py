# SPDX-License-Identifier: BSD-3-Clause
"""A server beside the tasks of its node: its folder, its password there, its cores."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ssdag.services.servers.folder import write_private
from ssdag.services.servers.node_facts import choose_cores, node_name
from ssdag.wire import guard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.services.servers.places import ServerRequest

#: The file with the password in a server's folder.
PASSWORD = "password"


def make_folder(name: str) -> str:
    """Make a private folder of a given name, the same on all nodes where that is possible.

    Nodes that share their temporary folder (virtual ones do) get folders side by side.
    """
    base = os.path.join(tempfile.gettempdir(), name)
    for path in (base, f"{base}-{node_name()}"):
        guard.path(path)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            guard.release_path(path)
        else:
            return path
    raise OSError(f"{base}: there is such a folder")


def prepared(request: ServerRequest, folder: str) -> ServerRequest:
    """Return a request for a server in a folder, where its password lies then."""
    if request.password:
        write_private(Path(folder, PASSWORD), request.password + "\n")
    return dataclasses.replace(request, folder=folder)


def bind(cpus: int | Sequence[int] | None) -> None:
    """Bind this thread, and what it starts, to cores of those that it may use.

    Raises
    ------
    ValueError
        They are not ours to use.
    """
    if cpus is not None:
        os.sched_setaffinity(0, choose_cores(cpus, os.sched_getaffinity(0)))
