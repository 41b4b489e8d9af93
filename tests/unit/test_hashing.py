# SPDX-License-Identifier: BSD-3-Clause
"""Digests: the same content gives the same digest, and nothing else does."""

from __future__ import annotations

import collections
import datetime as dt
import enum
import functools
import math
import os
import subprocess
import sys
import textwrap
import threading
import types
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdag.dataflow import hashing
from ssdag.dataflow.hashing import call_key, digest, function_digest, signature_of
from ssdag.errors import SerializationError
from ssdag.references import Reference


class Point(NamedTuple):
    x: int
    y: int


class Other(NamedTuple):
    x: int
    y: int


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Bits(enum.Flag):
    A = 1
    B = 2


@dataclass
class Particle:
    mass: float
    tags: set[str] = field(default_factory=set)
    next: Any = None


@dataclass(frozen=True, slots=True)
class Slotted:
    a: int


class Box:
    def __init__(self, value: Any) -> None:
        self.value = value


# -- what equal means: a plain model to compare with ----------------------------------


def model(value: Any) -> Any:
    """Rewrite a value so that `==` of two models means "the same, types included"."""
    kind = type(value).__name__
    if isinstance(value, float):
        return kind, "nan" if math.isnan(value) else value.hex()
    if isinstance(value, complex):
        return kind, model(value.real), model(value.imag)
    if isinstance(value, (list, tuple)):
        return kind, tuple(model(v) for v in value)
    if isinstance(value, (set, frozenset)):
        return kind, frozenset(model(v) for v in value)
    if isinstance(value, dict):
        return kind, frozenset((model(k), model(v)) for k, v in value.items())
    if isinstance(value, np.ndarray):
        return kind, value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, bytearray):
        return kind, bytes(value)
    if isinstance(value, Decimal):
        return kind, str(value)
    return kind, value


plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf]),
    st.floats(),
    st.complex_numbers(max_magnitude=3),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.binary(max_size=2).map(bytearray),
    st.fractions(max_denominator=5),
    st.decimals(allow_nan=False, places=1),
    st.dates(),
    st.timedeltas(),
    st.datetimes(),
    st.uuids(),
    st.sampled_from(list(Colour)),
    st.builds(Point, st.integers(0, 2), st.integers(0, 2)),
    st.builds(PurePosixPath, st.sampled_from(["a", "b", "a/b"])),
    st.builds(range, st.integers(0, 4), st.integers(0, 4), st.integers(1, 3)),
    st.builds(
        lambda shape, kind: np.zeros(shape, kind),
        st.sampled_from([(), (0,), (1,), (2, 2), (4,)]),
        st.sampled_from(["<i4", ">i4", "f8", "?", "U2", "M8[s]", "M8[ms]"]),
    ),
)
hashable = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=2))
values = st.recursive(
    plain | st.frozensets(hashable, max_size=3) | st.sets(hashable, max_size=3),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(hashable, inner, max_size=3),
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(values, values)
def test_equal_values_and_only_those_have_equal_digests(one: Any, two: Any) -> None:
    assert (digest(one) == digest(two)) == (model(one) == model(two))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(hashable, plain, max_size=5), st.randoms())
def test_order_in_dicts_and_sets_does_not_matter(data: dict[Any, Any], random: Any) -> None:
    items = list(data.items())
    random.shuffle(items)
    assert digest(data) == digest(dict(items))
    keys = [k for k, _ in items]
    assert digest(set(data)) == digest(set(keys))


