# SPDX-License-Identifier: BSD-3-Clause
"""What a task's body raised, on its way out of the process that ran it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ssdag.errors import RemoteError
from ssdag.wire.serialize import dump_error

if TYPE_CHECKING:
    from typing import Any

E = TypeVar("E", bound=BaseException)

#: ``__file__`` of modules whose functions stand between an executor and a body.
WRAPPERS: set[str] = set()


def from_user_code(error: E, file: str) -> E:
    """Return the error with a traceback that begins in the user's code.

    Parameters
    ----------
    error : BaseException
        Just caught.
    file : str
        ``__file__`` of the module that called the body; its frames are left out, and
        those of :data:`WRAPPERS`.
    """
    trace = error.__traceback__
    while trace is not None and (
        trace.tb_frame.f_code.co_filename == file or trace.tb_frame.f_code.co_filename in WRAPPERS
    ):
        trace = trace.tb_next
    return error if trace is None else error.with_traceback(trace)


def dump_raised(error: BaseException, file: str) -> bytes:
    """Return bytes from which ``load_error`` makes the error; never raises.

    SystemExit, KeyboardInterrupt and their kin, which would end whoever loads them, come
    as a RuntimeError that names them. For `file` see :func:`from_user_code`.
    """
    error = from_user_code(error, file)
    try:
        return dump_error(error if isinstance(error, Exception) else _harmless(error))
    except BaseException as raised:  # __repr__, __str__ and __reduce__ are user code
        return dump_error(
            RemoteError(
                f"the task raised {type(error).__name__}, and showing it raised "
                f"{type(raised).__name__}",
                type_name=type(error).__qualname__,
            )
        )


def _harmless(error: BaseException) -> Exception:
    args: tuple[Any, ...] = error.args
    text = f"the task raised {type(error).__name__}({', '.join(map(repr, args))})"
    replacement = RuntimeError(text)
    replacement.__cause__ = error
    return replacement
