# SPDX-License-Identifier: BSD-3-Clause
"""Values and exceptions to bytes and back, also those of classes that make it hard."""

from __future__ import annotations

import copyreg
import itertools
import os
import pickle
import subprocess
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdag.errors import RemoteError, SerializationError, WorkerLostError
from ssdag.wire.serialize import Encoder, dump_error, dumps, load_error, loads, name_culprit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Refuses:
    def __reduce__(self) -> Any:
        raise TypeError("I stay here")


class RefusesInWords(Exception):
    """Its message cannot be shown either."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class RefusesAsWeDo:
    def __reduce__(self) -> Any:
        raise SerializationError("in my own words")


class RaisesThat:
    def __reduce__(self) -> Any:
        raise RefusesInWords


# -- values -------------------------------------------------------------------------------


class Collector:
    """Takes buffers of a size out of band, as an executor does."""

    def __init__(self, least: int) -> None:
        self.least = least
        self.buffers: list[bytes] = []
        self.resets = 0

    def accept(self, buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if len(raw) < self.least:
            return True
        self.buffers.append(bytes(raw))
        return False

    def reset(self) -> None:
        self.resets += 1
        self.buffers.clear()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 300), max_size=8),
    least=st.sampled_from([1, 100, 1000]),
    order=st.sampled_from("CF"),
)
def test_buffers_out_of_band(sizes: list[int], least: int, order: Any) -> None:
    arrays = [np.arange(2.0 * n).reshape(2, n).copy(order) for n in sizes]
    collector = Collector(least)
    data = Encoder(collector.accept, collector.reset).dumps(arrays)
    assert len(collector.buffers) == sum(16 * n >= least for n in sizes if n)
    back = loads(data, [bytearray(b) for b in collector.buffers])
    for one, other in zip(arrays, back, strict=True):
        assert np.array_equal(one, other)
        assert one.flags.f_contiguous == other.flags.f_contiguous


def test_a_second_attempt_forgets_the_buffers_of_the_first() -> None:
    """The lambda makes pickle fail after it has given the array away."""
    array = np.arange(100.0)
    collector = Collector(1)
    data = Encoder(collector.accept, collector.reset).dumps([array, lambda: 5])
    assert collector.resets == 1
    assert collector.buffers == [array.tobytes()]
    back, function = loads(data, [bytearray(collector.buffers[0])])
    assert np.array_equal(back, array)
    assert function() == 5


@pytest.mark.parametrize("value", [Refuses(), [Refuses()], RaisesThat(), threading.Lock()])
def test_what_cannot_be_pickled_is_named(value: object) -> None:
    with pytest.raises(SerializationError, match=f"a {type(value).__name__} cannot be pickled"):
        dumps(value)


def test_a_refusal_of_our_own_kind_keeps_its_words() -> None:
    with pytest.raises(SerializationError, match=r"^in my own words$"):
        dumps([RefusesAsWeDo()])


def test_the_culprit_is_found() -> None:
    assert name_culprit((1, Refuses()), {"a": 2}) == "argument 1 (a Refuses)"
    assert name_culprit((1,), {"a": 2, "b": [Refuses()]}) == "argument 'b' (a list)"
    assert name_culprit((1,), None) == "the arguments"


# -- exceptions ---------------------------------------------------------------------------


def back(error: BaseException) -> BaseException:
    return load_error(dump_error(error))


def raised(function: Callable[[], object]) -> BaseException:
    """Return what a function raises, with its traceback."""
    try:
        function()
    except BaseException as error:
        return error
    pytest.fail("it did not raise")


def names(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


class Odd(Exception):
    """Its ``__init__`` takes other arguments than it hands on."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"code {code} at {where}")
        self.code = code
        self.where = where


class OddFile(FileNotFoundError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "no such thing", path)


class OddNew(Exception):
    def __new__(cls, first: int, second: int) -> OddNew:
        return super().__new__(cls, first)

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first + second)


class OddExit(SystemExit):
    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(code)
        self.why = why


class OddGroup(ExceptionGroup[Exception]):
    def __new__(cls, count: int) -> OddGroup:
        return super().__new__(cls, "odd", [Odd(i, where="group") for i in range(count)])


