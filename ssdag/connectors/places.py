# SPDX-License-Identifier: BSD-3-Clause
"""Keys of a connector as keys on a server, and back.

``store:{x}`` is where ``x`` is in a connector that is named ``store``, and ``a:x`` is at
``store:a:{x}``. The braces are a cluster's hash tag: what belongs to ``x`` is on one shard, so
that values are copied and claimed there. ``%``, ``{``, ``}`` and control characters are written
as ``%`` and two hexadecimal digits; nothing behind the colon is a lone ``%``.
"""

from __future__ import annotations

import re

from ssdag.connectors.base import literal_start

_SPECIAL = re.compile(r"[%{}\x00-\x1f\x7f]")
_QUOTED = re.compile(rb"%([0-9A-F]{2})")
_GLOB = re.compile(rb"([*?\[\]\\^])")


def place_of(name: str, key: str) -> bytes:
    """Return the key on the server; the connector's key was checked before."""
    before, colon, tag = _halves(key)
    return f"{name}:{_quote(before)}{colon}{{{_quote(tag) or '%'}}}".encode()


def key_of(name: str, place: bytes) -> str | None:
    """Return the connector's key; None for a key on the server that is none of its."""
    start = f"{name}:".encode()
    before, brace, tag = place[len(start) :].partition(b"{")
    if not (brace and place.startswith(start) and tag.endswith(b"}")):
        return None
    tag = tag[:-1]
    try:
        key = _unquote(before) + ("" if tag == b"%" else _unquote(tag))
        return key if key and place_of(name, key) == place else None
    except UnicodeError:
        return None


def matching(name: str, pattern: str) -> bytes:
    """Return the server's pattern for all that a connector's pattern can match, or more."""
    start = f"{name}:"
    before, colon, tag = _halves(literal_start(pattern))
    if colon:
        start += f"{_quote(before)}:{{{_quote(tag)}"
    return _GLOB.sub(rb"\\\1", start.encode()) + b"*"


def _halves(key: str) -> tuple[str, str, str]:
    before, colon, tag = key.partition(":")
    return (before, colon, tag) if colon else ("", "", key)


def _quote(text: str) -> str:
    return _SPECIAL.sub(lambda found: f"%{ord(found[0]):02X}", text)


def _unquote(text: bytes) -> str:
    return _QUOTED.sub(lambda found: bytes([int(found[1], 16)]), text).decode()
