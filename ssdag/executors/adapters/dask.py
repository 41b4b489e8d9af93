# SPDX-License-Identifier: BSD-3-Clause
"""Dask as an executor of tasks: a cluster that runs already, or one made here."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from ssdag.errors import ConfigError
from ssdag.executors.adapters.calls import pack_call, run_call, unpack_answer
from ssdag.executors.adapters.foreign import ForeignExecutor
from ssdag.executors.base import Capabilities

if TYPE_CHECKING:
    from ssdag.tasks import Outcome, Task

#: Dask calls the resources of its workers by names that users choose; these are usual.
_GPU = "GPU"
#: Workers come and go; they are counted again after so long.
_COUNT_EVERY_S = 2.0


class DaskExecutor(ForeignExecutor):
    """Runs tasks on Dask's distributed scheduler.

    Priorities go through; ``gpus`` asks for the abstract resource ``GPU`` that workers
    were started with. A body that runs cannot be killed, so ``walltime_s`` of Python
    apps is refused; that of a cancelled task goes on in its worker, and nobody sees what
    it returns. Clusters started elsewhere run a task whose worker died three times more,
    unless ``distributed.scheduler.allowed-failures`` says otherwise; ours do not.

    Parameters
    ----------
    client : distributed.Client or str, optional
        A client, which stays yours, or the address of a scheduler. Without it a cluster
        of processes on this machine is started, and ended with the engine.
    label : str, optional
        Its name, for ``executors=`` of apps.
    **cluster : object
        Options of ``distributed.LocalCluster``: ``n_workers``, ``threads_per_worker``...

    Raises
    ------
    ConfigError
        The package ``distributed`` is missing.
    """

    capabilities = Capabilities(walltime=False, resources=frozenset({"cores", "gpus"}))

    # Dask keeps priorities itself, and takes some milliseconds for a lone task.
    _ahead = 64

    def __init__(self, client: Any = None, label: str = "dask", **cluster: Any) -> None:
        super().__init__(label)
        if client is not None and cluster:
            raise ConfigError(
                f"DaskExecutor: {', '.join(cluster)} describe a new cluster, but a client was given"
            )
        self._given = client
        self._cluster_options = cluster
        self._client: Any = None
        self._cluster: Any = None
        self._threads = 1
        self._counted_s = -math.inf

    @property
    def capacity(self) -> int:
        """Threads of all workers."""
        if self._client is None:
            return 1
        now = time.monotonic()
        if now > self._counted_s + _COUNT_EVERY_S:  # asking costs a round trip
            self._counted_s = now
            self._threads = sum(self._client.nthreads().values()) or 1
        return self._threads

    def _open(self) -> None:
        try:
            import dask
            from distributed import Client, LocalCluster
        except ImportError as error:
            raise ConfigError(
                "DaskExecutor needs the package distributed: pip install distributed"
            ) from error
        if self._given is not None and not isinstance(self._given, str):
            self._client = self._given
            return
        if self._given is None:
            options = {"threads_per_worker": 1, "dashboard_address": None, **self._cluster_options}
            with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
                self._cluster = LocalCluster(**options)
        try:
            self._client = Client(self._given or self._cluster, set_as_default=False)
        except BaseException:
            if self._cluster is not None:
                self._cluster.close()
            raise

    def _close(self) -> None:
        if self._client is not self._given:
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def _send(self, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        needs = task.options.resources
        resources = {_GPU: needs.gpus} if needs is not None and needs.gpus else None
        return self._client.submit(
            run_call,
            pack_call(task, args, kwargs),
            pure=False,
            priority=task.options.priority,
            resources=resources,
            retries=0,
        )

    def _outcome(self, task: Task, handle: Any) -> Outcome:
        value, error, took = unpack_answer(handle.result())
        return self._timed(task, value, error, took)

    def _stop(self, task: Task, handle: Any) -> bool:
        if handle.done():
            return False
        handle.cancel()
        return True
