# SPDX-License-Identifier: BSD-3-Clause
"""A colocated server on a node that only a worker there knows: of a pilot, for example.

The first task that needs it starts a keeper, which lives as long as the worker's parent
(the manager of the node) and as the service in the driver; the others find it by a file
in the node's temporary folder, which is locked meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from ssdag.errors import ServiceStartError, StoreError
from ssdag.services.colocation.beside import PASSWORD
from ssdag.services.keepers import keeper
from ssdag.services.servers.node_facts import node_name
from ssdag.services.servers.places import ServerRequest
from ssdag.wire.process import spawn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Beyond what the server itself may take to start.
_SLACK_S = 20.0


def recipe(
    request: ServerRequest,
    cpus: int | Sequence[int] | None,
    folder_name: str,
    lifeline: dict[str, Any],
    *,
    secret: bool,
) -> str:
    """Return what a worker elsewhere needs to start a server on its node; secret.

    Parameters
    ----------
    request : ServerRequest
        What shall run.
    cpus : int or sequence of int or None
        Cores that it is bound to.
    folder_name : str
        What its folder is called.
    lifeline : mapping
        How its keeper learns of the end.
    secret : bool
        Whether clients need the password.
    """
    return json.dumps(
        {"request": request.plain(), "cpus": cpus, "folder": folder_name, "lifeline": lifeline,
         "secret": secret}
    )  # fmt: skip


def server_here(text: str) -> tuple[str, str | None]:
    """Return address and password file of this node's server; starts it if need be.

    Blocks while it starts.

    Raises
    ------
    ServiceStartError
        It does not start.
    StoreError
        It has died, and its data are lost.
    """
    wanted = json.loads(text)
    path = os.path.join(tempfile.gettempdir(), f"{wanted['folder']}-{node_name()}.json")
    with _locked(path) as file:
        known = file.read()
        if known:
            found = json.loads(known)
            if found["socket"] and not _listens(found["socket"]):
                error = StoreError(
                    f"the server beside the tasks on {node_name()} has died, and its data are lost"
                )
                error.transient = False
                raise error
        else:
            try:
                found = _start(wanted, path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):  # the next one tries anew
                    os.unlink(path)
                raise
            file.write(json.dumps(found))
            file.flush()
    secret = os.path.join(found["folder"], PASSWORD) if wanted["secret"] else None
    address = f"unix://{found['socket']}" if found["socket"] else f"{found['host']}:{found['port']}"
    return address, secret


@contextlib.contextmanager
def _locked(path: str) -> Iterator[Any]:
    """Open a file of ours with a lock on it; the keeper removes it at its end."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "r+", encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                raise ServiceStartError(f"{path} belongs to somebody else")
            fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    yield file
                    return


def _listens(path: str) -> bool:
    from ssdag.client.transport.address import Address

    try:
        Address(path=path).connect(5.0).close()
    except OSError:
        return False
    return True


def _start(wanted: dict[str, Any], path: str) -> dict[str, Any]:
    """Start a keeper and the server; return what the keeper says of it."""
    request = ServerRequest.from_plain(wanted["request"])
    orders = (
        {"do": "follow", "pid": os.getppid(), "lifeline": wanted["lifeline"], "leaves": path},
        {"do": "start", "id": "0", "request": wanted["request"], "cpus": wanted["cpus"],
         "folder": f"{wanted['folder']}-{node_name()}"},
    )  # fmt: skip
    before = os.sched_getaffinity(0)
    # We may be bound to some cores; the server may use those of all of the node's workers.
    os.sched_setaffinity(0, os.sched_getaffinity(os.getppid()))
    try:
        process = spawn(
            [sys.executable, "-P", keeper.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    finally:
        os.sched_setaffinity(0, before)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"".join(json.dumps(order).encode() + b"\n" for order in orders))
        for report in _reports(process.stdout.fileno(), request.start_timeout_s + _SLACK_S):
            if "started" in report:
                return report
            if "failed" in report:
                process.kill_session()
                raise ServiceStartError(
                    f"on {node_name()}: {report['error']}",
                    log_tail=report.get("text", ""),
                    exit_code=report.get("code"),
                )
    process.kill_session()
    raise ServiceStartError(f"the keeper of a server on {node_name()} has ended, or hangs")


def _reports(fd: int, timeout_s: float) -> Iterator[dict[str, Any]]:
    """Yield the lines that a keeper says, until it ends or the time is over."""
    deadline = time.monotonic() + timeout_s
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    rest = b""
    while poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        data = os.read(fd, 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line)
