# SPDX-License-Identifier: BSD-3-Clause
"""Starting programs: `true` and `echo` by ssdag, by Parsl and by bare ``Popen``.

Also what belongs to starting: the orchestrator's time to ready, the import, and what an
idle engine costs.
"""

from __future__ import annotations

import importlib
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from benchmarks import tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.measures import Figures

IN_FLIGHT = 8


def true_command() -> str:
    """The body of a bash app."""
    return "true"


def echo_command(text: str) -> str:
    """The body of a bash app."""
    return f"echo {text}"


class Launcher:
    """What each way of starting programs measures; `count` programs in the bulk run."""

    distribution = ""

    def __init__(self, *, quick: bool) -> None:
        self.count = 400 if quick else 1500
        self.quick = quick

    def measures(self) -> dict[str, Callable[[], Figures]]:
        """The measures by name, in the order to run them."""
        return {"true8": self.true8}

    def true8(self) -> Figures:
        """Programs per second, 8 at a time."""
        raise NotImplementedError


class PopenLauncher(Launcher):
    """``subprocess.Popen``, reaped through pidfds: about the limit of the machine."""

    def measures(self) -> dict[str, Callable[[], Figures]]:
        return {"true8": self.true8, "echo1": self.echo1}

    def true8(self) -> Figures:
        poll = select.poll()
        running: dict[int, subprocess.Popen[bytes]] = {}
        started = ended = 0
        begin = time.perf_counter()
        while ended < self.count:
            while len(running) < IN_FLIGHT and started < self.count:
                process = subprocess.Popen(["true"], stdin=subprocess.DEVNULL)
                fd = os.pidfd_open(process.pid)
                running[fd] = process
                poll.register(fd, select.POLLIN)
                started += 1
            for fd, _ in poll.poll():
                poll.unregister(fd)
                os.close(fd)
                running.pop(fd).wait()
                ended += 1
        return {"n": self.count, "per_s": self.count / (time.perf_counter() - begin)}

    def echo1(self) -> Figures:
        times = []
        for _ in range(20):
            begin = time.perf_counter()
            subprocess.run(["echo", "1"], check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - begin)
        return {"n": len(times), "s": statistics.median(times)}


class ParslLauncher(Launcher):
    """Parsl's ``bash_app`` on its thread executor."""

    distribution = "parsl"

    def true8(self) -> Figures:
        parsl: Any = importlib.import_module("parsl")
        config: Any = importlib.import_module("parsl.config")
        executors: Any = importlib.import_module("parsl.executors")
        with tempfile.TemporaryDirectory() as folder:
            pool = executors.ThreadPoolExecutor(label="threads", max_threads=IN_FLIGHT)
            parsl.load(
                config.Config(
                    executors=[pool],
                    run_dir=folder,
                    initialize_logging=False,
                    usage_tracking=0,
                    strategy="none",
                )
            )
            rate = _app_rate(parsl.bash_app(true_command), self.count)
            parsl.dfk().cleanup()
        return {"n": self.count, "per_s": rate}


class OurLauncher(Launcher):
    """ssdag's ``bash_app``; threads wait for the programs."""

    distribution = "ssdag"

    def measures(self) -> dict[str, Callable[[], Figures]]:
        return {
            "import": self.import_time,
            "echo1": self.echo1,
            "echo50": self.echo50,
            "true8": self.true8,
            "orchestrator": self.orchestrator,
            "idle": self.idle,
        }

    def _load(self, workers: int = IN_FLIGHT) -> tuple[Any, Any]:
        ssdag: Any = importlib.import_module("ssdag")
        pool = ssdag.executors.ThreadExecutor(workers)
        return ssdag, ssdag.load(ssdag.Config(executors=[pool]))

    def import_time(self) -> Figures:
        """A fresh interpreter that imports ssdag, less one that imports nothing."""
        times: dict[str, list[float]] = {"pass": [], "import ssdag": []}
        for _ in range(5 if self.quick else 11):
            for code, values in times.items():
                begin = time.perf_counter()
                subprocess.run([sys.executable, "-c", code], check=True)
                values.append(time.perf_counter() - begin)
        bare, full = (statistics.median(v) for v in times.values())
        return {"n": len(times["pass"]), "s": full - bare}

    def echo1(self) -> Figures:
        """From the call of a bash app to its result, the engine being up."""
        ssdag, engine = self._load()
        echo = ssdag.bash_app(echo_command)
        times = []
        with engine:
            for i in range(21):
                begin = time.perf_counter()
                echo(str(i)).result()
                times.append(time.perf_counter() - begin)
        return {"n": 20, "s": statistics.median(times[1:]), "first_s": times[0]}

    def echo50(self) -> Figures:
        """From before the engine starts to the last result."""
        begin = time.perf_counter()
        ssdag, engine = self._load()
        with engine:
            echo = ssdag.bash_app(echo_command)
            for future in [echo(str(i)) for i in range(50)]:
                future.result()
            elapsed = time.perf_counter() - begin
        return {"n": 50, "s": elapsed}

    def true8(self) -> Figures:
        ssdag, engine = self._load()
        with engine:
            return {"n": self.count, "per_s": _app_rate(ssdag.bash_app(true_command), self.count)}

    def orchestrator(self) -> Figures:
        """From the first line that mentions it to an answered command."""
        ssdag, engine = self._load(2)
        times = []
        with engine:
            for _ in range(2 if self.quick else 4):
                begin = time.perf_counter()
                db = ssdag.Orchestrator()
                db.client().tensor_exists("nothing")
                times.append(time.perf_counter() - begin)
        return {"n": len(times), "ready_s": statistics.median(times)}

    def idle(self) -> Figures:
        """CPU of all processes while a local engine and an orchestrator have no work."""
        ssdag: Any = importlib.import_module("ssdag")
        seconds = 2.0 if self.quick else 5.0
        pool = ssdag.executors.LocalExecutor(max_workers=2)
        with ssdag.load(ssdag.Config(executors=[pool])) as engine:
            engine.submit(true_command).result()
            ssdag.Orchestrator().client().tensor_exists("nothing")
            tree.settle()
            before = tree.cpu_s()
            time.sleep(seconds)  # the measurement itself
            used = tree.cpu_s() - before
        return {"n": seconds, "core_percent": 100 * used / seconds}


def _app_rate(app: Any, count: int) -> float:
    """Calls of an app per second, submitted at once."""
    for future in [app() for _ in range(2 * IN_FLIGHT)]:
        future.result()
    begin = time.perf_counter()
    for future in [app() for _ in range(count)]:
        future.result()
    return count / (time.perf_counter() - begin)


#: name -> (title in tables, launcher)
NAMES: dict[str, tuple[str, type[Launcher]]] = {
    "launch-ssdag": ("ssdag bash_app", OurLauncher),
    "launch-parsl": ("Parsl bash_app", ParslLauncher),
    "launch-popen": ("bare Popen", PopenLauncher),
}
