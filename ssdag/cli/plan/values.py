# SPDX-License-Identifier: BSD-3-Clause
"""Stand-ins for results that a plan does not have."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from types import FrameType


class PlanEnd(BaseException):
    """A script needs a real value: the plan goes up to here.

    No ``Exception``, because a script that catches those must not go on with nothing.

    Parameters
    ----------
    name : str
        Of the value.
    use : str
        What was to be done with it.
    place : str
        File and line of the script.
    """

    def __init__(self, name: str, use: str, place: str = "") -> None:
        super().__init__(name, use, place)
        self.name, self.use, self.place = name, use, place

    def __str__(self) -> str:
        where = f" at {self.place}" if self.place else ""
        return f"the value of {self.name} is needed{where} ({self.use})"


class Unknown:
    """A value that only a real run has.

    It may be passed on, printed, called, and its parts be taken, which are unknown too;
    what would decide something by it (a comparison, a loop, a conversion) raises
    :class:`PlanEnd`.

    Parameters
    ----------
    name : str
        What it stands for.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    __hash__ = object.__hash__  # it compares with nothing, and is found as itself

    def __repr__(self) -> str:
        return f"<{self._name}>"

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return Unknown, (self._name,)

    def __getattr__(self, name: str) -> Unknown:
        if name.startswith("_"):
            raise AttributeError(name)
        return Unknown(f"{self._name}.{name}")

    def __getitem__(self, key: object) -> Unknown:
        return Unknown(f"{self._name}[{key!r}]")

    def __call__(self, *args: object, **kwargs: object) -> Unknown:
        return Unknown(f"{self._name}(...)")


def _part(symbol: str) -> Any:
    def combined(self: Unknown, *others: object) -> Unknown:
        return Unknown(f"{symbol} {self._name}")

    return combined


def _end(use: str) -> Any:
    def ended(self: Unknown, *others: object) -> NoReturn:
        raise PlanEnd(self._name, use, _place(sys._getframe(1)))

    return ended


def _place(frame: FrameType | None) -> str:
    """Return the line of the script, which is ``__main__``, that led here."""
    while frame is not None and frame.f_globals.get("__name__") != "__main__":
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    setattr(Unknown, f"__{_name}__", _part(f"a number from {_name} of"))
    setattr(Unknown, f"__r{_name}__", _part(f"a number from {_name} of"))
for _name in ("neg", "pos", "abs", "round"):
    setattr(Unknown, f"__{_name}__", _part(f"{_name} of"))
for _name, _use in {
    "bool": "to decide by it",
    "iter": "to loop over it",
    "len": "to ask for its length",
    "contains": "to look into it",
    "int": "as an int",
    "float": "as a float",
    "complex": "as a complex number",
    "index": "as an index",
    "array": "as an array",
    "fspath": "as a path",
    "eq": "to compare it",
    "ne": "to compare it",
    "lt": "to compare it",
    "le": "to compare it",
    "gt": "to compare it",
    "ge": "to compare it",
    "enter": "as a context",
}.items():
    setattr(Unknown, f"__{_name}__", _end(_use))
