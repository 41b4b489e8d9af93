# SPDX-License-Identifier: BSD-3-Clause
"""What is sent to a remote shell, and what of its answer is the command's; pure.

A command line over ssh is read by the user's login shell, whichever that is, whose start-up
files may write what they like. So words are quoted in a way that Bourne shells, csh and
fish read alike, and a command stands between two lines with a mark: what comes before the
first is the login's, and without the second (which has the exit code) the connection was
lost before the command ended.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ssdag.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What :data:`ONCE` writes if the command of an earlier attempt still has no end.
UNANSWERED = "ssdag: an earlier attempt has not ended"

_PARTS = re.compile(r"[A-Za-z0-9_@+:,./-]+|['\\!]|[^'\\!A-Za-z0-9_@+:,./-][^'\\!]*")
_SPECIAL = {"'": '"\'"', "\\": "\\\\", "!": "\\!"}

# $1 the mark, $2 the time limit: a command must not run on when nobody waits any more.
_RUN = (
    'm=$1 l=$2; shift 2; echo "$m"; '
    'if command -v timeout >/dev/null 2>&1; then timeout "$l" "$@"; else "$@"; fi; '
    'c=$?; echo; echo "$m $c"'
)

#: Shell text: $1 a folder that does not exist yet, $2 seconds, then a command. Runs it if
#: nobody has begun to, whatever becomes of the connection; then, or if somebody has, waits
#: for its end and tells it.
ONCE = (
    'j=$1 l=$2; shift 2; umask 077; mkdir -p "${j%/*}" || exit; '
    'if mkdir "$j" 2>/dev/null; then trap "" HUP PIPE INT TERM; '
    '"$@" </dev/null >"$j/out" 2>"$j/err"; echo $? >"$j/part" && mv "$j/part" "$j/code"; fi; '
    'if [ ! -d "$j" ]; then echo "cannot make $j" >&2; exit 73; fi; '
    'while [ ! -e "$j/code" ] && [ "$l" -gt 0 ]; do sleep 1; l=$((l-1)); done; '
    f'if [ ! -e "$j/code" ]; then echo "{UNANSWERED}" >&2; exit 75; fi; '
    'cat "$j/out"; cat "$j/err" >&2; exit "$(cat "$j/code")"'
)

#: Shell text: $1 a path, $2 its size. Writes stdin there, whole or not at all.
WRITE = (
    'umask 077; mkdir -p "${1%/*}" && cat >"$1.part" && '
    '{ [ "$(($(wc -c <"$1.part")))" -eq "$2" ] || '
    '{ rm -f "$1.part"; echo "only a part of it arrived" >&2; false; }; } && '
    'chmod 700 "$1.part" && mv -f "$1.part" "$1"'
)


def quote(word: str) -> str:
    """Return a word as sh, bash, zsh, csh and fish all read it back.

    Only a line break within a word is beyond csh.

    Raises
    ------
    ValueError
        It holds a NUL character, which no argument can.

    Examples
    --------
    >>> print(quote("n[1-3] it's"))
    n'[1-3] it'"'"s
    """
    if "\0" in word:
        raise ValueError(f"{word!r} holds a NUL character")
    if not word:
        return "''"
    return "".join(_quoted(part) for part in _PARTS.findall(word))


def _quoted(part: str) -> str:
    if part in _SPECIAL:
        return _SPECIAL[part]
    return part if re.fullmatch(r"[A-Za-z0-9_@+:,./-]+", part) else f"'{part}'"


def join(argv: Sequence[str]) -> str:
    """Return an argument list as a command line."""
    return " ".join(quote(word) for word in argv)


def remote_line(argv: Sequence[str], mark: str, limit_s: float, *, login: bool) -> str:
    """Return what the login shell is given to run a command.

    Parameters
    ----------
    argv : sequence of str
        The command.
    mark : str
        A line that nobody else writes.
    limit_s : float
        It is killed there after so long.
    login : bool
        Read ``/etc/profile`` and ``~/.profile`` first.
    """
    shell = ["/bin/sh", "-lc" if login else "-c"]
    return "exec " + join([*shell, _RUN, "ssdag", mark, str(max(1, round(limit_s))), *argv])


def between(text: str, mark: str) -> tuple[str, int] | None:
    """Return a command's output and its exit code; None if its end is not told."""
    _, _, rest = text.partition(f"{mark}\n")
    output, found, code = rest.rpartition(f"\n{mark} ")
    if not found or not code.strip().isdigit():
        return None
    return output, int(code)


def check_host(host: object) -> str:
    """Return a host as ssh takes it: a name, ``user@name``, or an alias of its own.

    Raises
    ------
    ConfigError
        It is something else, or would be taken for an option.
    """
    if not isinstance(host, str) or not re.fullmatch(r"[\w@][\w@.:%+-]*", host):
        raise ConfigError(f"ssh={host!r}: a host is needed, as HOST or USER@HOST")
    return host


def check_options(options: object) -> tuple[str, ...]:
    """Return options of ssh, a list such as ``["-p", "2222", "-o", "ProxyJump=gate"]``.

    Raises
    ------
    ConfigError
        It is no list of words.
    """
    if isinstance(options, str) or not isinstance(options, (list, tuple)):
        raise ConfigError(f'ssh_options={options!r}: a list is needed, as ["-p", "2222"]')
    for word in options:
        if not isinstance(word, str) or not word or "\0" in word:
            raise ConfigError(f"ssh_options: {word!r} is no word of a command line")
    return tuple(options)
