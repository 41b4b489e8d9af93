# SPDX-License-Identifier: BSD-3-Clause
"""Keys of a shared dictionary as keys of a connector, and back.

A text is its own key, so that other programs find it; one that begins with ``#``, ``(`` or
``\\`` gets a ``\\`` in front. A number is ``#`` and its digits. A tuple is its JSON list in
round brackets: ``(3, "u")``.
"""

from __future__ import annotations

import json
import operator
from typing import TypeAlias, Union

from ssdag.errors import DataFormatError

#: What may be a key: texts, whole numbers, and tuples of these.
Key: TypeAlias = Union[str, int, "tuple[Key, ...]"]

#: A key's longest text, in bytes of UTF-8; the rest of a connector's key is for names.
LONGEST_KEY = 100


def encode(key: object) -> str:
    """Return the connector's key of a dictionary's key.

    Raises
    ------
    DataFormatError
        It is of another type, empty, or too long.
    """
    if isinstance(key, str):
        text = "\\" + key if key.startswith(("#", "(", "\\")) else key
    elif isinstance(key, tuple):
        text = f"({json.dumps(_plain(key), ensure_ascii=False)[1:-1]})"
    else:
        text = f"#{_plain(key)}"
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise DataFormatError(f"key {key!r:.80} is no valid Unicode: {error.reason}") from error
    if not 0 < size <= LONGEST_KEY:
        raise DataFormatError(
            f"key {key!r:.80} has {size} bytes in UTF-8; 1 to {LONGEST_KEY} are possible"
        )
    return text


def _plain(key: object) -> object:
    """Return a key's parts as JSON has them."""
    if isinstance(key, str):
        return key
    if isinstance(key, tuple):
        return [_plain(part) for part in key]
    try:
        if not isinstance(key, bool):  # which equals 0 or 1, and does not look so
            return operator.index(key)  # type: ignore[arg-type]  # numbers of numpy too
    except TypeError:
        pass
    raise DataFormatError(
        "a key is a text, a whole number or a tuple of these, not "
        f"{type(key).__name__}: {key!r:.80}"
    )


def decode(text: str) -> Key | None:
    """Return the dictionary's key; None for a text that :func:`encode` does not return."""
    try:
        key: Key
        if text.startswith("#"):
            key = int(text[1:])
        elif text.startswith("("):
            key = _tuples(json.loads(f"[{text[1:-1]}]"))
        else:
            key = text.removeprefix("\\")
        return key if encode(key) == text else None
    except ValueError:
        return None


def _tuples(value: object) -> Key:
    if isinstance(value, list):
        return tuple(_tuples(part) for part in value)
    assert isinstance(value, str | int)
    return value
