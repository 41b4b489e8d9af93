# SPDX-License-Identifier: BSD-3-Clause
"""Everything dies at random, and every task ends once, one way or the other."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import psutil

from ssdag.errors import WorkerLostError
from ssdag.futures import CancelledError
from tests.integration import pilot_bodies as bodies
from tests.integration.pilots import DEADLINE_S, managers, start

if TYPE_CHECKING:
    from pathlib import Path

DURATION_S = 6.0


def harm(rng: random.Random) -> None:
    """Kill, suspend or end a manager, or kill one of its workers."""
    found = managers()
    if not found:
        return
    manager = rng.choice(found)
    try:
        match rng.randrange(6):
            case 0:
                manager.kill()
            case 1:
                manager.terminate()
            case 2:
                manager.suspend()
                time.sleep(rng.choice([0.3, 2.5]))  # within and beyond the limit
                manager.resume()
            case _:
                workers = [c for c in manager.children() if "-c" in c.cmdline()[:4]]
                if workers:
                    rng.choice(workers).kill()
    except psutil.Error:
        pass  # it was gone already


def test_everything_dies_at_random(tmp_path: Path) -> None:
    rng = random.Random(20)
    engine, executor = start(
        tmp_path,
        blocks={"max_blocks": 3, "walltime_s": 20.0},
        heartbeat_limit_s=2.0,
        failures_allowed=99,
        max_idle_s=1.0,
    )
    stop = threading.Event()

    def destroy() -> None:
        mine = random.Random(21)
        while not stop.wait(mine.uniform(0.2, 1.0)):
            harm(mine)

    destroyer = threading.Thread(target=destroy, name="destroyer")
    with engine:
        destroyer.start()
        futures = []
        end = time.monotonic() + DURATION_S
        while time.monotonic() < end:
            for _ in range(rng.choice([1, 10, 100])):
                if rng.random() < 0.9:
                    futures.append(engine.submit(bodies.same, "quick"))
                else:
                    futures.append(engine.submit(bodies.stay, rng.uniform(0.0, 0.1)))
            for future in rng.sample(futures, 2 if len(futures) > 1 else 0):
                future.cancel()
            time.sleep(rng.uniform(0.0, 0.1))
        stop.set()
        destroyer.join()
        ends = Counter[str]()
        for future in futures:
            try:
                error = future.exception(2 * DEADLINE_S)
            except CancelledError:
                ends["cancelled"] += 1
                continue
            assert error is None or isinstance(error, WorkerLostError)
            ends["lost" if error else "done"] += 1
        assert ends.total() == len(futures)
        assert ends["done"] > 0.8 * len(futures)
        assert executor.outstanding == 0
