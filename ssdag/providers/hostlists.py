# SPDX-License-Identifier: BSD-3-Clause
"""Lists of host names as schedulers write them: ``n[1-3,07],login`` and back.

Grammar: names are separated by commas; each may hold bracketed sets of numbers and ranges
anywhere, ``rack[0-1]n[01-16]``. A range whose first number has leading zeros keeps its
width.
"""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: More hosts than any machine has: a text that names more is garbled.
MOST_HOSTS = 1_000_000

_RANGE = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)


def parse(text: str) -> list[str]:
    """Return the hosts that a compact list names, in its order, repeated ones too.

    Raises
    ------
    ValueError
        The text is no such list.

    Examples
    --------
    >>> parse("n[1-3,07],login")
    ['n1', 'n2', 'n3', 'n07', 'login']
    """
    hosts: list[str] = []
    for word in _words(text):
        hosts += _expand(word)
        if len(hosts) > MOST_HOSTS:
            raise ValueError(f"host list {text[:80]!r} names more than {MOST_HOSTS} hosts")
    return hosts


def _words(text: str) -> list[str]:
    words, depth, begin = [], 0, 0
    for place, letter in enumerate(text):
        if letter == "[":
            depth += 1
        elif letter == "]":
            depth -= 1
        elif letter == "," and not depth:
            words.append(text[begin:place].strip())
            begin = place + 1
        if depth not in (0, 1):
            break
    if depth:
        raise ValueError(f"host list {text!r}: brackets do not match")
    words.append(text[begin:].strip())
    if words == [""]:
        return []
    if "" in words or any(re.search(r"\s", word) for word in words):
        raise ValueError(f"host list {text!r}: an empty name, or a blank in one")
    return words


def _expand(word: str) -> list[str]:
    parts = re.split(r"\[([^\]]*)\]", word)
    choices = [_numbers(part) if place % 2 else [part] for place, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST_HOSTS:
        raise ValueError(f"host list {word[:80]!r} names more than {MOST_HOSTS} hosts")
    return ["".join(choice) for choice in product(*choices)]


def _numbers(text: str) -> list[str]:
    numbers: list[str] = []
    for item in text.split(","):
        match = _RANGE.fullmatch(item.strip())
        if not match:
            raise ValueError(f"host list: {item!r} is no number and no range")
        first, last = match[1], match[2] or match[1]
        width = len(first) if first.startswith("0") else 0
        if not 0 <= int(last) - int(first) < MOST_HOSTS:
            raise ValueError(f"host list: {item!r} is no range")
        numbers += [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    return numbers


def compress(hosts: Iterable[str]) -> str:
    """Return the compact list of hosts; :func:`parse` gives the same hosts in the same order.

    Examples
    --------
    >>> compress(["n1", "n2", "n3", "n7", "login"])
    'n[1-3,7],login'
    """
    groups: list[tuple[str, list[str]]] = []
    for host in hosts:
        match = re.fullmatch(r"(.*?)(\d+)", host, re.ASCII)
        stem, number = (match[1], match[2]) if match else (host, "")
        if groups and groups[-1][0] == stem and number and groups[-1][1][-1]:
            groups[-1][1].append(number)
        else:
            groups.append((stem, [number]))
    return ",".join(_group(stem, numbers) for stem, numbers in groups)


def _group(stem: str, numbers: list[str]) -> str:
    if len(numbers) == 1:
        return stem + numbers[0]
    runs: list[list[str]] = []
    for number in numbers:
        if runs and _follows(runs[-1][0], runs[-1][-1], number):
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"{stem}[{','.join(texts)}]"


def _follows(first: str, last: str, number: str) -> bool:
    """Say whether a range from `first`, which has come to `last`, goes on with `number`."""
    width = len(first) if first.startswith("0") else 0
    return number == f"{int(last) + 1:0{width}d}"


def repeated(text: str) -> list[int]:
    """Return the numbers of Slurm's ``2(x3),4``: one for each node.

    Raises
    ------
    ValueError
        The text is not of this form.

    Examples
    --------
    >>> repeated("2(x3),4")
    [2, 2, 2, 4]
    """
    numbers: list[int] = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item.strip(), re.ASCII)
        if not match or int(match[2] or 1) > MOST_HOSTS:
            raise ValueError(f"{text!r} is not of the form 2(x3),4")
        numbers += [int(match[1])] * int(match[2] or 1)
    return numbers
