# SPDX-License-Identifier: BSD-3-Clause
"""Launchers by name, as a configuration file has them."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ssdag.config import near
from ssdag.errors import ConfigError
from ssdag.launchers.base import Launcher
from ssdag.launchers.wrapped import Wrapped

if TYPE_CHECKING:
    from collections.abc import Mapping


def launcher_of(value: Launcher | str | Mapping[str, Any]) -> Launcher:
    """Return the launcher that a configuration means.

    Parameters
    ----------
    value : Launcher, str or mapping
        A launcher, which is returned; a name of the entry-point group
        ``ssdag.launchers``; or a table with that name as ``kind`` and the launcher's
        options. ``wrapper`` in it is a list of words in front of every executable.

    Raises
    ------
    ConfigError
        The name or an option is unknown; the text says the nearest known one.

    Examples
    --------
    >>> launcher_of({"kind": "srun", "mpi": "pmi2"})
    SrunLauncher(executable='srun', mpi='pmi2', jobid=None, options=())
    """
    if isinstance(value, Launcher):
        return value
    table: dict[str, Any] = {"kind": value} if isinstance(value, str) else dict(value)
    kind, wrapper = table.pop("kind", None), table.pop("wrapper", ())
    points = {point.name: point for point in entry_points(group="ssdag.launchers")}
    if kind not in points:
        raise ConfigError(
            f"launcher {kind!r}: one of {', '.join(sorted(points))} is needed"
            f"{near(str(kind), points)}"
        )
    made: type[Launcher] = points[kind].load()
    if is_dataclass(made):
        known = [item.name for item in fields(made)]
        for name in table:
            if name not in known:
                raise ConfigError(f"launcher {kind}: unknown option {name!r}{near(name, known)}")
    options = {n: tuple(v) if isinstance(v, list) else v for n, v in table.items()}
    launcher = made(**options)
    return Wrapped(launcher, wrapper) if wrapper else launcher
