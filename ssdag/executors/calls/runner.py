# SPDX-License-Identifier: BSD-3-Clause
"""Runs the call in a folder: ``python -P runner.py FOLDER``, once for each rank.

Every rank writes how it ended into a file of its own, so that nothing has to be gathered
by ranks of which one may be dead. A rank that fails aborts the others: they could wait
for it for ever.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
import time
from typing import Any

CALL = "call.pkl"
END = "end"
#: A rank that has failed is gone after this time, in any case.
ABORT_S = 10.0


def main() -> None:
    """Run the call; the exit code is 0 if its value was written."""
    folder = sys.argv[1]
    with open(os.path.join(folder, CALL), "rb") as file:
        call = pickle.load(file)
    sys.path[:] = call["path"]
    sys.argv[:] = call["argv"]
    _find_ourselves()
    from ssdag.wire import context
    from ssdag.wire.raised import dump_raised

    context.enter_worker()
    rank = 0
    comm: Any = None
    try:
        os.chdir(call["cwd"])
        if call["ranks"]:
            comm, rank = _join_world(call["ranks"])
        value = _run(call)
        if rank == 0 or call["all"]:
            _write(folder, rank, ("value", _packed(call["name"], value), time.time()))
    except BaseException as error:  # user code, which may also raise SystemExit
        _write(folder, rank, ("error", dump_raised(error, __file__), time.time()))
        _flush()
        if comm is not None:
            # Should the abort itself hang, our exit tells the launcher.
            watchdog = threading.Timer(ABORT_S, os._exit, (1,))
            watchdog.daemon = True
            watchdog.start()
            comm.Abort(1)
        os._exit(1)
    _flush()
    if comm is None:  # MPI is left in order; else threads of the body must not keep us
        os._exit(0)


def _find_ourselves() -> None:
    """Make ssdag importable where it is on no path: the driver may have found it otherwise."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    if root not in sys.path:
        sys.path.append(root)


def _join_world(ranks: int) -> tuple[Any, int]:
    """Return the communicator of all ranks, and our place in it.

    Raises
    ------
    LauncherError
        The world has another size: launcher and MPI library do not understand one another.
    """
    from ssdag.errors import LauncherError

    try:
        from mpi4py import MPI
    except ImportError as error:
        error.add_note("mpi_app(python=True) needs mpi4py (and an MPI library) on the nodes")
        raise
    comm = MPI.COMM_WORLD
    if comm.size != ranks:
        library = MPI.Get_library_version().split("\n")[0].strip("\0 ")
        launcher = os.environ.get("SSDAG_LAUNCHER", "the launcher")
        raise LauncherError(
            f"{ranks} ranks were launched by {launcher}, but the MPI library ({library}) sees a "
            f"world of {comm.size}: the two do not understand one another. Use the launcher of "
            "this MPI, or tell it which interface to offer (such as SrunLauncher(mpi='pmi2') "
            "or 'pmix')",
            launcher=launcher,
            library=library,
        )
    return comm, int(comm.rank)


def _run(call: dict[str, Any]) -> Any:
    from ssdag.wire.functions import load_function
    from ssdag.wire.serialize import loads

    try:
        func = load_function(call["function"])
    except ImportError as error:
        error.add_note(
            "The worker process could not import the function's module; it must be "
            "importable from the folder and sys.path of the script that started ssdag."
        )
        raise
    args, kwargs = loads(call["arguments"])
    return func(*args, **kwargs)


def _packed(name: str, value: Any) -> bytes:
    from ssdag.errors import SerializationError
    from ssdag.wire.serialize import dumps

    try:
        return dumps(value)
    except SerializationError as error:
        raise SerializationError(
            f"the result of {name} (a {type(value).__name__}) cannot be sent: {error}"
        ) from error


def _write(folder: str, rank: int, end: tuple[str, bytes, float]) -> None:
    """Write the end of a rank, whole or not at all."""
    path = os.path.join(folder, f"{END}-{rank}")
    fd = os.open(f"{path}.{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "wb") as file:
        pickle.dump(end, file, 5)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.{os.getpid()}", path)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


if __name__ == "__main__":
    main()
