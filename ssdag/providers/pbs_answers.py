# SPDX-License-Identifier: BSD-3-Clause
"""How the descendants of PBS write and tell: quoting, rows of attributes, exit statuses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ssdag.errors import UnsupportedError
from ssdag.providers.base import JobStatus
from ssdag.providers.batch import QueryError
from ssdag.providers.records import ended
from ssdag.providers.script import one_line
from ssdag.states import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping

# "Job Exit Status Codes" of PBS's administrator's guide.
_PBS = {
    -1: "could not be started",
    -2: "could not be started",
    -3: "could not be started; PBS would try again",
    -10: "its user id could not be used",
    -16: "a hook asked for another run",
    -17: "a hook deleted it",
    -20: "its first node was lost",
    -24: "exceeded the CPUs it asked for (burst)",
    -25: "exceeded the CPUs it asked for (average)",
    -26: "exceeded its virtual memory",
    -27: "exceeded its memory",
    -28: "exceeded its CPU time",
    -29: "exceeded its walltime",
}

# "Job exit status" of Torque's administrator's guide.
_TORQUE = {
    -1: "could not be started",
    -2: "could not be started",
    -3: "could not be started; Torque would try again",
    -8: "its command could not be executed",
    -9: "its output could not be opened",
    -10: "exceeded its memory",
    -11: "exceeded its walltime",
    -12: "exceeded its CPU time",
}


def quoted(text: str) -> str:
    """Quote a value for a #PBS line, where quotes group and nothing escapes.

    Raises
    ------
    UnsupportedError
        It holds what cannot be written so.
    """
    if re.fullmatch(r"[^\s\"'\\]+", one_line("a value", text)):
        return text
    for quote in ('"', "'"):
        if quote not in text and "\\" not in text:
            return f"{quote}{text}{quote}"
    raise UnsupportedError(f"PBS cannot take {text!r}: quotes of both kinds, or a backslash")


def _check_whole(text: str, end: str) -> None:
    if text.strip() and not text.endswith(end):
        raise QueryError(f"qstat was cut short at {text[-80:]!r}")


def dsv_rows(text: str) -> dict[str, dict[str, str]]:
    """Return attributes by id from ``qstat -f -F dsv``: a line a job, ``|`` between fields."""
    _check_whole(text, "\n")
    found = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        first, *fields = re.split(r"(?<!\\)\|", line)
        if not first.startswith("Job Id: "):
            raise QueryError(f"qstat wrote {line[:200]!r}")
        pairs = (field.partition("=") for field in reversed(fields))  # the first one counts
        found[first.removeprefix("Job Id: ").strip()] = {key: text for key, _, text in pairs}
    return found


def full_rows(text: str) -> dict[str, dict[str, str]]:
    """Return attributes by id from ``qstat -f``; the rest of a wrapped line begins with a tab."""
    _check_whole(text, "\n\n")  # an empty line follows each job
    found: dict[str, dict[str, str]] = {}
    row: dict[str, str] | None = None
    for line in text.replace("\n\t", "").splitlines():
        if line.startswith("Job Id: "):
            row = found[line.removeprefix("Job Id: ").strip()] = {}
        elif match := re.match(r" {4}([A-Za-z_][\w.]*) = (.*)", line):
            if row is None:
                raise QueryError(f"qstat wrote {line[:200]!r}")
            row.setdefault(match[1], match[2])  # what the environment may hold comes late
    return found


def hosts(row: Mapping[str, str]) -> tuple[str, ...]:
    """Return the hosts of ``exec_host``: ``pbs1/0*2+pbs2/0*2``."""
    places = [place.partition("/")[0] for place in row.get("exec_host", "").split("+")]
    return tuple(dict.fromkeys(place for place in places if place))


def pbs_end(code: int, comment: str, where: tuple[str, ...]) -> JobStatus:
    """Return the status of a job that ended with PBS's ``Exit_status``."""
    return _end(code, comment, where, _PBS, -29)


def torque_end(code: int, comment: str, where: tuple[str, ...]) -> JobStatus:
    """Return the status of a job that ended with Torque's ``exit_status``."""
    return _end(code, comment, where, _TORQUE, -11)


def _end(
    code: int, comment: str, where: tuple[str, ...], words: Mapping[int, str], walltime: int
) -> JobStatus:
    """Negative codes are the scheduler's own, 256 + N is signal N."""
    if code < 0:
        state = JobState.TIMEOUT if code == walltime else JobState.FAILED
        text = f"{words.get(code, 'ended by the scheduler')} (exit status {code})"
        return JobStatus(state, None, None, f"{text}: {comment}".removesuffix(": "), where)
    found = ended(code) if code < 256 else ended(None, code - 256)
    good = found.state is JobState.COMPLETED
    reason = "" if good else f"{found.reason}: {comment}".removesuffix(": ")
    return JobStatus(found.state, found.exit_code, found.signal, reason, where)