DIFFERENT: list[Any] = [
    1, 1.0, True, "1", b"1", bytearray(b"1"), 1 + 0j, Decimal(1), Fraction(1), np.int64(1),
    np.int32(1), np.float64(1.0), np.float32(1), np.bool_(True), np.array(1), np.array([1]),
    np.array([[1]]), np.array([1], ">i8"), np.array([1], "<i4"), np.array([1], object),
    [], (), {}, set(), frozenset(), "", b"", None, 0, 0.0, -0.0, False, [[]], ([],), [()],
    ["ab", "c"], ["a", "bc"], ["abc"], [1, [2]], [[1], 2], [1, 2], (1, 2), Point(1, 2),
    Other(1, 2), {1: 2}, {2: 1}, {1, 2}, frozenset({1, 2}), range(3), range(4), slice(3),
    slice(0, 3), Colour.RED, Colour.GREEN, Bits.A, Bits.A | Bits.B, Path("a"),
    PurePosixPath("a"), dt.date(2020, 1, 1), dt.datetime(2020, 1, 1),
    dt.datetime(2020, 1, 1, fold=1), dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.time(1),
    dt.timedelta(1), uuid.UUID(int=1), Particle(1.0), Particle(2.0), Particle(1.0, {"a"}),
    Slotted(1), Slotted(2), Box(1), Box(2), Box([1]), int, float, Point, len, print,
    functools.partial(int, base=2), functools.partial(int, base=3), collections.OrderedDict(),
    collections.OrderedDict([(1, 1), (2, 2)]), collections.OrderedDict([(2, 2), (1, 1)]),
    collections.defaultdict(int), collections.defaultdict(list), collections.deque([1]),
    collections.Counter("a"), np.dtype("i4"), np.dtype("i8"), np.dtype([("a", "i4")]),
    np.zeros(2, [("a", "i4")]), np.zeros(2, [("b", "i4")]), np.zeros(2, "M8[s]"),
    np.zeros(2, "M8[D]"), np.zeros(2, "S2"), np.zeros(2, "U2"), memoryview(b"1"), ..., math,
    "x".join, "y".join, np.ma.masked_array([1, 2], [True, False]), np.ma.masked_array([1, 2]),
]  # fmt: skip


def test_all_of_these_differ() -> None:
    digests = [digest(value) for value in DIFFERENT]
    assert len(set(digests)) == len(digests)
    assert [digest(value) for value in DIFFERENT] == digests


def test_stable_across_processes() -> None:
    code = textwrap.dedent(
        """
        import datetime, decimal, numpy as np, collections
        from ssdag.dataflow.hashing import digest, function_digest, call_key
        class T(set): pass
        class C:
            names = ("a", "b")
            def __init__(self): self.s = {"x", "y", "z"}; self.me = self
            def go(self): return {"q", "r"} and super().__init__
        def helper(x): return x in {"a", "b", "c"}
        def f(x, *, k={"u": {"v", "w"}}): return helper(x)
        v = [{"a", "b", "c", "d"}, frozenset("hello"), {"k": 1, "j": [2.5, None]}, C(), C,
             T("abc"), np.arange(6).reshape(2, 3), collections.Counter("hello"),
             datetime.datetime(2020, 1, 1), decimal.Decimal("1.5"), f, object(), 10**40,
             np.array(["a", {"x", "y"}], object), {("a", "b"): {"c"}}]
        print(digest(v).hex(), function_digest(f).hex(), call_key(b"f", ({"a", "b"},), {}).hex())
        """
    )
    seen = set()
    for seed in ("0", "1", "77"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        seen.add(subprocess.check_output([sys.executable, "-c", code], env=env, text=True))
    assert len(seen) == 1


@pytest.mark.parametrize("first", ["codehash", "hashing", "memo"])
def test_the_order_of_imports_does_not_matter(first: str) -> None:
    code = (
        f"import ssdag.dataflow.{first}\nfrom ssdag.dataflow.codehash import function_digest\n"
        "import numpy\ndef g(x): return x\ndef f(x, a=numpy.arange(3), g=g): return x\n"
        "print(function_digest(f).hex())"
    )
    wanted = code.replace(f"import ssdag.dataflow.{first}\n", "import numpy\n")
    one, two = (subprocess.check_output([sys.executable, "-c", c]) for c in (code, wanted))
    assert one == two
    other = code.replace("return x\ndef f", "return -x\ndef f")
    assert subprocess.check_output([sys.executable, "-c", other]) != one


def test_golden() -> None:
    # A checkpoint of an earlier release must stay useful: change these knowingly.
    value = [1, -1, 2**70, 1.5, "é", b"\0", None, (True,), {"b": 2, "a": {1, 2}}, range(3)]
    assert digest(value).hex() == "f86402100554a3be19deb65a3594fdd1a879b06f"
    assert digest(np.arange(3, dtype="<f4")).hex() == "23a5b22fcede7288241922fe30c3cd312b62d7d6"


def test_arrays_by_content_not_by_layout() -> None:
    array = np.arange(24.0).reshape(4, 6)
    same = [np.asfortranarray(array), np.arange(48.0).reshape(4, 12)[:, ::2] / 2 + 0, array[:]]
    assert {digest(a) for a in same} == {digest(array)}
    assert digest(array.T) != digest(array)
    assert digest(np.zeros((0, 3))) != digest(np.zeros((3, 0)))
    assert digest(np.zeros(3, "V0")) == digest(np.zeros(3, "V0"))


def test_padding_in_structured_arrays_is_not_content() -> None:
    aligned = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    one = np.frombuffer(b"\1" + b"\0" * 15, aligned)
    two = np.frombuffer(b"\1" + b"\7" * 7 + b"\0" * 8, aligned)
    assert digest(one) == digest(two)
    assert digest(one) != digest(np.zeros(1, aligned))
    assert digest(one[0]) == digest(two[0])


def test_memmap_is_its_array(tmp_path: Path) -> None:
    array = np.arange(5.0)
    np.save(tmp_path / "a.npy", array)
    assert digest(np.load(tmp_path / "a.npy", mmap_mode="r")) == digest(array)


def test_what_contains_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    table: dict[str, Any] = {}
    table["me"] = [table]
    for value in (loop, table):
        with pytest.raises(SerializationError, match=r"contains itself.*ignore_for_cache"):
            digest(value)
    # Objects may: a tree with links to the parent is ordinary.
    first, second = Particle(1.0), Particle(1.0)
    first.next, second.next = first, second
    assert digest(first) == digest(second)
    other = Particle(1.0, next=Particle(1.0))
    other.next.next = other
    assert digest(other) != digest(first)
    shared: list[int] = [1]
    assert digest([shared, shared]) == digest([[1], [1]])


def test_too_deep_and_not_picklable() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError, match="nested too deep"):
        digest(deep)
    while deep:  # free it without recursion
        deep = deep[0]
    with pytest.raises(SerializationError, match=r"lock.*ignore_for_cache"):
        digest([threading.Lock()])


