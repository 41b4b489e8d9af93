# SPDX-License-Identifier: BSD-3-Clause
"""The connector on Dragon's dictionary, in a program under Dragon's launcher."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
import threading
from typing import Any

import dragon  # noqa: F401  # first of all, as its manual says
from dragon.data.ddict import DDict

from ssdag.connectors import DistributedDict, DragonConnector
from ssdag.connectors.base import LONGEST_KEY
from ssdag.errors import ConfigError, DataTimeoutError, MissingDataError, StoreError

BIG = 1 << 20


def raises(kind: type[BaseException], call: Any, *args: Any) -> bool:
    """Return whether a call raises this error."""
    try:
        call(*args)
    except kind:
        return True
    return False


def answer(shared: DistributedDict[Any]) -> None:
    """Answer one question, in another process."""
    shared["answer"] = shared.get("question", timeout_s=60) * 2


def check_values(connector: DragonConnector) -> None:
    """What the contract says of values."""
    for size in (0, 1, BIG):
        data = os.urandom(size)
        connector.write("x", [data[: size // 2], b"", memoryview(data)[size // 2 :]])
        found = connector.read("x")
        assert bytes(found) == data
        assert connector.size("x") == size
        if size:
            found[0] ^= 0xFF
            assert bytes(connector.read("x")) == data
    connector.copy("x", "y")
    assert bytes(connector.take("y")) == bytes(connector.read("x"))
    assert not connector.exists("y")
    assert connector.delete("x")
    assert not connector.delete("x")
    for ask in (connector.read, connector.size, connector.take):
        assert raises(MissingDataError, ask, "x")
    assert connector.add("x", [b"1"])
    assert not connector.add("x", [b"2"])
    connector.delete("x")
    assert connector.add("x", [b"3"])
    assert bytes(connector.take("x")) == b"3"
    for key in ("a/b", "ä", "a:b", "\n", "x" * LONGEST_KEY):
        connector.write(key, [key.encode()])
    assert connector.keys() == sorted(["a/b", "ä", "a:b", "\n", "x" * LONGEST_KEY])
    assert connector.keys("a*") == ["a/b", "a:b"]
    assert connector.delete_many(connector.keys()) == 5


def check_waiting(connector: DragonConnector) -> None:
    """Waiting, and one of many."""
    assert raises(DataTimeoutError, connector.wait, "x", 0.05)
    waiting = threading.Thread(target=connector.wait, args=("x", 60))
    waiting.start()
    connector.write("x", [b""])
    waiting.join(60)
    assert not waiting.is_alive()
    connector.delete("x")


def check_dictionary(connector: DragonConnector) -> None:
    """Another process of the runtime, checkpoints."""
    shared: DistributedDict[Any] = DistributedDict(connector)
    other = multiprocessing.Process(target=answer, args=(shared,))
    other.start()
    shared["question"] = 21
    assert shared.get("answer", timeout_s=60) == 42
    other.join()
    shared.checkpoint("c")
    shared.clear()
    assert shared.rollback("c") == 2
    assert dict(shared.items()) == {"question": 21, "answer": 42}


def main() -> None:
    """Run all of it."""
    faulthandler.dump_traceback_later(150.0, exit=True)
    multiprocessing.set_start_method("dragon")
    dictionary = DDict(1, 1, 64 << 20, timeout=60)
    connector = DragonConnector(dictionary)
    assert raises(ConfigError, DragonConnector, {})
    check_values(connector)
    check_waiting(connector)
    check_dictionary(connector)
    assert raises(StoreError, connector.write, "large", [bytes(256 << 20)])
    dictionary.destroy()
    sys.stdout.write("all is well\n")


if __name__ == "__main__":
    main()
