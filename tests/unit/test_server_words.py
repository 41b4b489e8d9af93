# SPDX-License-Identifier: BSD-3-Clause
"""What is told of the log of a server that has died."""

from __future__ import annotations

import signal

import pytest

from ssdag.services.servers.server import last_words

ORDINARY = """\
7:C 21 Nov 2026 21:27:56.349 # oO0OoO0OoO0Oo Redis is starting oO0OoO0OoO0Oo
7:C 21 Nov 2026 21:27:56.349 # Redis version=7.0.15, bits=64, commit=00000000, modified=0, pid=7
7:C 21 Nov 2026 21:27:56.349 # Configuration loaded
7:M 21 Nov 2026 21:27:56.350 * Running mode=standalone, port=7999.
7:M 21 Nov 2026 21:27:56.350 # Server initialized
7:M 21 Nov 2026 21:27:56.351 * Ready to accept connections"""

GRAVE = [
    "7:M 21 Nov 2026 21:27:56.350 # WARNING Memory overcommit must be enabled!",
    "7:M 21 Nov 2026 21:27:59.350 # Can't save in background: fork: Cannot allocate memory",
    "7:M 21 Nov 2026 21:27:59.350 * Background saving error",
    "=== PANIC: a hash table is broken ===",
    "7:M 21 Nov 2026 21:27:59.350 # Redis 7.0.15 crashed by signal: 11",
]


def test_of_an_ordinary_life_nothing_is_told_if_it_was_killed() -> None:
    assert last_words(ORDINARY, -signal.SIGKILL) == "(none)"
    assert last_words("", -signal.SIGKILL) == "(none)"
    assert last_words("", 1) == "(none)"


@pytest.mark.parametrize("line", GRAVE)
def test_warnings_and_errors_are_told(line: str) -> None:
    assert last_words(f"{ORDINARY}\n{line}\n{ORDINARY}", -signal.SIGSEGV) == line


def test_there_are_few_of_them() -> None:
    lines = [f"{GRAVE[1]} ({i})" for i in range(30)]
    assert last_words("\n".join(lines), -signal.SIGKILL).splitlines() == lines[-12:]


@pytest.mark.parametrize("code", [0, 1, None])
def test_one_that_ended_by_itself_or_elsewhere_has_said_why(code: int | None) -> None:
    assert last_words("nothing was heard of n2 for 20 s", code).endswith("for 20 s")
    assert last_words(ORDINARY, code) == ORDINARY