class Ref(Reference):
    def __init__(self, value: Any) -> None:
        self.value = value

    def resolve(self) -> Any:
        return self.value

    def __ssdag_parts__(self) -> tuple[Any, ...]:
        return (self.value,)


def test_own_rules() -> None:
    class WithHash:
        def __init__(self, data: Any) -> None:
            self.lock = threading.Lock()
            self.data = data

        def __ssdag_hash__(self) -> Any:
            return self.data

    class FileLike:
        def fingerprint(self) -> bytes:
            return b"content"

    class Opaque:
        def __init__(self, n: int) -> None:
            self.n, self.lock = n, threading.Lock()

    assert digest(WithHash(b"1")) == digest(WithHash(b"1")) != digest(WithHash(b"2"))
    assert digest(FileLike()) == digest(FileLike())
    with pytest.raises(SerializationError, match="must be bytes, not str"):
        digest(WithHash("x"))
    assert digest(Ref([1])) == digest([1])
    with pytest.raises(SerializationError):
        digest(Opaque(1))
    hashing.register(Opaque)(lambda o: o.n)
    try:
        assert digest(Opaque(1)) == digest(Opaque(1)) != digest(Opaque(2))
    finally:
        hashing.forget(Opaque)


# -- functions -----------------------------------------------------------------------


def load(source: str, name: str = "made") -> types.ModuleType:
    module = types.ModuleType(name)
    exec(textwrap.dedent(source), module.__dict__)
    return module


