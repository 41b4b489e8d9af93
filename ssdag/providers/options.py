# SPDX-License-Identifier: BSD-3-Clause
"""The options that every provider takes: how big blocks are, how many, and where.

They mean the same on every scheduler; :meth:`BlockOptions.job` makes the
:class:`~ssdag.providers.base.JobSpec` of a block from them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from ssdag.config import near
from ssdag.errors import ConfigError
from ssdag.providers.base import JobSpec

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

#: Options that are a text without line breaks, or None.
_WORDS = ("account", "queue", "qos", "constraint", "reservation")
_COUNTS = {
    "nodes_per_block": 1,
    "init_blocks": 0,
    "min_blocks": 0,
    "max_blocks": 1,
    "cores_per_node": 1,
    "gpus_per_node": 0,
    "memory_per_node_bytes": 1,
}


@dataclass(frozen=True)
class BlockOptions:
    """Options of a provider, checked.

    Parameters
    ----------
    nodes_per_block : int
        Nodes of one block; a block is one job of the scheduler.
    init_blocks, min_blocks, max_blocks : int
        Blocks at the start, blocks that are always kept, and the most at one time.
    parallelism : float
        Blocks are asked for until they have room for this part of the waiting tasks,
        from 0 to 1.
    walltime_s : float
        Time limit of a block, in seconds.
    account, queue, qos, constraint, reservation : str, optional
        As the site calls them; ``queue`` is Slurm's partition.
    cores_per_node, gpus_per_node, memory_per_node_bytes : int, optional
        What is needed on each node.
    exclusive : bool
        Nodes are not shared with other jobs.
    directives : tuple of str
        More directive lines, with or without the scheduler's mark in front.
    worker_init : str
        Shell text that runs before everything else; if one of its lines fails, the job
        fails with that line's words.
    modules : tuple of str
        Modules to load before ``worker_init``.
    env : mapping of str to str
        Exported first. It is written into the script (mode 0700), never into arguments.
    """

    nodes_per_block: int = 1
    init_blocks: int = 0
    min_blocks: int = 0
    max_blocks: int = 1
    parallelism: float = 1.0
    walltime_s: float = 3600.0
    account: str | None = None
    queue: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    cores_per_node: int | None = None
    gpus_per_node: int | None = None
    memory_per_node_bytes: int | None = None
    exclusive: bool = True
    directives: tuple[str, ...] = ()
    worker_init: str = ""
    modules: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold secrets

    def __post_init__(self) -> None:
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            optional = getattr(BlockOptions, name) is None
            if not (value is None and optional) and not _is_count(value, least):
                raise ConfigError(f"{name}={value!r}: an int of at least {least} is needed")
        if self.max_blocks < 1 or not self.min_blocks <= self.max_blocks >= self.init_blocks:
            raise ConfigError(
                f"init_blocks={self.init_blocks}, min_blocks={self.min_blocks}, "
                f"max_blocks={self.max_blocks}: the first two must not exceed max_blocks, "
                "which is at least 1"
            )
        if not _is_number(self.parallelism) or not 0 <= self.parallelism <= 1:
            raise ConfigError(f"parallelism={self.parallelism!r}: a number from 0 to 1 is needed")
        if not _is_number(self.walltime_s) or not 0 < self.walltime_s < math.inf:
            raise ConfigError(f"walltime_s={self.walltime_s!r}: seconds above 0 are needed")
        if not isinstance(self.exclusive, bool):
            raise ConfigError(f"exclusive={self.exclusive!r}: True or False is needed")
        for name in _WORDS:
            if getattr(self, name) is not None:
                _check_line(name, getattr(self, name))
        for name in ("directives", "modules"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise ConfigError(f"{name}={value!r}: a list of str is needed")
            for item in (lines := tuple(value)):
                _check_line(name, item)
            object.__setattr__(self, name, lines)
        if not isinstance(self.worker_init, str) or "\0" in self.worker_init:
            raise ConfigError(f"worker_init={self.worker_init!r}: shell text is needed")
        object.__setattr__(self, "env", _checked_env(self.env))

    @classmethod
    def of(
        cls,
        provider: str,
        options: Mapping[str, object],
        aliases: Mapping[str, str] = MappingProxyType({}),
    ) -> BlockOptions:
        """Make options from what a user wrote.

        Parameters
        ----------
        provider : str
            Name of the provider, for the text of errors.
        options : mapping
            Fields of this class; ``walltime`` ("HH:MM:SS" and its kin) stands for
            ``walltime_s``.
        aliases : mapping of str to str
            The scheduler's own words for some of the fields, such as ``partition``.

        Raises
        ------
        ConfigError
            An option is unknown (the text names the nearest known one), is given twice,
            or has a value that it cannot have.
        """
        known = {item.name for item in fields(cls)}
        accepted = {**aliases, "walltime": "walltime_s"}
        values: dict[str, Any] = {}
        for name, value in options.items():
            target = accepted.get(name, name)
            if target not in known:
                raise ConfigError(
                    f"{provider}: unknown option {name!r}{near(name, known | accepted.keys())}"
                )
            if target in values:
                raise ConfigError(f"{provider}: {name!r} and {target!r} are the same option")
            values[target] = value
        try:
            if "walltime" in options:
                values["walltime_s"] = seconds_of(options["walltime"])
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{provider}: {error}") from error

    def job(self, name: str, commands: Iterable[str], folder: str | os.PathLike[str]) -> JobSpec:
        """Return the specification of a job that asks for one block.

        Parameters
        ----------
        name : str
            The job's name.
        commands : iterable of str
            Lines of shell text that run on its first node.
        folder : path
            An existing folder that the nodes see too.
        """
        return JobSpec(
            name=name,
            commands=tuple(commands),
            folder=os.path.abspath(folder),
            nodes=self.nodes_per_block,
            cores_per_node=self.cores_per_node,
            gpus_per_node=self.gpus_per_node,
            memory_per_node_bytes=self.memory_per_node_bytes,
            walltime_s=self.walltime_s,
            account=self.account,
            queue=self.queue,
            qos=self.qos,
            constraint=self.constraint,
            reservation=self.reservation,
            exclusive=self.exclusive,
            directives=self.directives,
            worker_init=self.worker_init,
            modules=self.modules,
            env=self.env,
        )


def seconds_of(walltime: object) -> float:
    """Return the seconds of ``[[days-]HH:]MM:SS``, or of a number of seconds.

    Raises
    ------
    ConfigError
        It is neither.

    Examples
    --------
    >>> seconds_of("01:30:00"), seconds_of("2-00:00:00"), seconds_of("05:00"), seconds_of(60)
    (5400.0, 172800.0, 300.0, 60.0)
    """
    if _is_number(walltime):
        return float(walltime)  # type: ignore[arg-type]
    match = isinstance(walltime, str) and re.fullmatch(
        r"(?:(?P<d>\d+)-)?(?:(?P<h>\d+):)?(?P<m>\d+):(?P<s>\d+)", walltime.strip(), re.ASCII
    )
    if not match:
        raise ConfigError(f"walltime={walltime!r}: HH:MM:SS is needed, or seconds")
    days, hours, minutes, seconds = (int(match[part] or 0) for part in "dhms")
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def minutes_of(walltime_s: float) -> int:
    """Return whole minutes, the next full one: a job never gets less than it asked for."""
    return max(1, math.ceil(walltime_s / 60 - 1e-9))


def clock_of(walltime_s: float) -> str:
    """Return ``HH:MM:SS``, the next full second; hours may have more than two digits."""
    seconds = max(1, math.ceil(walltime_s - 1e-9))
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def megabytes_of(memory_bytes: int) -> int:
    """Return whole MiB, the next full one."""
    return max(1, -(-memory_bytes // (1 << 20)))


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_line(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip() or re.search(r"[\n\r\0]", value):
        raise ConfigError(f"{name}: {value!r} is not one line of text")


def _checked_env(env: object) -> Mapping[str, str]:
    if not isinstance(env, Mapping):
        raise ConfigError(f"env={env!r}: a mapping of str to str is needed")
    for name, value in env.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise ConfigError(f"env: {name!r} is not the name of a shell variable")
        if not isinstance(value, str) or "\0" in value:
            # The value may be a secret: its type is all that is told.
            raise ConfigError(f"env: the value of {name} is no text but {type(value).__name__}")
    return dict(env)
