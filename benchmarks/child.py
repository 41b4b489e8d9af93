# SPDX-License-Identifier: BSD-3-Clause
"""The process that measures one backend once.

``python -m benchmarks.child NAME --fd N`` writes one JSON object a line to the file
descriptor: ``{"begin": measure}``, ``{"measure": ..., "figures": {...}}`` or
``{"measure": ..., "error": text}``. Backends print what they like on the standard
streams; nobody reads it unless the process fails.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import tree
from benchmarks.peers import ALL, make
from benchmarks.work import identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.measures import Figures

_STOP_LIMIT_S = 5.0

#: A measure is calm if others used no more than this share of the cores.
CALM = 0.1
#: How often a disturbed measure is taken, in a full and in a quick run.
_TRIES = (2, 2)


class Reporter:
    """Writes lines to the parent."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)  # the daemons of a backend must not keep it open
        self._stream = os.fdopen(fd, "w", buffering=1, encoding="utf-8")

    def __call__(self, **line: Any) -> None:
        print(json.dumps(line), file=self._stream)


def measure_launch(name: str, report: Reporter, *, quick: bool, only: set[str]) -> None:
    """Measure one way of starting programs."""
    from benchmarks.launch import NAMES

    launcher = NAMES[name][1](quick=quick)
    version = _version(launcher.distribution)
    tries = _TRIES[quick]
    for each, method in launcher.measures().items():
        if only and each not in only:
            continue
        report(begin=each)
        try:
            report(measure=each, figures=_undisturbed(method, tries), version=version)
        except Exception as error:  # a backend is foreign code: one measure may fail
            report(measure=each, error=f"{type(error).__name__}: {error}"[:500])
    report(begin="stop")


def _undisturbed(run: Callable[[], Figures], tries: int) -> Figures:
    """Take a measure again if others used the machine meanwhile; the calmest one counts."""
    calmest: Figures = {}
    for _ in range(tries):
        foreign = tree.Foreign()
        figures = run()
        figures["foreign"] = foreign.share()
        if not calmest or figures["foreign"] < calmest["foreign"]:
            calmest = figures
        if calmest["foreign"] <= CALM:
            break
    return calmest


def _version(distribution: str) -> str:
    if distribution == "ssdag":  # may run from a source tree that is not installed
        from ssdag.version import __version__

        return __version__
    return importlib.metadata.version(distribution) if distribution else ""


def measure(name: str, report: Reporter, budget_s: float, *, quick: bool, only: set[str]) -> None:
    """Measure the backend `name`; what fails is reported and the rest goes on."""
    from benchmarks.measures import Measures

    distribution = ALL[name][1]
    report(begin="start")
    backend = make(name)
    imported = time.perf_counter()
    backend.load()
    started = time.perf_counter()
    backend.start()
    if backend.result(backend.submit(identity, 7)) != 7:
        raise AssertionError("wrong result")
    end = time.perf_counter()
    report(
        measure="start",
        figures={"n": 1, "import_s": started - imported, "first_result_s": end - started},
        version=_version(distribution),
    )
    measures = Measures(backend, budget_s, quick=quick)
    memory = only == {"pending"}
    tries = 1 if memory else _TRIES[quick]
    for each in ["pending"] if memory else measures.names():
        if only and each not in only:
            continue
        report(begin=each)
        try:
            report(measure=each, figures=_undisturbed(partial(measures.run, each), tries))
        except Exception as error:  # a backend is foreign code: one measure may fail
            report(measure=each, error=f"{type(error).__name__}: {error}"[:500])
    report(begin="stop")
    stopper = threading.Thread(target=backend.stop, daemon=True)
    stopper.start()
    stopper.join(_STOP_LIMIT_S)


def main() -> None:
    """Measure as the command line says, then end without waiting for anything."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--budget", type=float, default=1.0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--measures", default="")
    args = parser.parse_args()
    tree.adopt_orphans()
    report = Reporter(args.fd)
    only = set(filter(None, args.measures.split(",")))
    try:
        if args.name in ALL:
            measure(args.name, report, args.budget, quick=args.quick, only=only)
        else:
            measure_launch(args.name, report, quick=args.quick, only=only)
    except Exception as error:  # a backend is foreign code, and may be missing
        report(measure="start", error=f"{type(error).__name__}: {error}"[:500])
    os._exit(0)  # the parent ends what is left of the tree


if __name__ == "__main__":
    main()
