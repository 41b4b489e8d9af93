# SPDX-License-Identifier: BSD-3-Clause
"""Futures of data: what a service of data gives to tasks that wait for data."""

from __future__ import annotations

import contextlib
from concurrent.futures import InvalidStateError
from typing import TYPE_CHECKING, Any

from ssdag.client.resp import key_bytes
from ssdag.client.watch import close_watcher, watcher_for
from ssdag.errors import ServiceError, SsdagError, StoreError
from ssdag.futures import DataFuture
from ssdag.services.node import ServiceNode

if TYPE_CHECKING:
    from ssdag.client.client import Client
    from ssdag.client.npy import Array
    from ssdag.futures import Future


class DataFutures(ServiceNode):
    """A service whose ready future holds a reference to a client; see Orchestrator."""

    def tensor(self, name: str) -> DataFuture[Array]:
        """Return the future of a tensor: done when somebody has put it, wherever.

        Does not block; the server is started in the background if need be. A task that
        takes the future runs when the tensor is there, and fetches it where it runs;
        ``result()`` fetches it here. It fails with StoreError if the server is lost,
        and waits for ever if nobody puts the tensor (its writer failed, the name is
        misspelt): see :class:`~ssdag.DataFuture`.

        Parameters
        ----------
        name : str
            The tensor; it may be there already.

        Raises
        ------
        DataFormatError
            The name cannot be one.
        """
        key_bytes(name)
        future: DataFuture[Array] = DataFuture(name, "tensor", source=self)

        def watch(ready: Future[Any]) -> None:
            error = ready.exception() or self._lost()
            if error is None:
                watcher_for(ready.result()).watch(name, future)
            else:
                with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
                    future.set_exception(error)

        self._when_ready(watch)
        return future

    def _lost(self) -> SsdagError | None:
        """Return why the server is gone, None while it is not."""
        if not self._state.final:
            return None
        return self._error or ServiceError(f"{self.name} was stopped")

    def _fail_futures(self, client: Client, error: SsdagError) -> None:
        """Fail what still waits for data, because the server has ended or is given up."""
        failure = error
        if not isinstance(error, StoreError):
            failure = StoreError(f"{self.name!r} was stopped while data were awaited")
            failure.transient = False
        close_watcher(client, failure)
