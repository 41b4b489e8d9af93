# SPDX-License-Identifier: BSD-3-Clause
"""Flux's way to write ids (RFC 19): base 58 behind an ƒ, or an ASCII f."""

from __future__ import annotations

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def digits(value: int) -> str:
    """Return the digits of a number above 0."""
    found = ""
    while value:
        value, rest = divmod(value, 58)
        found = _ALPHABET[rest] + found
    return found


def value(word: str) -> int | None:
    """Return the number that an id stands for; None if it is none."""
    if word[:1] not in ("f", "ƒ") or any(digit not in _ALPHABET for digit in word[1:]):
        return None
    found = 0
    for digit in word[1:]:
        found = found * 58 + _ALPHABET.index(digit)
    return found