class Locked(Exception):
    """It cannot be sent."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class LoadsAsAnother(Exception):
    """What its own ``__reduce__`` gives cannot be loaded."""

    def __reduce__(self) -> Any:
        return int, ("none",)


def with_fields() -> ValueError:
    error = ValueError("a", 1)
    error.color = "red"  # type: ignore[attr-defined]
    error.add_note("first")
    error.add_note("second")
    return error


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        ValueError("text", 3, {"a": [1]}),
        KeyError("k"),
        FileNotFoundError(2, "no", "name", None, "other"),
        UnicodeDecodeError("utf8", b"\xff", 0, 1, "bad"),
        StopIteration(7),
        SystemExit(3),
        KeyboardInterrupt(),
        ImportError("m", name="n", path="p"),
        Odd(7, where="there"),
        OddFile("here"),
        OddNew(1, 2),
        OddExit(4, why="so"),
        LoadsAsAnother("text"),
        WorkerLostError("lost", exit_code=-9, task_id=4),
        with_fields(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_type_arguments_and_attributes(error: BaseException) -> None:
    twin = back(error)
    assert type(twin) is type(error)
    assert twin.args == error.args
    assert str(twin) == str(error)
    assert twin.__dict__ == error.__dict__
    for name in ("errno", "filename", "filename2", "value", "code", "name", "path", "reason"):
        assert getattr(twin, name, None) == getattr(error, name, None)


@pytest.mark.parametrize(
    "error",
    [
        UnicodeDecodeError("utf8", b"\xff", 0, 1, "bad"),
        StopIteration(7),
        SystemExit(3),
        Odd(7, where="there"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_package_that_pickles_exceptions_its_own_way(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As distributed does by importing tblib.pickling_support."""
    from tblib import pickling_support

    monkeypatch.setitem(copyreg.dispatch_table, type(error), pickling_support.pickle_exception)
    test_type_arguments_and_attributes(error)


def test_an_array_among_the_arguments() -> None:
    twin = back(ValueError(np.arange(3)))
    assert type(twin) is ValueError
    assert np.array_equal(twin.args[0], np.arange(3))


def test_a_local_class() -> None:
    class LocalError(Exception):
        pass

    twin = back(LocalError("x"))
    assert type(twin) is LocalError


def deep(levels: int) -> None:
    if not levels:
        raise Odd(1, where="bottom")
    deep(levels - 1)


def test_the_traceback_is_whole() -> None:
    error = raised(lambda: deep(5))
    twin = back(error)
    assert names(twin) == names(error)
    assert names(twin)[-6:] == ["deep"] * 6
    shown = traceback.extract_tb(twin.__traceback__)[-1]
    assert (shown.filename, shown.line) == (__file__, 'raise Odd(1, where="bottom")')


