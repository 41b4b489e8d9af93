# SPDX-License-Identifier: BSD-3-Clause
"""IBM JSM's jsrun, on machines with LSF such as Summit and Sierra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ssdag.launchers.base import Launcher
from ssdag.launchers.erf import Nodes, erf_text, read_erf
from ssdag.launchers.parse import after, number, split_options
from ssdag.launchers.placement import named_file
from ssdag.launchers.program import rank_command, read_rank_command
from ssdag.launchers.step import Step

if TYPE_CHECKING:
    from collections.abc import Mapping

_MB = 1 << 20
_COUNTS = ("--nrs", "--tasks_per_rs", "--cpu_per_rs", "--gpu_per_rs", "--rs_per_host")
_TAKES = dict.fromkeys([*_COUNTS, "--memory_per_rs", "--bind", "--chdir", "--erf_input", "-E"], 1)


@dataclass(frozen=True)
class JsrunLauncher(Launcher):
    """Starts steps with ``jsrun``: ranks in resource sets.

    A resource set holds one rank, or with ``share="node"`` all ranks of a node, which
    then see each other's GPUs. Named hosts, named cores and several programs go by an
    explicit resource file (ERF), one of :meth:`files`.

    Parameters
    ----------
    executable : str
        Name or path of jsrun.
    share : {"rank", "node"}
        Whose a resource set is.
    hosts : tuple of str
        The compute nodes of the allocation, in its order: jsrun knows them by number.
    threads_per_core : int
        Logical CPUs of a core (``bsub -alloc_flags smt4``), of which an ERF names all.
    options : tuple of str
        More options, for every launch.
    """

    executable: str = "jsrun"
    share: Literal["rank", "node"] = "rank"
    hosts: tuple[str, ...] = ()
    threads_per_core: int = 1
    options: tuple[str, ...] = ()

    name = "jsrun"
    chooses_nodes = True
    cannot: ClassVar[Mapping[str, str]] = {
        "walltime_s": "give the limit to the app or the executor, which ends the launch itself",
        "het_group": "name the hosts of each step",
    }

    def _head(self) -> list[str]:
        return [self.executable, *self.options]

    def command(self, *steps: Step, folder: str = "") -> list[str]:
        """Return the launch line; see :meth:`Launcher.command`."""
        self.check(steps)
        first = steps[0]
        line = self._head()
        for name in self.files(*steps):
            line.append(f"--erf_input={folder}/{name}" if folder else f"--erf_input={name}")
            if len(steps) > 1:
                return [*line, *(option for step in steps for option in step.options)]
            break
        else:
            line += self._resource_sets(first)
        if first.cwd is not None:
            line.append(f"--chdir={first.cwd}")
        for name, value in first.env.items():
            line += ["-E", f"{name}={value}"]
        return [*line, *first.options, *rank_command(first, separated=False)]

    def _nodes(self) -> Nodes:
        return Nodes(tuple(self.hosts), self.threads_per_core)

    def _resource_sets(self, step: Step) -> list[str]:
        sets, tasks = step.ranks, 1
        if self.share == "node":
            if step.node_count is None or step.per_node is None:
                raise self.unsupported("resource sets of nodes", "say nodes or ranks_per_node")
            sets, tasks = step.node_count, step.per_node
            if sets * tasks != step.ranks:
                raise self.unsupported(
                    f"{step.ranks} ranks on {sets} equal nodes", "make them a multiple of the nodes"
                )
        flags = [f"--nrs={sets}", f"--tasks_per_rs={tasks}"]
        if step.cores_per_rank is not None:
            flags.append(f"--cpu_per_rs={step.cores_per_rank * tasks}")
        if step.gpus_per_rank is not None:
            flags.append(f"--gpu_per_rs={step.gpus_per_rank * tasks}")
        if step.per_node is not None:
            flags.append(f"--rs_per_host={step.per_node // tasks}")
        if step.memory_per_node_bytes is not None:
            if step.per_node is None:
                raise self.unsupported("memory of a node", "say nodes or ranks_per_node, too")
            share = step.per_node // tasks * _MB
            flags.append(f"--memory_per_rs={-(-step.memory_per_node_bytes // share)}")
        if step.binding == "none":
            flags.append("--bind=none")
        elif step.binding == "core":
            flags.append(f"--bind=packed:{step.cores_per_rank or 1}")
        elif step.cores_per_rank is not None:
            # jsrun alone would bind a rank to the first core of its set.
            flags.append("--bind=rs" if tasks == 1 else f"--bind=packed:{step.cores_per_rank}")
        return flags

    def files(self, *steps: Step) -> dict[str, str]:
        """Return the ERF, if these steps need one."""
        if len(steps) == 1 and not steps[0].hosts and not steps[0].cores_of_ranks:
            return {}
        for step in steps:
            if step.memory_per_node_bytes is not None:
                raise self.unsupported("memory beside named hosts or cores", "leave it out")
        return named_file("erf", erf_text(steps, self._nodes(), self.unsupported))

    def _read(self, line: list[str], files: Mapping[str, str]) -> tuple[Step, ...]:
        words = after(self._head(), line)
        erf = [word for word in words if word.startswith("--erf_input=")]
        if erf and words[0] == erf[0]:
            text = files[erf[0].partition("=")[2].rpartition("/")[2]]
            placed = read_erf(text, self._nodes())
            if placed[0][0]:
                # The programs stand in the file, so what is left are options.
                steps = [
                    _program(argv, tuple(words[1:]) * (i == 0), found)
                    for i, (argv, found) in enumerate(placed)
                ]
                return tuple(steps)
            return (self._single(words[1:], placed[0][1]),)
        return (self._single(words, {}),)

    def _single(self, words: list[str], found: dict[str, Any]) -> Step:
        known, options, command = split_options(words, _TAKES)
        env, _, _, argv = read_rank_command(command)
        counts: dict[str, int] = {}
        bind = ""
        for flag, (value,) in known:
            if flag == "-E":
                name, _, text = value.partition("=")
                env[name] = text
            elif flag == "--chdir":
                found["cwd"] = value
            elif flag == "--bind":
                bind = value
            elif value in ("ALL_CPUS", "ALL_GPUS"):  # of a host; a step has no word for it
                options = (*options, f"{flag}={value}")
            else:
                counts[flag] = number(flag, value)
        if counts:
            found |= _read_counts(counts)
        if bind == "none" or (bind.startswith("packed") and counts.get("--tasks_per_rs") == 1):
            found["binding"] = "none" if bind == "none" else "core"
        return Step(argv=tuple(argv), env=env, options=options, **found)


def _read_counts(counts: Mapping[str, int]) -> dict[str, Any]:
    tasks = counts.get("--tasks_per_rs", 1)
    found: dict[str, Any] = {"ranks": counts["--nrs"] * tasks}
    if "--cpu_per_rs" in counts:
        found["cores_per_rank"] = counts["--cpu_per_rs"] // tasks
    if "--gpu_per_rs" in counts:
        found["gpus_per_rank"] = counts["--gpu_per_rs"] // tasks
    if "--rs_per_host" in counts:
        found["ranks_per_node"] = counts["--rs_per_host"] * tasks
        if "--memory_per_rs" in counts:
            found["memory_per_node_bytes"] = (
                counts["--memory_per_rs"] * counts["--rs_per_host"] * _MB
            )
    return found


def _program(argv: list[str], options: tuple[str, ...], found: dict[str, Any]) -> Step:
    env, cwd, _, rest = read_rank_command(argv)
    return Step(argv=tuple(rest), env=env, cwd=cwd, options=options, **found)
