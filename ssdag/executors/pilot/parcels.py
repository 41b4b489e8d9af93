# SPDX-License-Identifier: BSD-3-Clause
"""Tasks, functions and results as a manager has them: unopened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ssdag.states import TaskState
from ssdag.tasks import Task
from ssdag.wire.functions import FunctionTable

if TYPE_CHECKING:
    from ssdag.tasks import AppSpec, Options


class Parcel(Task):
    """A task as a manager sees it.

    Attributes
    ----------
    seq : int
        The driver's number of this attempt.
    told : bool
        The driver knows that a worker holds it.
    """

    __slots__ = ("seq", "told")

    def __init__(self, app: AppSpec, args: Any, options: Options, seq: int, task_id: int) -> None:
        super().__init__(app, args, None, options, _NOBODY)
        self.seq = seq
        self.told = False
        self.task_id = task_id
        self.state = TaskState.READY


class _Nobody:
    """Stands where tasks have their engine."""

    def cancel(self, task: Task) -> bool:
        return False

    def lift(self, future: Any, kind: str, key: Any) -> Any:
        raise AttributeError


_NOBODY = _Nobody()


class Raw(NamedTuple):
    """A result as it came."""

    code: int
    payload: Any
    buffers: list[Any]


class ForeignFunctions(FunctionTable):
    """Functions under the driver's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self._pickled: dict[int, bytes] = {}

    def keep(self, number: int, blob: bytes) -> None:
        """Keep a function's bytes."""
        self._pickled[number] = blob

    def number(self, func: Any) -> int:
        """Return what stands in place of the function: its number."""
        return int(func)

    def blob(self, number: int) -> bytes:
        """Return the bytes of a function."""
        return self._pickled[number]