def test_a_very_deep_traceback() -> None:
    limit = sys.getrecursionlimit()
    error = raised(lambda: deep(limit // 2))
    assert len(names(back(error))) == len(names(error))


def chained(first: BaseException, second: BaseException, *, how: str) -> BaseException:
    """Raise the second while the first is handled; return it."""

    def run() -> None:
        try:
            raise first
        except BaseException:
            if how == "cause":
                raise second from first
            if how == "none":
                raise second from None
            raise second  # noqa: B904

    return raised(run)


@pytest.mark.parametrize("how", ["cause", "context", "none"])
def test_what_led_to_it(how: str) -> None:
    twin = back(chained(Odd(1, where="in"), ValueError("out"), how=how))
    assert type(twin) is ValueError
    cause, context = twin.__cause__, twin.__context__
    if how == "none":
        assert cause is None
        assert context is None
        return
    linked = cause if how == "cause" else context
    assert isinstance(linked, Odd)
    assert linked.where == "in"
    assert names(linked) == ["run"]
    assert (cause is None) == (how == "context")
    shown = "".join(traceback.format_exception(twin))
    words = {"cause": "direct cause", "context": "During handling"}
    assert words[how] in shown


def test_circles_and_long_chains_end() -> None:
    first, second = ValueError("a"), KeyError("b")
    first.__cause__, second.__cause__ = second, first
    twin = back(first)
    assert isinstance(twin.__cause__, KeyError)
    assert twin.__cause__.__cause__ is None
    errors = [ValueError(i) for i in range(1000)]
    for error, cause in itertools.pairwise(errors):
        error.__cause__ = cause
    link: BaseException | None = back(errors[0])
    length = 0
    while link is not None:
        assert link.args == (length,)
        link = link.__cause__
        length += 1
    assert length == 20


def test_a_cause_that_cannot_be_sent_does_not_cost_the_error_its_type() -> None:
    """Whoever catches ValueError must catch it, whatever led to it."""
    for bad in (Locked("held"), ValueError(Refuses())):
        twin = back(chained(bad, ValueError("outer"), how="cause"))
        assert type(twin) is ValueError
        cause = twin.__cause__
        assert isinstance(cause, RemoteError)
        assert type(bad).__name__ in cause.type_name
        assert names(cause) == ["run"]
    twin = back(chained(ValueError("inner"), Locked("held"), how="cause"))
    assert isinstance(twin, RemoteError)
    assert type(twin.__cause__) is ValueError
    assert "ValueError: inner" in twin.traceback_text


@pytest.mark.parametrize("bad", [Locked("held"), ValueError("held", Refuses())])
def test_what_cannot_be_sent_comes_as_text(bad: BaseException) -> None:
    def fail_here() -> None:
        raise bad

    twin = back(raised(fail_here))
    assert isinstance(twin, RemoteError)
    assert twin.type_name.endswith(type(bad).__name__)
    assert "held" in str(twin)
    assert "fail_here" in twin.traceback_text


def test_one_whose_message_cannot_be_shown() -> None:
    twin = back(RefusesInWords(threading.Lock()))
    assert isinstance(twin, RemoteError)
    assert twin.type_name.endswith("RefusesInWords")


# -- groups -------------------------------------------------------------------------------


def test_groups_with_all_that_their_members_have() -> None:
    inner = raised(lambda: deep(2))
    inner.add_note("a note")
    member = chained(KeyError("k"), ValueError("v"), how="cause")
    group = raised(
        lambda: raise_(ExceptionGroup("g", [as_(inner), ExceptionGroup("h", [as_(member)])]))
    )
    twin = back(group)
    assert isinstance(twin, ExceptionGroup)
    assert (type(twin), twin.message) == (ExceptionGroup, "g")
    assert names(twin) == names(group)
    odd, nested = twin.exceptions
    assert isinstance(odd, Odd)
    assert odd.where == "bottom"
    assert odd.__notes__ == ["a note"]
    assert names(odd)[-1] == "deep"
    assert isinstance(nested, ExceptionGroup)
    assert isinstance(nested.exceptions[0], ValueError)
    assert isinstance(nested.exceptions[0].__cause__, KeyError)
    assert isinstance(twin.subgroup(ValueError), ExceptionGroup)


def raise_(error: BaseException) -> None:
    raise error


def as_(error: BaseException) -> Exception:
    assert isinstance(error, Exception)
    return error


def test_a_member_that_cannot_be_sent_does_not_cost_the_others_theirs() -> None:
    twin = back(ExceptionGroup("g", [Locked("held"), ValueError("v")]))
    assert isinstance(twin, ExceptionGroup)
    bad, good = twin.exceptions
    assert isinstance(bad, RemoteError)
    assert type(good) is ValueError


def test_groups_of_their_own_class_and_of_exits() -> None:
    twin = back(OddGroup(3))
    assert isinstance(twin, OddGroup)
    assert [e.code for e in twin.exceptions if isinstance(e, Odd)] == [0, 1, 2]
    twin = back(BaseExceptionGroup("b", [KeyboardInterrupt(), ValueError()]))
    assert type(twin) is BaseExceptionGroup
    assert [type(e) for e in twin.exceptions] == [KeyboardInterrupt, ValueError]


# -- the other side -----------------------------------------------------------------------


def test_nonsense_is_an_error_too() -> None:
    good = dump_error(ValueError("x"))
    for data in (b"", b"nonsense", good[:-3], pickle.dumps(3), pickle.dumps([])):
        twin = load_error(data)
        assert isinstance(twin, RemoteError)
        assert "could not be read" in str(twin)


FROM_MAIN = """
import sys
from ssdag.wire.serialize import dump_error
class Mine(Exception):
    def __init__(self, code, *, hint):
        super().__init__(f"code {code}")
        self.code, self.hint = code, hint
class Plain(ValueError):
    pass
def body():
    try:
        raise Plain("inner")
    except Plain as error:
        raise Mine(5, hint="try") from error
try:
    body()
except Mine as error:
    sys.stdout.buffer.write(dump_error(error))
"""

MODULE = """
class Elsewhere(Exception):
    pass
"""


def run(script: str, **env: str) -> bytes:
    return subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env},
    ).stdout


def test_classes_of_another_main_arrive_by_value() -> None:
    twin = load_error(run(FROM_MAIN))
    assert type(twin).__name__ == "Mine"
    assert str(twin) == "code 5"
    assert (twin.code, twin.hint) == (5, "try")  # type: ignore[attr-defined]
    assert isinstance(twin.__cause__, ValueError)
    assert type(twin.__cause__).__name__ == "Plain"
    assert names(twin)[-1] == "body"


def test_a_class_that_is_not_to_be_had_here(tmp_path: Path) -> None:
    (tmp_path / "module_of_the_worker.py").write_text(MODULE)
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from module_of_the_worker import Elsewhere
from ssdag.wire.serialize import dump_error
try:
    raise ValueError("outer") from Elsewhere("inner")
except ValueError as error:
    sys.stdout.buffer.write(dump_error(error))
"""
    twin = load_error(run(script))
    assert type(twin) is ValueError
    assert isinstance(twin.__cause__, RemoteError)
    assert twin.__cause__.type_name == "module_of_the_worker.Elsewhere"
