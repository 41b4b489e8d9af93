# SPDX-License-Identifier: BSD-3-Clause
"""A command in front of every executable: containers, profilers, ``numactl``."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ssdag.errors import ConfigError
from ssdag.launchers.base import Launcher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssdag.launchers.step import Step


@dataclass(frozen=True)
class Wrapped(Launcher):
    """A launcher whose every rank runs its program through another one.

    Parameters
    ----------
    launcher : Launcher
        Any.
    argv : tuple of str
        Stands in front of the executable; see :func:`container`.

    Examples
    --------
    >>> from ssdag.launchers import MpiexecLauncher, Step, Wrapped, container
    >>> launcher = Wrapped(MpiexecLauncher(), container("cfd.sif"))
    >>> launcher.command(Step(argv=("solve", "case 1"), ranks=4))
    ['mpiexec', '-n', '4', 'apptainer', 'exec', 'cfd.sif', 'solve', 'case 1']
    """

    launcher: Launcher
    argv: tuple[str, ...]

    def __post_init__(self) -> None:
        if isinstance(self.argv, str) or not self.argv:
            raise ConfigError(f"Wrapped(argv={self.argv!r}): a list of words is needed")
        object.__setattr__(self, "argv", tuple(self.argv))
        object.__setattr__(self, "cannot", self.launcher.cannot)
        object.__setattr__(self, "chooses_nodes", self.launcher.chooses_nodes)

    @property
    def name(self) -> str:  # type: ignore[override]
        """Name of the launcher beneath, which decides what can be expressed."""
        return self.launcher.name

    def _wrapped(self, steps: Sequence[Step]) -> list[Step]:
        return [replace(step, wrapper=(*self.argv, *step.wrapper)) for step in steps]

    def command(self, *steps: Step, folder: str = "") -> list[str]:
        """Return the line of the launcher beneath, with the wrapper in every program."""
        return self.launcher.command(*self._wrapped(steps), folder=folder)

    def files(self, *steps: Step) -> dict[str, str]:
        """Return the files of the launcher beneath."""
        return self.launcher.files(*self._wrapped(steps))

    def prefix(self, step: Step, *, folder: str = "") -> list[str]:
        """Return the launch line without executable and arguments."""
        return self.launcher.prefix(self._wrapped([step])[0], folder=folder)

    def _read(self, line: list[str], files: Mapping[str, str]) -> tuple[Step, ...]:
        steps = self.launcher.parse(line, files)
        for step in steps:
            if step.argv[: len(self.argv)] != self.argv:
                raise ConfigError(f"{step.argv[0]} in the line does not begin with {self.argv}")
        return tuple(replace(step, argv=step.argv[len(self.argv) :]) for step in steps)


def container(
    image: str | os.PathLike[str],
    *,
    program: str = "apptainer",
    binds: Sequence[str | os.PathLike[str]] = (),
    pwd: str | None = None,
    nvidia: bool = False,
    rocm: bool = False,
    options: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return the words that run a program in a Singularity or Apptainer image.

    Parameters
    ----------
    image : path
        A ``.sif`` file, a sandbox folder or an address that the program knows.
    program : str
        "apptainer" or "singularity", or a path.
    binds : sequence of path
        Folders of the host that are seen inside: ``SOURCE[:TARGET[:ro]]``.
    pwd : str, optional
        Working directory inside; by default the step's, where it is seen inside.
    nvidia, rocm : bool
        Let NVIDIA's or AMD's GPUs and their libraries through.
    options : sequence of str
        More options of ``exec``.
    """
    words = [program, "exec"]
    if pwd is not None:
        words.append(f"--pwd={pwd}")
    words += [f"--bind={os.fspath(bind)}" for bind in binds]
    words += ["--nv"] * nvidia + ["--rocm"] * rocm
    return (*words, *options, os.fspath(image))
