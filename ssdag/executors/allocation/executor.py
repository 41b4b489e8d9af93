# SPDX-License-Identifier: BSD-3-Clause
"""The allocation executor: tasks as steps on the nodes that we have."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ssdag.errors import ConfigError, UnsupportedError
from ssdag.executors.allocation.hub import Hub
from ssdag.executors.allocation.launching import Launching
from ssdag.executors.allocation.mpi import find_launcher
from ssdag.executors.allocation.request import request_of
from ssdag.executors.allocation.slots import SlotTable
from ssdag.executors.base import Capabilities, Executor
from ssdag.launchers import Launcher, SingleLauncher
from ssdag.launchers.named import launcher_of
from ssdag.providers.base import Node, Provider
from ssdag.resources import check_seconds
from ssdag.wire import guard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.executors.base import Sink
    from ssdag.tasks import AppFuture, Options, Task


class AllocationExecutor(Executor):
    """Runs tasks as steps on slots (cores and GPUs) of the nodes that we have.

    Started inside a job of a scheduler it uses the job's nodes; elsewhere this machine.
    What a task needs is in its ``resources``: ``ranks``, ``ranks_per_node``, ``nodes``,
    ``cores_per_rank``, ``gpus_per_rank`` for steps with ranks; ``cores`` and ``gpus`` for
    one process; ``nodes`` alone for whole nodes; ``memory_bytes`` on each node. A task
    without resources gets one core. Steps run side by side without overlap, and slots
    are filled again as steps end, the largest priority first; small steps fill the holes
    before large ones, which get their turn after ``reserve_after_s``.

    An ``mpi_app`` and a ``bash_app`` with ranks are started once for each rank, by the
    launcher. A ``bash_app`` whose command mentions ``$SSDAG_LAUNCH``, or which asks for
    ``nodes`` without ranks, runs once, beside the driver, and starts its ranks itself:
    the variable holds the launch line of its slots. A ``python_app`` gets an interpreter
    of its own, which costs some 0.1 s: for many short ones use a ``PilotExecutor``.

    Parameters
    ----------
    provider : Provider or str
        Who knows the allocation: an object, a name such as "slurm", or "auto".
    launcher : Launcher or str, optional
        What starts steps, or its name, such as "mpiexec"; by default the provider's, and
        on a machine without scheduler the ``mpiexec`` or ``mpirun`` that is found.
    label : str
        Its name, for ``executors=`` of apps.
    nodes : int or sequence of Node, optional
        Use only so many of the allocation's nodes, or these.
    folder : path, optional
        Where files of steps lie for a moment; all nodes must see it. By default a
        hidden folder in the current one, or a temporary one if this machine is all.
    pin : bool
        Bind steps to their cores.
    reserve_after_s : float
        Seconds after which nodes are kept free for a step that does not fit.
    grace_s : float
        Seconds between SIGTERM and SIGKILL for a step that is ended.

    Raises
    ------
    ConfigError
        An option is of the wrong type or out of range.
    """

    capabilities = Capabilities(
        steps=True,
        resources=frozenset(
            {"nodes", "ranks", "ranks_per_node", "cores_per_rank", "gpus_per_rank", "cores",
             "gpus", "memory_bytes"}
        ),
    )  # fmt: skip

    def __init__(
        self,
        provider: Provider | str = "auto",
        *,
        launcher: Launcher | str | Mapping[str, Any] | None = None,
        label: str = "allocation",
        nodes: int | Sequence[Node] | None = None,
        folder: str | os.PathLike[str] | None = None,
        pin: bool = True,
        reserve_after_s: float = 30.0,
        grace_s: float = 5.0,
    ) -> None:
        super().__init__(label)
        if not isinstance(provider, (Provider, str)):
            raise ConfigError(f"provider={provider!r}: a Provider, its name or 'auto' is needed")
        if launcher is not None and not isinstance(launcher, (Launcher, str, Mapping)):
            raise ConfigError(f"launcher={launcher!r}: a Launcher or its name is needed")
        for name, value in (("reserve_after_s", reserve_after_s), ("grace_s", grace_s)):
            check_seconds(name, value)
        self._provider = provider
        self._launcher = None if launcher is None else launcher_of(launcher)
        self._asked = _checked_nodes(nodes)
        self._given_folder = None if folder is None else os.path.abspath(folder)
        self._pin = bool(pin)
        self._reserve_after_s = float(reserve_after_s)
        self._grace_s = float(grace_s)
        self._made_folder: str | None = None
        self._lock = threading.Lock()
        self._hub: Hub | None = None
        self._launching: Launching | None = None
        self._here = True
        self.nodes: tuple[Node, ...] = ()

    @property
    def capacity(self) -> int:
        """Cores of the allocation."""
        return max(1, sum(node.cores for node in self.nodes))

    @property
    def outstanding(self) -> int:
        """Tasks that wait for slots or run."""
        return self._hub.outstanding if self._hub is not None else 0

    @property
    def provider(self) -> Provider:
        """Who knows the allocation."""
        if isinstance(self._provider, str):
            from ssdag.providers.auto import named

            self._provider = named(self._provider)
        return self._provider

    @property
    def asked_nodes(self) -> int | tuple[Node, ...] | None:
        """How many nodes, or which, it was told to use."""
        return self._asked

    def assume(self, nodes: Sequence[Node] = ()) -> Launching:
        """Say how steps would be launched, without starting anything; for plans.

        Parameters
        ----------
        nodes : sequence of Node, optional
            The allocation to assume; by default the one that we are in.

        Raises
        ------
        ConfigError
            There are no nodes.
        """
        if nodes:
            self._asked = tuple(nodes)
        if nodes or self._launching is None:
            self._find_nodes()
        assert self._launching is not None
        return self._launching

    def start(self, sink: Sink) -> None:
        """Find the nodes and begin to serve.

        Raises
        ------
        ConfigError
            There is no allocation: we are not inside a job of this scheduler.
        """
        if self._hub is not None:
            raise ConfigError(f"executor {self.label!r} already belongs to an engine")
        self._find_nodes()
        assert self._launching is not None
        hub = Hub(
            self.label,
            self.nodes,
            self._launching,
            self._folder,
            self._reserve_after_s,
            self._grace_s,
            sink,
        )
        self._hub = hub
        hub.start()

    def submit(self, task: Task) -> AppFuture[Any] | None:
        """Let a ready task wait for its slots; returns its future."""
        assert self._hub is not None
        future = task.future
        self._hub.put(task, request_of(task.options.resources, mpi=task.app.kind == "mpi"))
        return future

    def cancel(self, task: Task) -> bool:
        """Take a waiting task back, or end its step."""
        assert self._hub is not None
        self._hub.cancel(task)
        return True

    def shutdown(self) -> None:
        """End all steps; blocks until they are gone."""
        if self._hub is not None:
            self._hub.stop()
        if self._made_folder is not None:
            shutil.rmtree(self._made_folder, ignore_errors=True)
            guard.release_path(self._made_folder)

    def check(self, options: Options, kind: str) -> str | None:
        """Say why a task can never run here; None if it can."""
        try:
            request = request_of(options.resources, mpi=kind == "mpi")
        except UnsupportedError as error:
            return f"executor {self.label!r}: {error}"
        if kind == "python" and (request.launched or request.ranks > 1):
            return (
                f"executor {self.label!r}: a python_app is one process; "
                "mpi_app(python=True) runs a function on every rank"
            )
        if not self.nodes or self._launching is None:
            return None
        refusal = SlotTable(self.nodes).refusal(request)
        if refusal is not None:
            return f"executor {self.label!r}: {refusal}"
        refusal = self._launching.refusal(request)
        return None if refusal is None else f"executor {self.label!r}: {refusal}"

    # -- where we are ----------------------------------------------------------------

    def _find_nodes(self) -> None:
        provider = self.provider
        found = provider.allocation()
        if not isinstance(self._asked, tuple) and (found is None or not found.nodes):
            raise ConfigError(
                f"executor {self.label!r}: this process is in no job of {provider.name}, so "
                "there are no nodes to use; start it inside one (salloc, sbatch, qsub -I ...), "
                "or use a PilotExecutor or BatchExecutor, which ask for nodes themselves"
            )
        if isinstance(self._asked, tuple):
            self.nodes = self._asked
        else:
            assert found is not None
            self.nodes = found.nodes[: self._asked]
            if self._asked is not None and len(self.nodes) < self._asked:
                raise ConfigError(
                    f"executor {self.label!r}: nodes={self._asked}, but the allocation has "
                    f"{len(self.nodes)}"
                )
        ours = ("localhost", socket.gethostname())
        self._here = (
            provider.name == "local" and len(self.nodes) == 1 and self.nodes[0].host in ours
        )
        launcher = self._launcher or provider.launcher()
        chosen: Launcher | None = launcher
        if isinstance(launcher, SingleLauncher) and self._launcher is None:
            chosen = find_launcher()
        self._launching = Launching(self.nodes, chosen, here=self._here, pin=self._pin)

    def _folder(self) -> str:
        """Return the folder for files of steps, made on first use."""
        with self._lock:
            if self._made_folder is None:
                where = self._given_folder
                if where is None and not self._here:
                    where = os.getcwd()
                if where is not None:
                    os.makedirs(where, exist_ok=True)
                self._made_folder = tempfile.mkdtemp(prefix=".ssdag-steps-", dir=where)
                guard.path(self._made_folder)
            return self._made_folder


def _checked_nodes(nodes: Any) -> int | tuple[Node, ...] | None:
    if nodes is None:
        return None
    if isinstance(nodes, int) and not isinstance(nodes, bool):
        if nodes < 1:
            raise ConfigError(f"nodes={nodes}: at least 1 is needed")
        return nodes
    if isinstance(nodes, (list, tuple)) and nodes and all(isinstance(n, Node) for n in nodes):
        return tuple(nodes)
    raise ConfigError(f"nodes={nodes!r}: a number or a list of Node is needed")
