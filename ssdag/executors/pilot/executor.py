# SPDX-License-Identifier: BSD-3-Clause
"""The pilot executor: workers on many nodes, in blocks that a provider grants."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from ssdag.errors import ConfigError, UnsupportedError
from ssdag.executors.base import Capabilities, Executor
from ssdag.executors.local.switching import SWITCH_INTERVAL
from ssdag.executors.pilot import manager, node
from ssdag.executors.pilot.blocks import Blocks
from ssdag.executors.pilot.contact import Entrance, RunFolder
from ssdag.executors.pilot.scaling import Limits
from ssdag.launchers.base import Step
from ssdag.providers.auto import named
from ssdag.providers.base import Provider
from ssdag.resources import check_seconds
from ssdag.wire.shared import THRESHOLD_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssdag.executors.base import Sink
    from ssdag.executors.pilot.hub import PilotHub
    from ssdag.launchers.base import Launcher
    from ssdag.providers.base import JobSpec
    from ssdag.tasks import AppFuture, Options, Task

_log = logging.getLogger("ssdag.executors")

#: A cancel waits so long for the manager's answer.
_CANCEL_WAIT_S = 2.0
#: Where these are, a script runs on a node that is none of its block's.
_FROM_OUTSIDE = ("aprun", "jsrun")
#: Launchers that would give a manager one core of its node, and how they give all.
_WHOLE_NODES = {
    "jsrun": ("--cpu_per_rs=ALL_CPUS", "--gpu_per_rs=ALL_GPUS"),
    "flux": ("--exclusive",),
}
_SWITCH_INTERVAL_S = 0.0005


class PilotExecutor(Executor):
    """Runs tasks in worker processes on the nodes of blocks.

    A block is a job of the provider's scheduler. On each of its nodes a manager runs,
    which connects to the driver and keeps workers beneath it: ``min(cores /
    cores_per_worker, memory / memory_per_worker_bytes, number of accelerators,
    workers_per_node)`` of them. Blocks are asked for as tasks wait, and given back when
    they have been idle, between the provider's ``min_blocks`` and ``max_blocks``.

    A task with ``walltime_s`` is not started on a block that would end before it. A task
    that the end of its block cuts is run again elsewhere, at no cost for its retries (up
    to three times): its body may so have run in part before. A task on a node that is
    lost fails with :class:`~ssdag.WorkerLostError`, or is retried as ``retries`` says;
    what had not begun there goes elsewhere. If the driver dies, managers end themselves
    within `heartbeat_limit_s`.

    Parameters
    ----------
    provider : Provider or str
        Grants blocks; its options say how many, how large and how long. A name such as
        "slurm", or "auto", stands for the provider with its defaults.
    launcher : Launcher, optional
        Starts the managers on the nodes of a block; the default is the provider's own
        where a block has several nodes, or scripts do not run on its nodes.
    label : str, optional
        Its name, for ``executors=`` of apps.
    workers_per_node : int, optional
        Most workers on a node.
    cores_per_worker : float, optional
        Cores for each worker; 0.5 puts two of them on a core.
    memory_per_worker_bytes : int, optional
        Memory for each worker.
    affinity : str or list of list of int, optional
        Binds workers to cores before they import anything: "none", "block" (neighbours),
        "alternating", or the cores of each worker.
    accelerators : int or list of str, optional
        GPUs of a node, one for each worker, by ``CUDA_VISIBLE_DEVICES`` and its kin;
        Aurora's tiles are ``["0.0", "0.1", "1.0", ...]``.
    env : mapping of str to str, optional
        Added to the workers' environment.
    heartbeat_s, heartbeat_limit_s : float, optional
        How often both sides say that they live; how long one may be silent.
    drain_s : float, optional
        No task is started on a block whose end is so near.
    max_idle_s : float, optional
        Blocks above ``min_blocks`` go after so long without work.
    failures_allowed : int, optional
        Blocks in a row that may fail; then all tasks that wait fail with
        :class:`~ssdag.BlockError`.
    address : str, optional
        Name or address of this machine at which nodes reach it; the default is all of
        its interfaces, or loopback for a provider of this machine alone.
    tunnel : bool, optional
        The nodes cannot reach this machine, but the host that the provider reaches by ssh:
        a program there passes on what they send, through ssh, to us and to orchestrators of
        this process. Here, nothing listens but on loopback.
    encrypt : bool, optional
        Encrypt the links (CurveZMQ); the default is True, except on loopback.
    run_dir : path, optional
        Folder that all nodes see, for scripts, outputs and keys.
    python : str, optional
        The interpreter on the nodes, where ssdag is installed; the default is this one.
    threshold_bytes : int, optional
        On a node, arrays of this many bytes or more go through shared memory.

    Raises
    ------
    ConfigError
        An option is out of range.
    """

    capabilities = Capabilities(walltime=True)

    def __init__(
        self,
        provider: Provider | str,
        *,
        launcher: Launcher | None = None,
        label: str = "pilot",
        workers_per_node: int | None = None,
        cores_per_worker: float = 1,
        memory_per_worker_bytes: int | None = None,
        affinity: str | Sequence[Sequence[int]] = "none",
        accelerators: int | Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        heartbeat_s: float = 2.0,
        heartbeat_limit_s: float = 20.0,
        drain_s: float = 0.0,
        max_idle_s: float = 60.0,
        failures_allowed: int = 3,
        address: str | None = None,
        tunnel: bool = False,
        encrypt: bool | None = None,
        run_dir: str | os.PathLike[str] = "ssdag-runs",
        python: str | None = None,
        threshold_bytes: int = THRESHOLD_BYTES,
    ) -> None:
        super().__init__(label)
        if isinstance(provider, str):
            provider = named(provider)
        if not isinstance(provider, Provider):
            raise ConfigError(f"PilotExecutor(provider={provider!r}): a Provider is needed")
        self._wishes: dict[str, Any] = {
            "workers_per_node": workers_per_node,
            "cores_per_worker": cores_per_worker,
            "memory_per_worker_bytes": memory_per_worker_bytes,
            "affinity": affinity if isinstance(affinity, str) else [list(c) for c in affinity],
            "accelerators": accelerators,
            "env": dict(env or {}),
        }
        self._per_node = node.checked(**self._wishes)
        for name, value in (("heartbeat_s", heartbeat_s), ("heartbeat_limit_s", heartbeat_limit_s),
                            ("drain_s", drain_s), ("max_idle_s", max_idle_s)):  # fmt: skip
            check_seconds(name, value)
        if not 0 < 2 * heartbeat_s <= heartbeat_limit_s:
            raise ConfigError(
                f"heartbeat_limit_s={heartbeat_limit_s} must be at least twice "
                f"heartbeat_s={heartbeat_s}, which is above 0"
            )
        if type(failures_allowed) is not int or failures_allowed < 1:
            raise ConfigError(f"failures_allowed={failures_allowed!r}: an int of at least 1")
        # A login host has what nodes have only once a job's script has set it up.
        login_python = python if python and os.path.isabs(python) else "python3"
        self._entrance = Entrance(provider, address, tunnel=tunnel, python=login_python)
        self._encrypt = self._entrance.exposed if encrypt is None else bool(encrypt)
        if self._entrance.exposed and not self._encrypt:
            _log.warning(
                "executor %r: encrypt=False sends functions, arguments and results in clear "
                "text; others on the network can read and change them",
                label,
            )
        self._provider = provider
        self.reach = "node" if provider.name == "local" else "anywhere"
        self._launcher = launcher
        self._beat_s, self._limit_s = float(heartbeat_s), float(heartbeat_limit_s)
        self._drain_s, self._max_idle_s = float(drain_s), float(max_idle_s)
        self._failures_allowed = failures_allowed
        self._run_dir = run_dir
        self._python = python
        self._threshold = threshold_bytes
        self._pid = os.getpid()
        self._hub: PilotHub | None = None
        self._blocks: Blocks | None = None
        self._folder: RunFolder | None = None
        known = {"gpus"} if self._per_node.accelerators else set()
        if self._per_node.memory_per_worker_bytes:
            known.add("memory_bytes")
        self.capabilities = Capabilities(resources=Capabilities().resources | known)

    @property
    def provider(self) -> Provider:
        """Who grants its blocks."""
        return self._provider

    @property
    def launcher(self) -> Launcher | None:
        """What starts the managers of a block; None where nothing stands in front."""
        if self._launcher is not None:
            return self._launcher
        launcher = self._provider.launcher()
        several = self._provider.options.nodes_per_block > 1
        return launcher if several or launcher.name in _FROM_OUTSIDE else None

    @property
    def per_node(self) -> node.Wishes:
        """How a node is shared out among workers."""
        return self._per_node

    # -- what the engine asks --------------------------------------------------------

    @property
    def capacity(self) -> int:
        """Tasks that all blocks together run at a time, as far as is known."""
        return (self._slots_per_block() or 1) * self._provider.options.max_blocks

    @property
    def outstanding(self) -> int:
        """Tasks queued or held by managers."""
        hub = self._hub
        if hub is None:
            return 0
        held = sum(len(peer.held) for peer in tuple(hub.peers.values()))
        return len(hub.queue) + len(hub.parked) + held

    def check(self, options: Options, kind: str) -> str | None:
        """Say why it cannot honour a task's options; None if it can."""
        limit = self._provider.options.walltime_s
        if options.walltime_s is not None and options.walltime_s > limit:
            return (
                f"executor {self.label!r} has blocks of {limit:g} s, which no task with "
                f"walltime_s={options.walltime_s:g} survives"
            )
        needs = options.resources
        if needs is None:
            return None
        most = {"cores": max(1, int(self._per_node.cores_per_worker)), "nodes": 1, "ranks": 1,
                "gpus": 1, "memory_bytes": self._per_node.memory_per_worker_bytes or 0}  # fmt: skip
        for item in fields(needs):
            value = getattr(needs, item.name)
            if value is None or item.name in ("walltime_s", "priority"):
                continue
            if item.name not in self.capabilities.resources:
                return f"executor {self.label!r} does not manage {item.name} ({value} was asked)"
            if value > most[item.name]:
                return (
                    f"a worker of executor {self.label!r} has {item.name}={most[item.name]} "
                    f"({value} was asked)"
                )
        return None

    def job(self, number: int) -> JobSpec:
        """Return the job of a block; what :meth:`start` has made must be there."""
        run = self._folder
        word = "".join(c if c.isalnum() or c in "-_" else "_" for c in self.label)
        folder = os.path.abspath(self._run_dir) if run is None else run.path
        job = self._provider.job(f"ssdag-{word}-{number}", (), folder)
        if run is None:
            return replace(job, commands=(shlex.join(self.command("CONTACT", number)),))
        self._tell()
        # The folder may be one on another machine, where the file is brought.
        contact = os.path.join(job.folder, os.path.basename(run.contact))
        line = shlex.join(self.command(contact, number))
        return replace(job, commands=(line,), files=(run.contact,))

    def command(self, contact: str, number: int) -> list[str]:
        """Return the argument list that starts the managers of a block."""
        if self._python is not None:
            argv = [self._python, "-m", "ssdag.executors.pilot.manager"]
        else:
            # -P: what lies in the current folder must not shadow the standard library.
            argv = [sys.executable, "-P", os.path.abspath(manager.__file__)]
        argv += ["--contact", contact, "--block", str(number)]
        nodes = self._provider.options.nodes_per_block
        launcher = self.launcher
        if launcher is None:
            return argv
        layout: dict[str, Any] = {"ranks": nodes, "nodes": nodes, "ranks_per_node": 1}
        layout["options"] = _WHOLE_NODES.get(launcher.name, ())
        try:  # beside other steps, on all cores of the node
            return launcher.command(Step(tuple(argv), **layout, binding="none", overlap=True))
        except UnsupportedError:
            return launcher.command(Step(tuple(argv), **layout))

    def start(self, sink: Sink) -> None:
        """Listen, and ask for the first blocks; returns at once."""
        if self._hub is not None:
            raise ConfigError(f"executor {self.label!r} already belongs to an engine")
        from ssdag.executors.pilot.hub import PilotHub
        from ssdag.executors.pilot.security import Keys
        from ssdag.executors.pilot.switchboard import allow_files

        options = self._provider.options
        keys = Keys.make(self._encrypt)
        allow_files(options.max_blocks * options.nodes_per_block)
        self._pid = os.getpid()
        hub = PilotHub(self.label, keys, sink, self._beat_s, self._limit_s, self._drain_s)
        hub.answer = self._entrance.answer
        try:
            self._entrance.listens(hub.switchboard.bind(self._entrance.bind), self._limit_s / 3)
            self._folder = RunFolder(self._run_dir, self.label, keys)
            if self._entrance.direct:  # else it takes a while, and is done for the first block
                self._tell()
        except OSError as error:
            hub.switchboard.close()
            raise ConfigError(
                f"executor {self.label!r} cannot listen at {self._entrance.bind}, or make a "
                f"folder in run_dir={os.fspath(self._run_dir)!r}: {error}"
            ) from error
        hub.blocks = self._blocks = Blocks(
            self.label, self._provider, hub,
            Limits(options.min_blocks, options.max_blocks, options.parallelism, self._max_idle_s),
            self.job, init_blocks=max(options.init_blocks, options.min_blocks),
            slots_per_block=self._slots_per_block(), failures_allowed=self._failures_allowed,
        )  # fmt: skip
        SWITCH_INTERVAL.shorten(_SWITCH_INTERVAL_S)
        self._hub = hub
        hub.start()
        self._blocks.start()

    def submit(self, task: Task) -> AppFuture[Any] | None:
        """Queue a ready task; returns its future."""
        assert self._hub is not None
        future = task.future
        self._hub.put(task)
        return future

    def submit_many(self, tasks: Sequence[Task]) -> None:
        """Queue ready tasks of one app."""
        assert self._hub is not None
        self._hub.put_many(tasks)

    def cancel(self, task: Task) -> bool:
        """Take the task back, or have its worker killed; waits for that, 2 s at most."""
        hub = self._hub
        if hub is None or not hub.is_alive():
            return False
        hub.cancel(task, _CANCEL_WAIT_S)
        return True

    def shutdown(self) -> None:
        """Cancel all blocks; blocks until they are gone, with a deadline.

        In a forked copy of the process nothing happens: all is the parent's.
        """
        if self._hub is None or os.getpid() != self._pid:
            return
        failed = self._hub.failure is not None
        self._hub.stop()
        self._entrance.close()  # first: blocks may be waiting for it to open
        if self._blocks is not None:
            self._blocks.stop()
        SWITCH_INTERVAL.restore()
        if self._folder is not None:
            # Scripts and last words of blocks that failed are worth a look.
            self._provider.tidy(self._folder.path, everything=not failed)
            self._folder.remove(everything=not failed)
            self._folder = None
        self._provider.close()

    def _tell(self) -> None:
        """Write the file by which managers find us, if there is something new in it."""
        assert self._folder is not None
        if (news := self._entrance.news()) is not None:
            self._folder.write({
                **news, "label": self.label, "wishes": self._wishes,
                "heartbeat_s": self._beat_s, "heartbeat_limit_s": self._limit_s,
                "threshold_bytes": self._threshold, "elsewhere": self._entrance.elsewhere,
            })  # fmt: skip

    def _slots_per_block(self) -> int | None:
        options = self._provider.options
        cores, limit = options.cores_per_node, self._per_node.workers_per_node
        if cores is None and limit is None:
            return None
        each = self._per_node.count(cores or 1 << 20, options.memory_per_node_bytes or 1 << 62)
        return max(each, 1) * options.nodes_per_block
