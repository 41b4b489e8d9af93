# SPDX-License-Identifier: BSD-3-Clause
"""Digests of values: two calls with equal digests are the same call.

The digest is of the *content*, the same in every process and run, and of the type:
``1``, ``1.0``, ``True`` and ``"1"`` differ, and so do a list and a tuple. The rules:

* dicts and sets: the order does not matter (it does for an ``OrderedDict``);
* floats: all NaN are one value; ``-0.0`` is not ``0.0`` (``1/x`` tells them apart).
  Inside numpy arrays and scalars the bytes count, so that two NaN of different bits
  differ;
* arrays: dtype with byte order, shape, elements; not the memory layout, nor the
  padding between the fields of a structured dtype;
* ``Decimal("1.0")`` and ``Decimal("1.00")`` differ, aware datetimes of one instant in
  two time zones too: equal is not the same;
* a reference stands for its value; an object with ``fingerprint() -> bytes`` (a file)
  or ``__ssdag_hash__() -> bytes`` for what that returns;
* functions and classes: see :mod:`ssdag.dataflow.codehash`;
* any other object: its class and what ``pickle`` would save of it (``__reduce_ex__``),
  walked by these same rules. Where that cannot be walked, the bytes that cloudpickle
  makes: equal bytes are an equal value, but an equal value may give other bytes, which
  costs a second run of the task and never a wrong result.

A type can have its own rule: ``@register(MyType)``.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from ssdag.dataflow.codehash import function_digest
from ssdag.dataflow.encoding import SIZE, Walk, forget, register

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def digest(value: Any) -> bytes:
    """Return the 20-byte digest of a value.

    Raises
    ------
    SerializationError
        A container contains itself, is nested too deep, or holds something that
        cannot be pickled; the text says where, and what can be done.
    """
    hasher = blake2b(digest_size=SIZE)
    Walk().feed(hasher.update, value)
    return hasher.digest()


# -- calls ---------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def signature_of(fn: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature to bind calls of `fn` with, or None if it has none."""
    try:
        return inspect.signature(fn)
    except (TypeError, ValueError):
        return None


def call_key(
    fn_digest: bytes,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    ignore: frozenset[str] = frozenset(),
    signature: inspect.Signature | None = None,
) -> bytes:
    """Return the memo key of a call.

    Parameters
    ----------
    fn_digest : bytes
        From :func:`~ssdag.dataflow.codehash.function_digest`.
    args, kwargs
        What the body is called with; futures replaced by their values.
    ignore : frozenset of str
        Parameters that are left out.
    signature : inspect.Signature, optional
        From :func:`signature_of`. With it, ``f(1)``, ``f(x=1)`` and ``f(1, y=2)`` where
        2 is the default of y, are one call. Without it, or where the arguments do not
        fit (the body will say so), positions and names are taken as they are, and
        `ignore` applies to keyword arguments only.

    Returns
    -------
    bytes
        20 bytes.

    Raises
    ------
    SerializationError
        See :func:`digest`.
    """
    hasher = blake2b(fn_digest, digest_size=SIZE, person=b"ssdag call")
    walk = Walk()
    named: Mapping[str, Any] = kwargs
    if signature is not None:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            pass
        else:
            bound.apply_defaults()
            args, named = (), bound.arguments
            for name, parameter in signature.parameters.items():
                if parameter.kind is inspect.Parameter.VAR_KEYWORD and ignore:
                    rest = {k: v for k, v in named[name].items() if k not in ignore}
                    named = {**named, name: rest}
    if args:
        walk.feed(hasher.update, args)
    for name in sorted(named):
        if name not in ignore:
            walk.feed(hasher.update, name)
            walk.feed(hasher.update, named[name])
    return hasher.digest()


__all__ = ["SIZE", "call_key", "digest", "forget", "function_digest", "register", "signature_of"]
