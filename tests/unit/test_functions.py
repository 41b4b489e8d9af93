# SPDX-License-Identifier: BSD-3-Clause
"""Functions to another interpreter: by name where it can import them, else by value."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import math
import operator
import os
import pickle
import subprocess
import sys
import threading
import types
from typing import TYPE_CHECKING, Any

import pytest

from ssdag.errors import SerializationError
from ssdag.wire.functions import (
    FunctionTable,
    by_name,
    dump_function,
    load_function,
    runnable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HERE = __name__

# A worker as far as functions are concerned: an interpreter with the driver's sys.path.
LOADER = """
import pickle, sys
path, blobs, args = pickle.load(sys.stdin.buffer)
sys.path[:] = path
from ssdag.wire.functions import load_function
results = []
for blob, arguments in zip(blobs, args, strict=True):
    try:
        results.append(load_function(blob)(*arguments))
    except Exception as error:
        results.append(f"{type(error).__name__}: {error}")
sys.stdout.buffer.write(pickle.dumps(results))
"""


def elsewhere(*calls: tuple[Callable[..., Any], tuple[Any, ...]]) -> list[Any]:
    """Call functions in a fresh interpreter; an error comes as text."""
    content = ([*sys.path], [dump_function(func) for func, _ in calls], [args for _, args in calls])
    ended = subprocess.run(
        [sys.executable, "-c", LOADER],
        input=pickle.dumps(content),
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ended.returncode == 0, ended.stderr.decode()
    results: list[Any] = pickle.loads(ended.stdout)
    return results


def plus(x: int, y: int = 1) -> int:
    return x + y


def factorial(n: int) -> int:
    return 1 if n < 2 else n * factorial(n - 1)


class Adder:
    """Callable, with every kind of method."""

    step = 10

    def __init__(self, amount: int) -> None:
        self.amount = amount

    def __call__(self, x: int) -> int:
        return x + self.amount

    def method(self, x: int) -> int:
        return x - self.amount

    @classmethod
    def of_class(cls, x: int) -> int:
        return x + cls.step

    @staticmethod
    def of_none(x: int) -> int:
        return 2 * x


class App:
    """Stands in for an app, which takes the name of its function."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self.__wrapped__ = func

    def __call__(self, *args: Any) -> Any:
        raise AssertionError("the app was called and not its function")


@App
def decorated(x: int) -> int:
    return x * 3


