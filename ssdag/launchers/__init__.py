# SPDX-License-Identifier: BSD-3-Clause
"""Launchers: what stands in front of a command inside an allocation."""

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
