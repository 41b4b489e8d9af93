# SPDX-License-Identifier: BSD-3-Clause
"""A step: one program of a launch."""

from __future__ import annotations

import math
import operator
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ssdag.errors import ConfigError
from ssdag.resources import check_walltime

if TYPE_CHECKING:
    from collections.abc import Mapping

#: How ranks are bound to cores. "default" leaves it to the launcher; a tuple names the
#: cores of the ranks of a node, in their order: ``cores_per_rank`` of them for each.
Binding = Literal["default", "none", "core"] | tuple[int, ...]

_LEAST = {
    "ranks": 1,
    "nodes": 1,
    "ranks_per_node": 1,
    "cores_per_rank": 1,
    "gpus_per_rank": 0,
    "memory_per_node_bytes": 0,
    "het_group": 0,
}


@dataclass(frozen=True)
class Step:
    """One program of a launch: what runs, how often, and where.

    Parameters
    ----------
    argv : tuple of str
        Executable and arguments, as the program shall see them.
    ranks : int
        Processes.
    nodes : int, optional
        Nodes that they are spread over.
    ranks_per_node : int, optional
        Processes on each node.
    cores_per_rank, gpus_per_rank : int, optional
        What each process gets; 0 GPUs hides those of the node.
    memory_per_node_bytes : int, optional
        Memory on each node, in bytes; rounded up to the launcher's unit.
    hosts : tuple of str
        Where to run; empty leaves it to the launcher.
    env : mapping of str to str
        Added to the environment of every rank, whatever the launcher forwards anyway.
        Values may hold anything but a null character. They can be seen in the list of
        processes: secrets belong into files.
    cwd : str, optional
        Working directory of every rank.
    binding : Binding
        How ranks are bound to cores.
    exclusive : bool
        True if the step shares its cores with no other step of the allocation. Only
        launchers that keep account of cores (srun) say it; with the others it is the
        caller's part to give steps cores of their own by `hosts` and `binding`.
    overlap : bool
        True if the step may share its cores with others: a service beside tasks. It
        is not exclusive then.
    walltime_s : float, optional
        The launcher's own limit, in seconds; rounded up to a full one.
    options : tuple of str
        More arguments for the launcher itself, as they are.
    wrapper : tuple of str
        Stands in front of the executable: a container's ``exec`` line, for example.
    het_group : int, optional
        Component of a heterogeneous job that the step runs in.

    Raises
    ------
    ConfigError
        A value is of the wrong type, too small, or contradicts another one.
    """

    argv: tuple[str, ...]
    ranks: int = 1
    nodes: int | None = None
    ranks_per_node: int | None = None
    cores_per_rank: int | None = None
    gpus_per_rank: int | None = None
    memory_per_node_bytes: int | None = None
    hosts: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    binding: Binding = "default"
    exclusive: bool = True
    overlap: bool = False
    walltime_s: float | None = None
    options: tuple[str, ...] = ()
    wrapper: tuple[str, ...] = ()
    het_group: int | None = None

    def __post_init__(self) -> None:
        for name in ("argv", "hosts", "options", "wrapper"):
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        if not self.program or not self.program[0]:
            raise ConfigError("Step(argv=...): an executable is needed")
        if self.program[0].startswith("-"):
            # A launcher would take it as an option of its own.
            raise ConfigError(f"Step(argv=...): {self.program[0]!r} cannot be an executable")
        for name, least in _LEAST.items():
            object.__setattr__(self, name, _number(name, getattr(self, name), least))
        if self.ranks is None:
            raise ConfigError("Step(ranks=None): an int is needed")
        object.__setattr__(self, "env", _environment(self.env))
        if self.cwd is not None:
            object.__setattr__(self, "cwd", _texts("cwd", [self.cwd])[0])
            if self.cwd in ("", ":"):
                raise ConfigError(f"Step(cwd={self.cwd!r}): the path of a folder is needed")
        if check_walltime(self.walltime_s) == math.inf:
            raise ConfigError("Step(walltime_s=inf): leave it out for no limit")
        if self.overlap:
            object.__setattr__(self, "exclusive", False)
        self._check_hosts()
        self._check_binding()

    def _check_hosts(self) -> None:
        for host in self.hosts:
            if not host or set(host) & set(", \t\n:") or host.startswith("-"):
                raise ConfigError(f"Step(hosts=...): {host!r} is no name of a host")
        if self.nodes is not None and self.hosts and self.nodes != len(self.hosts):
            raise ConfigError(f"Step(nodes={self.nodes}): but {len(self.hosts)} hosts are named")
        nodes, per_node = self.nodes or len(self.hosts) or None, self.ranks_per_node
        if nodes and per_node and self.ranks > nodes * per_node:
            raise ConfigError(
                f"Step(ranks={self.ranks}): that is more than {nodes} nodes x {per_node} ranks"
            )
        if nodes and self.ranks <= (nodes - 1) * (per_node or 1):
            raise ConfigError(f"Step(ranks={self.ranks}): that leaves some of {nodes} nodes empty")

    def _check_binding(self) -> None:
        if isinstance(self.binding, str):
            if self.binding not in ("default", "none", "core"):
                raise ConfigError(
                    f"Step(binding={self.binding!r}): 'default', 'none', 'core' or core numbers"
                )
            return
        cores = tuple(_number("binding", core, 0) for core in self.binding)
        if not cores or None in cores or len(cores) % (self.cores_per_rank or 1):
            raise ConfigError(
                f"Step(binding={self.binding!r}): {self.cores_per_rank or 1} cores for each rank "
                "of a node are needed"
            )
        object.__setattr__(self, "binding", cores)

    @property
    def program(self) -> tuple[str, ...]:
        """What a rank executes: the wrapper, if any, and the command."""
        return (*self.wrapper, *self.argv)

    @property
    def node_count(self) -> int | None:
        """Number of nodes, as far as the step says it."""
        if self.nodes is not None or self.hosts:
            return self.nodes or len(self.hosts)
        if self.ranks_per_node is not None:
            return -(-self.ranks // self.ranks_per_node)
        return None

    @property
    def per_node(self) -> int | None:
        """Ranks on a (full) node, as far as the step says it."""
        if self.ranks_per_node is not None:
            return self.ranks_per_node
        nodes = self.nodes or len(self.hosts)
        return -(-self.ranks // nodes) if nodes else None

    @property
    def cores_of_ranks(self) -> tuple[tuple[int, ...], ...]:
        """The cores that `binding` names, rank by rank of a node; empty if it names none."""
        if isinstance(self.binding, str):
            return ()
        size = self.cores_per_rank or 1
        return tuple(self.binding[i : i + size] for i in range(0, len(self.binding), size))


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise ConfigError(f"Step({name}={value!r}): a tuple of str is needed")
    texts = []
    for item in value:
        text = os.fspath(item) if isinstance(item, (str, os.PathLike)) else None
        if not isinstance(text, str) or "\0" in text:
            raise ConfigError(f"Step({name}=...): {item!r} is no text without null characters")
        texts.append(text)
    return tuple(texts)


def _number(name: str, value: Any, least: int) -> int | None:
    if value is None:
        return None
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ConfigError(f"Step({name}={value!r}): an int is needed")
    if number < least:
        raise ConfigError(f"Step({name}={value!r}): must be at least {least}")
    return number


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    if not hasattr(env, "items"):
        raise ConfigError(f"Step(env={env!r}): a mapping of str to str is needed")
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigError(f"Step(env=...): {name!r} and its value must be str")
        if not name or name.startswith("-") or set(name) & set("=\0") or "\0" in value:
            raise ConfigError(f"Step(env=...): {name!r} cannot be a variable of the environment")
    return dict(env)