BASE = '''
LIMIT = 5
def deepest(x): return x + 1
def helper(x): return deepest(x)
def f(x, y=2, *, k=3):
    """Doc."""
    return helper(x) + y + LIMIT
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("    return helper", "    # why\n\n    return   helper", True),
        ("Doc.", "Other text.", True),
        ("LIMIT = 5\n", "LIMIT = 5\nUNUSED = 3\n", True),
        ("LIMIT = 5\n", "\n\nLIMIT = 5\n", True),
        ("+ y", "- y", False),
        ("y=2", "y=3", False),
        ("k=3", "k=4", False),
        ("LIMIT = 5", "LIMIT = 6", False),
        ("x + 1", "x + 2", False),
        ("helper(x) + y", "helper(y) + x", False),
        ("(x, y=2", "(y, x=2", False),
    ],
)
def test_edits_of_a_function(old: str, new: str, same: bool) -> None:
    before = function_digest(load(BASE).f)
    assert old in BASE
    assert (function_digest(load(BASE.replace(old, new)).f) == before) is same


def test_closures_lambdas_recursion() -> None:
    def make(n: Any) -> Any:
        return lambda x: x + n

    one, two = make(1), make(2)
    assert function_digest(one) == function_digest(make(1)) != function_digest(two)
    left, right = (lambda x: x + 1), (lambda x: x + 2)
    assert function_digest(left) != function_digest(right)

    def recursive() -> Any:
        def fact(n: int) -> int:
            return n * fact(n - 1) if n else 1

        return fact

    assert function_digest(recursive()) == function_digest(recursive())
    with pytest.raises(SerializationError, match="lock"):
        function_digest(make(threading.Lock()))
    even_odd = "def f(n): return n == 0 or g(n - 1)\ndef g(n): return n and f(n - 1)"
    assert function_digest(load(even_odd).f) == function_digest(load(even_odd).f)


def test_exception_handling_is_part_of_the_body() -> None:
    source = "def f(x):\n    try:\n        return g(x)\n    except {}:\n        return 0\n"
    one, two = (function_digest(load(source.format(e)).f) for e in ("KeyError", "IndexError"))
    assert one != two


class Caller:
    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, x: int) -> int:
        return x + self.n

    def method(self, x: int) -> int:
        return x * self.n

    @staticmethod
    def static(x: int) -> int:
        return x


def test_other_callables() -> None:
    callables: list[Any] = [
        Caller(1), Caller(2), Caller(1).method, Caller(2).method, Caller.static, Caller.method,
        Caller, math.sin, math.cos, functools.partial(math.pow, 2), functools.partial(math.pow, 3),
        functools.lru_cache(math.sin), functools.lru_cache(math.cos), str.upper, "a".upper,
        np.sin, np.cos,
    ]  # fmt: skip
    digests = [function_digest(c) for c in callables]
    assert len(set(digests)) == len(digests)
    assert [function_digest(c) for c in callables] == digests


def test_editing_a_users_class_changes_its_instances(tmp_path: Path) -> None:
    # A class of __main__ is the user's own.
    seen = []
    for body in ("return 1", "return 2", "return 1  # a comment"):
        script = tmp_path / "script.py"
        script.write_text(
            "from ssdag.dataflow.hashing import digest\n"
            f"class Model:\n    def predict(self):\n        {body}\n"
            "print(digest(Model()).hex())\n"
        )
        seen.append(subprocess.check_output([sys.executable, script], text=True))
    assert seen[0] == seen[2] != seen[1]


# -- calls ---------------------------------------------------------------------------


def target(x: Any, y: Any = 2, *rest: Any, k: Any = 3, **more: Any) -> None:
    pass


def key(*args: Any, **kwargs: Any) -> bytes:
    return call_key(b"fn", args, kwargs, frozenset({"log"}), signature_of(target))


def test_one_call_spelled_in_different_ways() -> None:
    assert key(1) == key(x=1) == key(1, 2) == key(1, y=2, k=3) == key(1, log="anything")
    different = [key(1), key(2), key(1, 3), key(1, 2, 3), key(1, k=4), key(1, z=1), key(1, rest=3)]
    assert len(set(different)) == len(different)
    assert call_key(b"a", (1,), {}) != call_key(b"b", (1,), {})


def test_ignored_parameters_and_calls_that_do_not_fit() -> None:
    signature = signature_of(target)
    ignore = frozenset({"y", "k"})
    one = call_key(b"f", (1, 5), {"k": 9}, ignore, signature)
    assert one == call_key(b"f", (1,), {}, ignore, signature)
    assert one != call_key(b"f", (2,), {}, ignore, signature)
    bad = call_key(b"f", (), {}, ignore, signature)  # the body will complain
    assert bad != one
    assert len(call_key(b"f", (1,), {"b": 1}, frozenset(), None)) == hashing.SIZE
    assert signature_of(dict.fromkeys) is None or callable(dict.fromkeys)
