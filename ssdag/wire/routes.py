# SPDX-License-Identifier: BSD-3-Clause
"""How workers on another site reach the servers of the driver's machine.

A server's address and the name of its password file mean something where it runs. Workers
elsewhere ask their manager, by the socket that :data:`VARIABLE` names; the manager asks the
driver, over its encrypted link, and the driver tells what is known here of its own servers
and nothing else: the ways to an address, or the password in a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from typing import Any

from ssdag.errors import StoreError

#: Names the socket of the manager, in workers that need one.
VARIABLE = "SSDAG_ROUTES"

#: A way may have to be opened first.
_ANSWER_S = 90.0
_LARGEST_BYTES = 1 << 16

_lock = threading.Lock()
#: Servers of this process, by their addresses: their password files.
_served: dict[str, str | None] = {}
#: What was answered here.
_known: dict[tuple[str, str], Any] = {}


def serve(address: str, password_file: str | None) -> None:
    """Let workers of this process ask for a server, or for the nodes of a cluster."""
    with _lock:
        for one in _each(address):
            _served[one] = password_file


def withdraw(address: str) -> None:
    """Let them ask no more."""
    with _lock:
        for one in _each(address):
            _served.pop(one, None)


def is_served(address: str) -> bool:
    """Return whether it is the address of one of this process's servers."""
    with _lock:
        return address in _served


def is_password_file(path: str) -> bool:
    """Return whether one of this process's servers has its password there."""
    with _lock:
        return path in _served.values()


def ways_to(address: str) -> list[str]:
    """Return the addresses at which a server is reached from here, the likeliest first.

    Raises
    ------
    StoreError
        The driver has no way, or does not answer.
    """
    if VARIABLE not in os.environ or not _is_near(address):
        return [address]
    return list(_ask("address", address) or [address])


def forget_ways_to(address: str) -> None:
    """Ask again next time: none of them has worked."""
    with _lock:
        _known.pop(("address", address), None)


def password_in(path: str) -> str | None:
    """Return the password in a file of the driver's machine; None if nobody can tell.

    Raises
    ------
    StoreError
        The driver does not answer.
    """
    if VARIABLE not in os.environ:
        return None
    found: str | None = _ask("password", path)
    return found


def _is_near(address: str) -> bool:
    """Return whether an address means this machine, though the server may be elsewhere."""
    if address.startswith("unix://"):
        return not os.path.exists(address.removeprefix("unix://"))
    return address.startswith(("127.", "localhost:"))


def _each(address: str) -> list[str]:
    return [one for one in address.split(",") if one] if "unix://" not in address else [address]


def _ask(what: str, name: str) -> Any:
    """Ask the manager; the answer is kept."""
    with _lock:
        if (what, name) in _known:
            return _known[what, name]
    try:
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as manager:
            manager.settimeout(_ANSWER_S)
            manager.connect(os.environ[VARIABLE])
            manager.sendall(json.dumps({"what": what, "name": name}).encode() + b"\n")
            with manager.makefile("rb") as reply:
                said = json.loads(reply.readline(_LARGEST_BYTES))
    except (OSError, ValueError) as error:
        raise StoreError(f"the driver does not say how {name} is reached: {error}") from error
    if said.get("error"):
        raise StoreError(str(said["error"]))
    with _lock:
        _known[what, name] = said["answer"]
    return said["answer"]


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # a thread that does not exist here may have held it


os.register_at_fork(after_in_child=_after_fork)
