# SPDX-License-Identifier: BSD-3-Clause
"""Reading a stream step by step, as users of ADIOS2 know it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from ssdag.errors import DataError, MissingDataError


class Entry(NamedTuple):
    """One record of a stream.

    Attributes
    ----------
    number : int
        From 1; what is missing in between was dropped, or read by others of the group.
    value : numpy.ndarray, dict or Dataset
        What was appended.
    """

    number: int
    value: Any


class StepReading(ABC):
    """The step-wise face of a reader."""

    def __init__(self) -> None:
        self._step: dict[str, Any] | None = None

    @abstractmethod
    def read(self, timeout_s: float | None = None) -> Entry | None:
        """Return the next record, None at the end."""

    @abstractmethod
    def done(self) -> None:
        """Say that the last record is done with."""

    def begin_step(self, timeout_s: float | None = None) -> bool:
        """Wait for the next step, which :meth:`get` then reads from; False at the end.

        Raises
        ------
        DataError
            What came is no step, but a single array; and all that :meth:`read` raises.
        """
        entry = self.read(timeout_s)
        self._step = None
        if entry is None:
            return False
        if not isinstance(entry.value, dict):
            raise DataError(
                f"record {entry.number} is no step: it was not written by begin_step(), put() "
                "and end_step(), nor as a dict"
            )
        self._step = entry.value
        return True

    @property
    def names(self) -> tuple[str, ...]:
        """What the step has."""
        return tuple(self._in_step())

    def get(self, name: str) -> Any:
        """Return a value of the step.

        Raises
        ------
        MissingDataError
            The step has nothing of this name.
        """
        step = self._in_step()
        if name not in step:
            known = ", ".join(step) or "nothing"
            raise MissingDataError(f"the step has no {name!r}; it has {known}")
        return step[name]

    def _in_step(self) -> dict[str, Any]:
        if self._step is None:
            raise DataError("not in a step: begin_step() is missing, or returned False")
        return self._step

    def end_step(self) -> None:
        """Say that the step is done with: a writer that waits may go on."""
        self._in_step()
        self._step = None
        self.done()
