# SPDX-License-Identifier: BSD-3-Clause
"""Launchers: what stands in front of a command inside an allocation.

A :class:`Step` says what is wanted; a launcher writes it as an argument list, and reads
such lists back. What one of them cannot express is an error that says what to do.

===============  ============  ===================  =====  =====  ====  ======
launcher         starts        several programs     hosts  cores  GPUs  memory
===============  ============  ===================  =====  =====  ====  ======
SingleLauncher   the command   no                   one    yes    yes   no
SrunLauncher     srun          yes, het groups too  yes    yes    yes   yes
MpirunLauncher   Open MPI      yes                  yes    yes    yes   no
MpiexecLauncher  MPICH, Intel  yes                  yes    yes    yes   no
PalsLauncher     PALS          yes                  yes    yes    yes   no
AprunLauncher    ALPS          yes                  yes    yes    no    yes
JsrunLauncher    JSM           yes, on named hosts  yes    yes    yes   yes
FluxLauncher     flux run      no                   yes    yes    yes   no
===============  ============  ===================  =====  =====  ====  ======

:class:`Wrapped` puts a container (or any command) in front of every executable, with any
of them; :mod:`ssdag.launchers.world` finds out whether a launcher fits an MPI library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssdag.launchers.aprun import AprunLauncher
    from ssdag.launchers.base import Launcher
    from ssdag.launchers.flux import FluxLauncher
    from ssdag.launchers.jsrun import JsrunLauncher
    from ssdag.launchers.mpiexec import MpiexecLauncher
    from ssdag.launchers.mpirun import MpirunLauncher
    from ssdag.launchers.pals import PalsLauncher
    from ssdag.launchers.single import SingleLauncher
    from ssdag.launchers.srun import SrunLauncher
    from ssdag.launchers.step import Step
    from ssdag.launchers.wrapped import Wrapped, container

__all__ = [
    "Step",
    "Launcher",
    "SingleLauncher",
    "SrunLauncher",
    "MpirunLauncher",
    "MpiexecLauncher",
    "PalsLauncher",
    "AprunLauncher",
    "JsrunLauncher",
    "FluxLauncher",
    "Wrapped",
    "container",
]

_WHERE = {
    "Step": "ssdag.launchers.step",
    "Launcher": "ssdag.launchers.base",
    "SingleLauncher": "ssdag.launchers.single",
    "SrunLauncher": "ssdag.launchers.srun",
    "MpirunLauncher": "ssdag.launchers.mpirun",
    "MpiexecLauncher": "ssdag.launchers.mpiexec",
    "PalsLauncher": "ssdag.launchers.pals",
    "AprunLauncher": "ssdag.launchers.aprun",
    "JsrunLauncher": "ssdag.launchers.jsrun",
    "FluxLauncher": "ssdag.launchers.flux",
    "Wrapped": "ssdag.launchers.wrapped",
    "container": "ssdag.launchers.wrapped",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
