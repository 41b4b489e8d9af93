# SPDX-License-Identifier: BSD-3-Clause
"""What a launcher promises: from steps to an argument list, and nothing else.

A launcher starts nothing and reads no environment: it is a pure function, so that every
launch line can be seen, tested and parsed back without the machine that it is for.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from dataclasses import MISSING, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ssdag.errors import ConfigError, UnsupportedError
from ssdag.launchers.step import Binding, Step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Binding", "Launcher", "Step"]

_DEFAULTS: dict[str, Any] = {
    item.name: item.default if item.default is not MISSING else {} for item in fields(Step)
}


class Launcher(ABC):
    """Turns steps into the argument list that starts them inside an allocation."""

    #: What users call it in a configuration.
    name: str

    #: Fields of a step that the launcher cannot express: what to do instead.
    cannot: ClassVar[Mapping[str, str]] = {}

    #: Whether it places ranks on nodes itself, so that a step need not name its hosts.
    chooses_nodes: ClassVar[bool] = False

    @abstractmethod
    def command(self, *steps: Step, folder: str = "") -> list[str]:
        """Return the argument list of a launch.

        Parameters
        ----------
        *steps : Step
            One, or several that share one MPI world (MPMD).
        folder : str
            Where the caller writes what :meth:`files` returns; empty is the folder that
            the launch is started in.

        Raises
        ------
        UnsupportedError
            The launcher cannot express something that a step asks for; the text names
            the option and says what can be done.
        """

    def files(self, *steps: Step) -> dict[str, str]:
        """Return the files that the launch line of these steps refers to.

        Returns
        -------
        dict of str to str
            Texts by their names (no folders in them; a name depends on its text, so
            that one folder serves many launches). Most launches need none.
        """
        return {}

    def parse(
        self, line: Sequence[str], files: Mapping[str, str] | None = None
    ) -> tuple[Step, ...]:
        """Return the steps that a launch line of this launcher stands for.

        The inverse of :meth:`command`: what it returns makes the same line again. Where
        a step can be said in two ways (``nodes`` and ``ranks_per_node`` on a launcher
        that has only one of them; a wrapper and its command) the nearer one to the line
        comes back.

        Parameters
        ----------
        line : sequence of str
            An argument list; text is split by :func:`shlex.split` first.
        files : mapping of str to str, optional
            What :meth:`files` returned.

        Raises
        ------
        ConfigError
            It is no line of this launcher.
        """
        words = list(line)
        try:
            return self._read(words, files or {})
        except ConfigError:
            raise
        except (ValueError, KeyError, IndexError) as error:
            raise ConfigError(
                f"{shlex.join(words)}: no launch line of {self.name}: {error}"
            ) from error

    def _read(self, line: list[str], files: Mapping[str, str]) -> tuple[Step, ...]:
        """Return the steps of a line; ValueError, KeyError, IndexError: it is none of ours."""
        raise UnsupportedError(f"launcher {self.name} cannot read launch lines")

    def prefix(self, step: Step, *, folder: str = "") -> list[str]:
        """Return the launch line without executable and arguments.

        This is what ``$SSDAG_LAUNCH`` holds for apps that compose their own command.

        Raises
        ------
        UnsupportedError
            As :meth:`command`.
        """
        return self.command(replace(step, argv=("program",)), folder=folder)[:-1]

    def check(self, steps: Sequence[Step]) -> None:
        """Raise for what this launcher can never express; the first thing in ``command``.

        Raises
        ------
        ConfigError
            There is no step.
        UnsupportedError
            A step has a field that stands in :attr:`cannot`.
        """
        if not steps:
            raise ConfigError(f"{self.name}: a launch needs at least one step")
        for step in steps:
            for option, advice in self.cannot.items():
                value = getattr(step, option)
                if value != _DEFAULTS[option]:
                    raise self.unsupported(f"{option}={value!r}", advice)

    def unsupported(self, what: str, advice: str) -> UnsupportedError:
        """Return the error for something that cannot be expressed."""
        return UnsupportedError(f"launcher {self.name} cannot express {what}: {advice}")