def logged(func: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function as users do: the decorator is part of it."""

    @functools.wraps(func)
    def wrapper(*args: Any) -> Any:
        return ("logged", func(*args))

    return wrapper


@logged
def wrapped(x: int) -> int:
    return x


async def later(x: int) -> int:
    await asyncio.sleep(0)
    return x + 100


# -- by name ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("func", "name"),
    [
        (plus, (HERE, "plus", False)),
        (wrapped, (HERE, "wrapped", False)),
        (decorated.__wrapped__, (HERE, "decorated", True)),
        (wrapped.__wrapped__, (HERE, "wrapped", True)),  # type: ignore[attr-defined]
        (Adder, (HERE, "Adder", False)),
        (Adder.of_none, (HERE, "Adder.of_none", False)),
        (len, ("builtins", "len", False)),
        (os.path.join, ("posixpath", "join", False)),
        (math.sqrt, ("math", "sqrt", False)),
    ],
)
def test_what_is_found_by_its_name(func: Any, name: tuple[str, str, bool]) -> None:
    assert by_name(func) == name
    # The name alone travels: a function of any size costs its worker nothing.
    assert pickle.loads(dump_function(func)) == name


@pytest.mark.parametrize(
    "func",
    [
        lambda: 1,
        functools.partial(plus, 1),
        Adder(1),
        Adder(1).method,
        Adder.of_class,
        [].append,
        operator.attrgetter("x"),
    ],
    ids=lambda func: type(func).__name__,
)
def test_what_has_no_name_of_its_own(func: Any) -> None:
    assert by_name(func) is None


def test_a_name_that_leads_to_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    original = plus
    monkeypatch.setitem(globals(), "plus", lambda x: -x)
    assert by_name(original) is None
    assert load_function(dump_function(original))(1) == 2
    monkeypatch.delitem(globals(), "plus")
    assert by_name(original) is None
    assert load_function(dump_function(original))(1) == 2


def test_all_kinds_elsewhere() -> None:
    three = 3
    wrapped_function = decorated.__wrapped__
    results = elsewhere(
        (plus, (1,)),
        (lambda x: x * three, (5,)),
        (wrapped_function, (5,)),
        (wrapped, (5,)),
        (functools.partial(plus, y=7), (1,)),
        (Adder(5), (1,)),
        (Adder(5).method, (1,)),
        (Adder.of_class, (1,)),
        (Adder.of_none, (4,)),
        (Adder, (4,)),
        (later, (1,)),
        (functools.partial(later), (2,)),
        (math.sqrt, (9.0,)),
        ("a-b".split, ("-",)),
        (operator.itemgetter(1), ([7, 8],)),
        (factorial, (20,)),
    )
    results[9] = results[9].amount
    assert results[:11] == [2, 15, 15, ("logged", 5), 8, 6, -4, 11, 8, 4, 101]
    assert results[12:] == [3.0, ["a", "b"], 8, math.factorial(20)]


def test_coroutine_functions_run_to_their_end() -> None:
    assert runnable(plus) is plus
    assert runnable(later)(1) == 101
    assert load_function(dump_function(later))(1) == 101


# -- modules that a worker cannot import ----------------------------------------------------

MODULE = """
factor = 7

class Box:
    def __init__(self, x):
        self.x = x

def times(x):
    return helper(x) * factor

def helper(x):
    return Box(x).x

class Tool:
    def method(self, x):
        return helper(x)
"""


@pytest.fixture(params=["by hand", "from a file", "out of the path", "part of a package"])
def module(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """A module that is loaded here and that a fresh interpreter does not find."""
    name = f"unimportable_{request.node.callspec.indices['module']}"
    file = tmp_path / f"{name}.py"
    file.write_text(MODULE)
    if request.param in ("by hand", "part of a package"):
        if request.param == "part of a package":
            name = f"ssdag.{name}"
        made = types.ModuleType(name)
        exec(MODULE, made.__dict__)
        monkeypatch.setitem(sys.modules, name, made)
    elif request.param == "from a file":
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, made)
        spec.loader.exec_module(made)
    else:
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(tmp_path))
            made = importlib.import_module(name)
        monkeypatch.setitem(sys.modules, name, made)
    yield made
    sys.modules.pop(name, None)


def test_functions_of_a_module_that_a_worker_cannot_import(module: Any) -> None:
    assert by_name(module.times) is None
    assert elsewhere(
        (module.times, (3,)),
        (functools.partial(functools.partial(module.times), 4), ()),
        (module.Tool().method, (5,)),
    ) == [21, 28, 5]


def test_a_module_that_is_gone() -> None:
    made = types.ModuleType("no_module_any_more")
    exec(MODULE, made.__dict__)
    assert elsewhere((made.times, (3,))) == [21]


# -- __main__ -----------------------------------------------------------------------------

MAIN = """
import pickle, sys
from ssdag.wire.functions import FunctionTable, by_name, dump_function
factor = 2
class Tool:
    def method(self, x):
        return x * factor
def times(x):
    return x * factor
def even(n):
    return n == 0 or odd(n - 1)
def odd(n):
    return n != 0 and even(n - 1)
assert by_name(times) is None
table = FunctionTable()
first = table.number(times)
blobs = [dump_function(f) for f in (times, Tool().method, even)]
def times(x):  # changed, as in a notebook
    return x * factor + 1
second = table.number(times)
assert first != second
blobs += [table.blob(first), table.blob(second)]
sys.stdout.buffer.write(pickle.dumps(blobs))
"""


@pytest.mark.parametrize("how", ["-c", "script", "folder"])
def test_functions_of_another_main_by_value(how: str, tmp_path: Path) -> None:
    (tmp_path / "__main__.py").write_text(MAIN)
    words = {"-c": ["-c", MAIN], "script": [f"{tmp_path}/__main__.py"], "folder": [str(tmp_path)]}
    ended = subprocess.run(
        [sys.executable, *words[how]],
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ended.returncode == 0, ended.stderr.decode()
    times, method, even, first, second = map(load_function, pickle.loads(ended.stdout))
    assert (times(3), method(3), even(10), first(3), second(3)) == (6, 6, True, 6, 7)


# -- what cannot be sent, what cannot be found ------------------------------------------------


def test_what_it_closes_over_is_told() -> None:
    lock = threading.Lock()
    with pytest.raises(SerializationError, match=r"function .*<lambda> cannot be sent.*lock"):
        dump_function(lambda: lock)
    with pytest.raises(SerializationError, match="cannot be sent to a worker"):
        dump_function(functools.partial(operator.add, lock))
    made = types.ModuleType("module_with_a_lock")
    exec("import threading\nlock = threading.Lock()\ndef f(): return lock", made.__dict__)
    sys.modules[made.__name__] = made
    try:
        with pytest.raises(SerializationError, match="function f cannot be sent"):
            dump_function(made.f)
    finally:
        del sys.modules[made.__name__]


@pytest.mark.parametrize(
    ("name", "error"),
    [(("no_such_module", "f", False), ImportError), ((HERE, "no_such", False), AttributeError)],
)
def test_what_a_worker_does_not_find(name: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        load_function(pickle.dumps(name))


# -- the table ----------------------------------------------------------------------------


def test_each_function_has_a_number_and_equal_bytes_the_same() -> None:
    table = FunctionTable()
    numbers = [table.number(func) for func in (plus, factorial, plus, Adder.of_none)]
    assert numbers == [0, 1, 0, 2]
    lambdas = [table.number(lambda x: x + 1) for _ in range(50)]
    assert len(set(lambdas)) == 1, "made anew in a loop they are sent once"
    assert table.number(lambda x: x + 2) not in {0, 1, 2, lambdas[0]}
    assert load_function(table.blob(numbers[1]))(5) == 120
    assert load_function(table.blob(lambdas[0]))(5) == 6


def test_values_that_are_closed_over_count() -> None:
    def make(n: int) -> Callable[[], int]:
        return lambda: n

    table = FunctionTable()
    numbers = [table.number(make(i % 3)) for i in range(12)]
    assert len(set(numbers)) == 3
    for i, number in enumerate(numbers):
        assert load_function(table.blob(number))() == i % 3


def test_ten_thousand_functions_that_do_not_live_long() -> None:
    """The place of one in memory is taken by another: no number goes to the wrong one."""
    table = FunctionTable()
    for i in range(10_000):
        func = functools.partial(plus, i % 50)
        assert load_function(table.blob(table.number(func)))() == i % 50 + 1
    assert len(table._blobs) == 50
    assert len(table._numbers) <= 4096


def test_a_function_that_cannot_be_sent_leaves_the_table_as_it_was() -> None:
    table = FunctionTable()
    lock = threading.Lock()
    for _ in range(2):
        with pytest.raises(SerializationError):
            table.number(lambda: lock)
    assert table.number(plus) == 0
