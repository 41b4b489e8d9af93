# SPDX-License-Identifier: BSD-3-Clause
"""Which scheduler is here? ``provider="auto"``.

Inside a job its environment tells. Outside, the commands are asked, since their names do
not tell: ``qsub`` belongs to five schedulers, and a command whose server was never set up
belongs to none.
"""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from ssdag.config import near
from ssdag.errors import ConfigError
from ssdag.providers.commands import LocalRunner, Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ssdag.providers.base import Provider

#: Longest time that one command may take to say whose it is.
PROBE_TIMEOUT_S = 15.0

#: Built-in providers by what users call them: module and class.
BUILT_IN = {
    "local": ("ssdag.providers.local", "LocalProvider"),
    "slurm": ("ssdag.providers.slurm", "SlurmProvider"),
    "pbs": ("ssdag.providers.pbs", "PBSProvider"),
    "torque": ("ssdag.providers.torque", "TorqueProvider"),
    "lsf": ("ssdag.providers.lsf", "LSFProvider"),
    "cobalt": ("ssdag.providers.cobalt", "CobaltProvider"),
    "gridengine": ("ssdag.providers.gridengine", "GridEngineProvider"),
    "flux": ("ssdag.providers.flux", "FluxProvider"),
}


def named(name: str, **options: object) -> Provider:
    """Return the provider that users call `name`; "auto" finds out which.

    Parameters
    ----------
    name : str
        A key of :data:`BUILT_IN`, a name of the entry-point group ``ssdag.providers``,
        or "auto".
    **options
        What its class takes.

    Raises
    ------
    ConfigError
        There is none of this name, or it does not take these options.
    """
    if name == "auto":
        return detect(**options)
    if name in BUILT_IN:
        from importlib import import_module

        module, cls = BUILT_IN[name]
        made: Provider = getattr(import_module(module), cls)(**options)
        return made
    points = {point.name: point for point in entry_points(group="ssdag.providers")}
    if name not in points:
        known = sorted({"auto", *BUILT_IN, *points})
        raise ConfigError(f"no provider {name!r}{near(name, known)}; there are {', '.join(known)}")
    try:
        provider: Provider = points[name].load()(**options)
    except ConfigError:
        raise
    except Exception as error:  # plug-in load
        raise ConfigError(f"provider {name!r} cannot be loaded: {error}") from error
    return provider


def detect(**options: object) -> Provider:
    """Return the provider of the scheduler that is here; the local one if there is none.

    Runs up to eight commands, most of which do not exist; blocks while they answer.

    Parameters
    ----------
    **options
        What the provider's class takes; a ``runner`` among them is asked too.

    Raises
    ------
    ConfigError
        The scheduler that is here does not take these options.
    """
    runner = options.get("runner")
    if isinstance(runner, Runner):  # elsewhere: our environment says nothing about it
        return named(outside(runner), **options)
    return named(inside(os.environ) or outside(LocalRunner()), **options)


def inside(env: Mapping[str, str]) -> str | None:
    """Return the name of the scheduler in whose job we are; None outside one."""
    # A Flux instance may run inside a job of any other, and then it is the one to ask.
    if "FLUX_URI" in env:
        return "flux"
    if "SLURM_JOB_ID" in env:
        return "slurm"
    if "COBALT_JOBID" in env:
        return "cobalt"
    if "PBS_JOBID" in env:
        # Torque names its version there; PBS Pro and OpenPBS have no such variable.
        return "torque" if "torque" in env.get("PBS_VERSION", "").lower() else "pbs"
    if "LSB_JOBID" in env:
        return "lsf"
    if "JOB_ID" in env and "SGE_ROOT" in env and "NSLOTS" in env:
        return "gridengine"
    return "local" if "SSDAG_JOB_ID" in env else None


def outside(runner: Runner) -> str:
    """Return the name of the scheduler that answers commands here, "local" if none does."""

    def ask(*argv: str) -> str:
        answer = runner.run(argv, PROBE_TIMEOUT_S)
        if answer.exit_code is None:
            return ""
        return f"{answer.exit_code}\n{answer.stdout}\n{answer.stderr}"

    # A controller that is down is still Slurm's: "Slurmctld(primary) at n1 is DOWN".
    if "Slurmctld" in ask("scontrol", "ping"):
        return "slurm"
    if (text := ask("qsub", "--version").lower()) and (name := _whose_qsub(text, ask)):
        return name
    if (text := ask("lsid")).startswith("0\n") and "LSF" in text:
        return "lsf"
    if ask("flux", "getattr", "size").startswith("0\n"):
        return "flux"
    return "local"


def _whose_qsub(text: str, ask: Callable[..., str]) -> str | None:
    if "pbs_version" in text:
        return "pbs"
    if "cobalt" in text:
        return "cobalt"
    if "commit:" in text or "\nversion:" in text:
        return "torque"
    # Grid Engine refuses the option; its qstat answers only if there is a cell.
    answer = ask("qstat", "-xml")
    return "gridengine" if answer.startswith("0\n") and "<job_info" in answer else None
