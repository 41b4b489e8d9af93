# SPDX-License-Identifier: BSD-3-Clause
"""Turns values into unambiguous bytes for a hash; the rules are in :mod:`ssdag.dataflow.hashing`.

Every encoding begins with a tag and says its own length, so that two different values
never give the same stream of bytes.
"""

from __future__ import annotations

import copyreg
import enum
import struct
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from math import nan
from typing import TYPE_CHECKING, Any, TypeAlias

import cloudpickle

from ssdag.errors import SerializationError
from ssdag.references import Reference

if TYPE_CHECKING:
    from collections.abc import Iterable

Update: TypeAlias = Callable[[Any], object]
#: What encodes a value of one type: (update, value, walk).
Feeder: TypeAlias = "Callable[[Update, Any, Walk], None]"

#: Bytes of a digest.
SIZE = 20

_FEEDERS: dict[type, Feeder] = {}
#: Asked in turn for a type that has no encoding yet; filled by :mod:`.codehash`.
FINDERS: list[Callable[[type], Feeder | None]] = []
_RULES: dict[type, Callable[[Any], Any]] = {}


def register(cls: type) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Give a type, and its subclasses, their own rule.

    The decorated function takes the object and returns what stands for it: bytes, or
    any other value that can be digested. The class's name goes into the digest too.

    Examples
    --------
    >>> @register(Molecule)                                         # doctest: +SKIP
    ... def _(molecule): return molecule.to_smiles()
    """

    def keep(rule: Callable[[Any], Any]) -> Callable[[Any], Any]:
        _RULES[cls] = rule
        return rule

    return keep


def forget(cls: type) -> None:
    """Undo :func:`register`."""
    del _RULES[cls]


def feeder(*types: type) -> Callable[[Feeder], Feeder]:
    """Make the decorated function encode values of exactly these types."""

    def keep(function: Feeder) -> Feeder:
        for cls in types:
            _FEEDERS[cls] = function
        return function

    return keep


class Walk:
    """One traversal; knows the containers, objects and code that it is inside of."""

    __slots__ = ("code", "inside")

    def __init__(self, code: frozenset[Any] = frozenset()) -> None:
        self.inside: dict[int, int] = {}
        #: Functions and classes whose digest is being made.
        self.code = code

    def feed(self, update: Update, value: Any) -> None:
        """Add a value to a hash."""
        cls = type(value)
        if _RULES:
            for base in cls.__mro__:
                if base in _RULES:
                    sized(update, b"R", class_name(cls))
                    self.feed(update, _RULES[base](value))
                    return
        function = _FEEDERS.get(cls)
        if function is None:
            function = _find(cls)
        try:
            function(update, value, self)
        except RecursionError:
            raise SerializationError(
                "an argument is nested too deep for a memo key: pass it in a flatter form, "
                "or leave it out of the key with ignore_for_cache"
            ) from None

    def digest(self, value: Any) -> bytes:
        """Return the digest of a part."""
        hasher = blake2b(digest_size=SIZE)
        self.feed(hasher.update, value)
        return hasher.digest()

    def enter(self, value: Any) -> None:
        """Note that the walk is inside a container."""
        if id(value) in self.inside:
            raise SerializationError(
                f"a {type(value).__name__} that contains itself cannot be part of a memo key: "
                "leave the argument out of it with ignore_for_cache"
            )
        self.inside[id(value)] = len(self.inside)

    def leave(self, value: Any) -> None:
        """Undo :meth:`enter`."""
        del self.inside[id(value)]

    def back(self, update: Update, value: Any) -> bool:
        """Encode an object that the walk is inside of as so many levels up."""
        level = self.inside.get(id(value))
        if level is None:
            return False
        sized(update, b"^", str(len(self.inside) - level).encode())
        return True


def sized(update: Update, tag: bytes, data: bytes | memoryview) -> None:
    """Add a tag, the length and the bytes."""
    update(tag + len(data).to_bytes(8, "little"))
    update(data)


def class_name(cls: type) -> bytes:
    """Return module and qualified name."""
    return f"{cls.__module__}.{cls.__qualname__}".encode("utf-8", "surrogatepass")


# -- plain values --------------------------------------------------------------------


@feeder(type(None), type(...), type(NotImplemented))
def _singleton(update: Update, value: Any, walk: Walk) -> None:
    sized(update, b"N", repr(value).encode())


@feeder(bool)
def _bool(update: Update, value: bool, walk: Walk) -> None:
    update(b"T" if value else b"F")


@feeder(int)
def _int(update: Update, value: int, walk: Walk) -> None:
    size = (value.bit_length() >> 3) + 1
    update(b"i" + size.to_bytes(8, "little") + value.to_bytes(size, "little", signed=True))


@feeder(float)
def _float(update: Update, value: float, walk: Walk) -> None:
    update(b"f" + _bits(value))


@feeder(complex)
def _complex(update: Update, value: complex, walk: Walk) -> None:
    update(b"c" + _bits(value.real) + _bits(value.imag))


def _bits(value: float) -> bytes:
    return struct.pack("<d", value if value == value else nan)


@feeder(str)
def _str(update: Update, value: str, walk: Walk) -> None:
    sized(update, b"s", value.encode("utf-8", "surrogatepass"))


@feeder(bytes, bytearray)
def _bytes(update: Update, value: bytes | bytearray, walk: Walk) -> None:
    sized(update, b"b" if type(value) is bytes else b"B", memoryview(value))


# -- containers ----------------------------------------------------------------------


@feeder(list, tuple)
def _sequence(update: Update, value: list[Any] | tuple[Any, ...], walk: Walk) -> None:
    _items(update, b"l" if type(value) is list else b"t", value, walk)


def _items(update: Update, tag: bytes, value: Any, walk: Walk) -> None:
    walk.enter(value)
    update(tag + len(value).to_bytes(8, "little"))
    feed = walk.feed
    for item in value:
        feed(update, item)
    walk.leave(value)


def _namedtuple(update: Update, value: Any, walk: Walk) -> None:
    sized(update, b"n", class_name(type(value)))
    walk.feed(update, value._fields)
    _items(update, b"t", value, walk)


def unordered(update: Update, tag: bytes, digests: Iterable[bytes]) -> None:
    """Add digests so that their order does not matter."""
    sized(update, tag, b"".join(sorted(digests)))


@feeder(set, frozenset)
def _set(update: Update, value: set[Any] | frozenset[Any], walk: Walk) -> None:
    walk.enter(value)
    unordered(update, b"e" if type(value) is set else b"z", map(walk.digest, value))
    walk.leave(value)


def _set_subclass(update: Update, value: Any, walk: Walk) -> None:
    # pickle saves its elements as a list, whose order changes from process to process.
    sized(update, b"E", class_name(type(value)))
    walk.enter(value)
    unordered(update, b"e", map(walk.digest, value))
    walk.feed(update, getattr(value, "__dict__", None))
    walk.leave(value)


@feeder(dict)
def _dict(update: Update, value: dict[Any, Any], walk: Walk) -> None:
    walk.enter(value)
    unordered(update, b"d", pairs(value.items(), walk))
    walk.leave(value)


def pairs(items: Iterable[tuple[Any, Any]], walk: Walk) -> Iterable[bytes]:
    """Return one digest for each key with its value."""
    for key, item in items:
        hasher = blake2b(digest_size=SIZE)
        walk.feed(hasher.update, key)
        walk.feed(hasher.update, item)
        yield hasher.digest()


@feeder(range)
def _range(update: Update, value: range, walk: Walk) -> None:
    # As ranges compare: what they yield counts.
    update(b"r")
    walk.feed(update, (len(value), value[0] if value else 0, value.step if value[1:] else 0))


@feeder(slice)
def _slice(update: Update, value: slice, walk: Walk) -> None:
    update(b":")
    walk.feed(update, (value.start, value.stop, value.step))


def _enum(update: Update, value: enum.Enum, walk: Walk) -> None:
    # By name, so that renumbering an auto() does not matter; a combination of flags
    # has a value only.
    sized(update, b"m", class_name(type(value)))
    alone = value.name is not None and value.name in type(value).__members__
    walk.feed(update, value.name if alone else value.value)


# -- everything else -----------------------------------------------------------------


def _find(cls: type) -> Feeder:
    """Choose how a type without an own encoding is encoded, and remember it."""
    function: Feeder
    if "__ssdag_hash__" in dir(cls):
        function = _own_hash
    elif issubclass(cls, Reference):
        function = _reference
    elif callable(getattr(cls, "fingerprint", None)):
        function = _fingerprint
    elif issubclass(cls, enum.Enum):
        function = _enum
    elif issubclass(cls, tuple) and hasattr(cls, "_fields"):
        function = _namedtuple
    elif issubclass(cls, (set, frozenset)):
        function = _set_subclass
    else:
        found = (finder(cls) for finder in FINDERS)
        function = next((one for one in found if one is not None), _object)
    _FEEDERS[cls] = function
    return function


def _own_hash(update: Update, value: Any, walk: Walk) -> None:
    sized(update, b"H" + class_name(type(value)), _as_bytes(value.__ssdag_hash__(), value))


def _fingerprint(update: Update, value: Any, walk: Walk) -> None:
    sized(update, b"P" + class_name(type(value)), _as_bytes(value.fingerprint(), value))


def _as_bytes(data: Any, value: Any) -> bytes:
    if not isinstance(data, bytes):
        raise SerializationError(
            f"the memo hash of a {type(value).__name__} must be bytes, not {type(data).__name__}"
        )
    return data


def _reference(update: Update, value: Reference, walk: Walk) -> None:
    walk.feed(update, value.resolve())


def _object(update: Update, value: Any, walk: Walk) -> None:
    """Encode what pickle would save."""
    if walk.back(update, value):
        return
    cls = type(value)
    reducer = copyreg.dispatch_table.get(cls)
    walk.enter(value)
    try:
        parts = reducer(value) if reducer is not None else value.__reduce_ex__(4)
    except Exception as error:  # user code, or a type that says it cannot be pickled
        _pickled(update, value, error)
    else:
        sized(update, b"o", class_name(cls))
        if isinstance(parts, str):
            walk.feed(update, parts)
        else:
            _reduced(update, parts, isinstance(value, OrderedDict), walk)
    walk.leave(value)


def _reduced(update: Update, parts: tuple[Any, ...], ordered: bool, walk: Walk) -> None:
    make, args, state, items, entries = (*parts, None, None, None, None)[:5]
    walk.feed(update, make)
    walk.feed(update, args)
    walk.feed(update, state)
    walk.feed(update, None if items is None else list(items))
    if entries is None or ordered:
        walk.feed(update, None if entries is None else list(entries))
    else:
        unordered(update, b"d", pairs(entries, walk))


def _pickled(update: Update, value: Any, error: Exception) -> None:
    try:
        data = cloudpickle.dumps(value, protocol=4)
    except Exception:  # user code, or a type that says it cannot be pickled
        if isinstance(error, (SerializationError, RecursionError)):
            raise error from None
        raise SerializationError(
            f"a {type(value).__qualname__} cannot be part of a memo key ({error}): leave the "
            "argument out of it with ignore_for_cache, or give the type a rule with "
            "ssdag.dataflow.hashing.register"
        ) from error
    sized(update, b"p", data)
