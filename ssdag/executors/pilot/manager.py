# SPDX-License-Identifier: BSD-3-Clause
"""The manager: one process on each node of a block, with workers beneath it.

``python -m ssdag.executors.pilot.manager --contact FILE --block NUMBER``. It reads how
to reach the driver, says who it is, and runs what it is sent until the driver ends it,
is silent for too long, or the scheduler ends the job.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # as a file, where ssdag need not be installed
    from importlib import import_module

    _ROOT = os.path.dirname(os.path.abspath(__file__)).rsplit(os.sep, 3)[0]
    sys.path.insert(0, _ROOT)
    import_module("ssdag")
    # The folder counts only until ssdag is found: what else lies in it must not come
    # before the standard library.
    sys.path.remove(_ROOT)
    sys.exit(import_module("ssdag.executors.pilot.manager").main(sys.argv[1:]))

import argparse
import contextlib
import logging
import pickle
import secrets
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

from ssdag.errors import ConfigError, ProviderError
from ssdag.executors.pilot.node import Wishes, checked, cores_here, granted, memory_here
from ssdag.executors.pilot.protocol import Kind
from ssdag.executors.pilot.questions import Questions
from ssdag.executors.pilot.relay import SHUTDOWN, Relay
from ssdag.executors.pilot.security import Keys, read_private
from ssdag.executors.pilot.session import Session, ends_in_s
from ssdag.wire.routes import VARIABLE
from ssdag.wire.segment_folder import make_folder, remove_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Where launchers say which of a step's processes we are.
_RANKS = ("SSDAG_NODE_RANK", "SLURM_PROCID", "PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK",
          "PALS_RANKID", "ALPS_APP_PE", "JSM_NAMESPACE_RANK", "FLUX_TASK_RANK")  # fmt: skip
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: What was sent last gets so long to leave.
_LAST_WORDS_S = 1.0
_BORN = time.monotonic()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a manager; returns its exit code."""
    parser = argparse.ArgumentParser("ssdag manager")
    parser.add_argument("--contact", required=True, help="the file that the driver wrote")
    parser.add_argument("--block", type=int, required=True, help="number of our block")
    options = parser.parse_args(argv)
    logging.basicConfig(format=f"%(asctime)s {socket.gethostname()} %(levelname)s %(message)s")
    for signum in _SIGNALS:
        signal.signal(signum, _leave)
    try:
        return _serve(options.contact, options.block)
    except (ConfigError, ProviderError, OSError) as error:
        sys.stderr.write(f"ssdag manager on {socket.gethostname()}: {error}\n")
        return 1


def _leave(signum: int, frame: object) -> None:
    """End before the work has begun, leaving nothing behind."""
    sys.exit(128 + signum)


def _serve(contact_path: str, block: int) -> int:
    contact = read_private(contact_path)
    wanted = contact["wishes"]
    gpus = granted(wanted["accelerators"], os.environ)
    wishes = checked(**{**wanted, "accelerators": gpus})
    cores, memory = cores_here(), memory_here()
    workers = wishes.count(len(cores), memory)
    if workers < 1:
        raise ConfigError(
            f"no worker fits on this node, which has {len(cores)} cores and {memory} bytes of "
            f"memory: cores_per_worker={wishes.cores_per_worker}, "
            f"memory_per_worker_bytes={wishes.memory_per_worker_bytes}"
        )
    names = map(os.environ.get, ("SSDAG_NODE", "SLURMD_NODENAME"))
    node = next(filter(None, names), None) or socket.gethostname()
    rank = next((os.environ[name] for name in _RANKS if os.environ.get(name)), "0")
    session = Session(contact, Keys.of(contact["keys"]), block, secrets.token_hex(8).encode())
    linger_s = 0.0
    try:
        welcome = session.greet({
            "node": node, "rank": rank, "workers": workers, "cores": len(cores),
            "pid": os.getpid(), "ends_in_s": ends_in_s(), "age_s": time.monotonic() - _BORN,
        })  # fmt: skip
        _settle(welcome)
        folder = make_folder()
        try:
            linger_s = _run(session, wishes, workers, cores, folder, contact["threshold_bytes"],
                            {"SSDAG_BLOCK_ID": str(block), "SSDAG_NODE": node,
                             "SSDAG_WORKER_COUNT": str(workers)},
                            contact["elsewhere"])  # fmt: skip
        finally:
            if folder is not None:
                remove_folder(folder)
    finally:
        session.close(linger_s)
    # Not 0: what ran here is lost, which is another thing than a block that came to its end.
    return 1 if session.lost else 0


def _settle(welcome: dict[str, Any]) -> None:
    """Be where the driver is: workers take folder, path and arguments from us."""
    sys.path[:] = welcome["path"]
    sys.argv[:] = welcome["argv"]
    if welcome["cwd"] is not None:
        try:
            os.chdir(welcome["cwd"])
        except OSError as error:
            logging.getLogger("ssdag.executors").warning(
                "the driver's folder is not here (%s): workers run in %s", error, os.getcwd()
            )


def _run(
    session: Session,
    wishes: Wishes,
    workers: int,
    cores: list[int],
    folder: str | None,
    threshold: int,
    env: dict[str, str],
    questions: bool,
) -> float:
    """Run tasks until there is a reason to end; returns how long last words may take."""

    def worker_env(rank: int) -> tuple[dict[str, str], Sequence[int]]:
        own = wishes.cores_of(rank, workers, cores)
        return {**env, "SSDAG_WORKER_RANK": str(rank), **wishes.environment(rank, own)}, own

    relay = Relay(session, workers, folder, threshold, worker_env)
    if folder is not None and questions:
        relay.questions = Questions(folder, relay.ask)
        env[VARIABLE] = relay.questions.path

    def stop(signum: int, frame: object) -> None:
        relay.end(f"the job was ended by {signal.Signals(signum).name}")

    for signum in _SIGNALS:
        signal.signal(signum, stop)
    relay.run()  # here, not in its thread
    if relay.questions is not None:
        relay.questions.close()
    if session.over is not None:
        sys.stderr.write(f"ssdag manager: {session.over}\n")
        return 0.0
    if relay.why == SHUTDOWN:
        return 0.0
    # Somebody or something else ended us: the driver learns what has not begun.
    farewell = relay.why or "the manager failed; its block's stderr says why", bool(relay.why)
    with contextlib.suppress(OSError):
        session.channel.post(Kind.BYE, pickle.dumps(farewell, 5))
    return _LAST_WORDS_S
