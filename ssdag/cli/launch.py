# SPDX-License-Identifier: BSD-3-Clause
"""Run a user's script as ``python script`` would: arguments, tracebacks, exit codes."""

from __future__ import annotations

import difflib
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import TYPE_CHECKING

from ssdag.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

#: What a shell reports for a program that Ctrl-C ended: 128 + SIGINT.
INTERRUPTED = 130


def existing_file(path: Path, what: str) -> Path:
    """Return `path` if it is a file.

    Parameters
    ----------
    path : Path
        As the user typed it.
    what : str
        What the file is for, for the message: ``"script"``.

    Raises
    ------
    ConfigError
        There is no such file; names the files nearby that look like it.
    """
    if path.is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"the {what} {str(path)!r} is a folder")
    names = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3)
    hint = f"; did you mean {' or '.join(str(path.parent / n) for n in near)}?" if near else ""
    raise ConfigError(f"there is no {what} {str(path)!r}{hint}")


def split_arguments(rest: Sequence[str]) -> tuple[str | None, list[str]]:
    """Take ``--config FILE`` out of what follows the script.

    Everything after a ``--`` belongs to the script, untouched.

    Returns
    -------
    config : str or None
        The file named last, if any.
    arguments : list of str
        What the script gets in ``sys.argv[1:]``.

    Raises
    ------
    ConfigError
        ``--config`` is the last word.
    """
    config: str | None = None
    arguments: list[str] = []
    words = iter(rest)
    for word in words:
        if word == "--":
            arguments.extend(words)
        elif word == "--config":
            config = next(words, None)
            if config is None:
                raise ConfigError("--config needs a file name")
        elif word.startswith("--config="):
            config = word.removeprefix("--config=")
        else:
            arguments.append(word)
    return config, arguments


def run_script(script: Path, arguments: Sequence[str]) -> int:
    """Run a file as ``__main__`` in this process.

    Not ``runpy``: it takes its ``__main__`` away when the script ends, and tasks that
    are still queued then, and classes that come back later, need it until the
    interpreter exits.

    Parameters
    ----------
    script : Path
        An existing file.
    arguments : sequence of str
        Becomes ``sys.argv[1:]``.

    Returns
    -------
    int
        0; 1 after an uncaught exception, whose traceback was printed; 130 after
        Ctrl-C. ``sys.exit`` in the script passes through as ``SystemExit``.
    """
    path = str(script)
    sys.argv = [path, *arguments]
    sys.path[0:1] = [str(script.resolve().parent)]  # was the folder of the `ssdag` command
    module = ModuleType("__main__")
    module.__file__ = path
    module.__loader__ = SourceFileLoader("__main__", path)
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    try:
        code = compile(script.read_bytes(), path, "exec", dont_inherit=True)
        exec(code, module.__dict__)
    except KeyboardInterrupt as error:
        _report(error, path)
        return INTERRUPTED
    except Exception as error:  # user code
        _report(error, path)
        return 1
    return 0


def _report(error: BaseException, path: str) -> None:
    """Print the traceback from the script's own first frame on, as the interpreter would."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename != path:
        traceback = traceback.tb_next
    error.__traceback__ = traceback
    _remember(error, traceback)
    sys.excepthook(type(error), error, traceback)


def _remember(error: BaseException, traceback: TracebackType | None) -> None:
    """Set what the interpreter sets for debuggers (``pdb.pm``) and exit handlers."""
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, traceback
    if sys.version_info >= (3, 12):
        sys.last_exc = error
