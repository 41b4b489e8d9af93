# SPDX-License-Identifier: BSD-3-Clause
"""Whether a command needs a shell: if not, it is executed directly, which is 1 ms less.

The answer errs on the side of the shell: only a command that bash would split into the
same words, without any other effect, is executed directly.
"""

from __future__ import annotations

import os
import re
import shlex
from functools import lru_cache

# Words of harmless characters; quoted parts in which nothing is expanded.
_PLAIN = re.compile(r"[\w@%+:,./\- \t=^]++", re.ASCII)
_QUOTED = re.compile(r"""(?:[\w@%+:,./\- \t=^]|'[^']*+'|"[^"$`\\!]*+")++""", re.ASCII)

#: First words that mean something to bash and nothing, or something else, to the system.
_SHELL_WORDS = (
    ". : alias bg bind break builtin caller case cd command compgen complete compopt "
    "continue coproc declare dirs disown do done elif else enable esac eval exec exit "
    "export fc fg fi for function getopts hash help history if in jobs kill let local "
    "logout mapfile popd printf pushd pwd read readarray readonly return select set shift "
    "shopt source suspend then time times trap type typeset ulimit umask unalias unset "
    "until wait while "
)
_NEEDS_SHELL = frozenset(_SHELL_WORDS.split())


def split(command: str) -> list[str] | None:
    """Return the words of a command that needs no shell, or None.

    >>> split("gmx mdrun -deffnm 'run 1'")
    ['gmx', 'mdrun', '-deffnm', 'run 1']
    >>> split("ls *.xyz | wc -l") is None
    True
    """
    if _PLAIN.fullmatch(command):
        words = command.split()
    elif _QUOTED.fullmatch(command):
        words = shlex.split(command)
    else:
        return None
    if not words or not words[0] or words[0] in _NEEDS_SHELL or "=" in words[0]:
        return None
    if words[1:] in (["--version"], ["--help"]):  # "echo --version" prints just that in bash
        return None
    if f"BASH_FUNC_{words[0]}%%" in os.environ:  # such as "module" on supercomputers
        return None
    return words


@lru_cache(maxsize=1)
def program() -> str:
    """Return the shell for all other commands: bash, which Parsl's users expect, or sh."""
    return next(
        (path for path in ("/bin/bash", "/usr/bin/bash") if os.path.exists(path)), "/bin/sh"
    )
