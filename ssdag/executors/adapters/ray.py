# SPDX-License-Identifier: BSD-3-Clause
"""Ray as an executor of tasks: a cluster that runs already, or one made here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssdag.errors import ConfigError
from ssdag.executors.adapters.calls import pack_call, run_call, unpack_answer
from ssdag.executors.adapters.foreign import ForeignExecutor
from ssdag.executors.base import Capabilities

if TYPE_CHECKING:
    from ssdag.tasks import Outcome, Task


class RayExecutor(ForeignExecutor):
    """Runs tasks on Ray.

    ``cores``, ``gpus`` and ``memory_bytes`` go through as Ray's resources. A running
    task can be cancelled: Ray kills its worker. ``walltime_s`` of Python apps is
    refused, because Ray has no time limits.

    Parameters
    ----------
    address : str, optional
        Of a cluster ("auto" finds one on this machine). Without it Ray is started here
        if it does not run already, and ended with the engine.
    label : str, optional
        Its name, for ``executors=`` of apps.
    **init : object
        Options of ``ray.init``: ``num_cpus``, ``num_gpus``, ``runtime_env``...

    Raises
    ------
    ConfigError
        The package ``ray`` is missing.
    """

    capabilities = Capabilities(
        walltime=False, resources=frozenset({"cores", "gpus", "memory_bytes"})
    )

    def __init__(self, address: str | None = None, label: str = "ray", **init: Any) -> None:
        super().__init__(label)
        self._address = address
        self._init = init
        self._ray: Any = None
        self._ours = False
        self._remote: Any = None
        self._refs: dict[Any, Any] = {}
        self._cores = 1

    @property
    def capacity(self) -> int:
        """CPUs of the cluster, as it was when the engine started."""
        return self._cores

    def _open(self) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError("RayExecutor needs the package ray: pip install ray") from error
        self._ray = ray
        if not ray.is_initialized():
            options = {"log_to_driver": False, "include_dashboard": False, **self._init}
            if self._address is not None:
                options.pop("include_dashboard")
            ray.init(address=self._address, **options)
            self._ours = True
        self._cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._remote = ray.remote(max_retries=0)(run_call)

    def _close(self) -> None:
        if self._ours:
            self._ray.shutdown()

    def _send(self, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        needs = task.options.resources
        options: dict[str, Any] = {}
        if needs is not None:
            options["num_cpus"] = needs.cores or 1
            if needs.gpus:
                options["num_gpus"] = needs.gpus
            if needs.memory_bytes:
                options["memory"] = needs.memory_bytes
        remote = self._remote.options(**options) if options else self._remote
        reference = remote.remote(pack_call(task, args, kwargs))
        future = reference.future()
        self._refs[future] = reference
        return future

    def _outcome(self, task: Task, handle: Any) -> Outcome:
        self._refs.pop(handle, None)
        value, error, took = unpack_answer(handle.result())
        return self._timed(task, value, error, took)

    def _stop(self, task: Task, handle: Any) -> bool:
        reference = self._refs.get(handle)
        if reference is None or handle.done():
            return False
        self._ray.cancel(reference, force=True)
        return True
