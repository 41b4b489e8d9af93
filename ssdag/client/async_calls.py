# SPDX-License-Identifier: BSD-3-Clause
"""The part of a client that coroutines use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ssdag.client.base import ClientBase

if TYPE_CHECKING:
    from ssdag.client.async_client import AsyncClient
    from ssdag.client.client import Client


class AsyncCalls(ClientBase):
    """The same calls for coroutines; see :class:`ssdag.Client`."""

    _aio: AsyncClient | None = None

    @property
    def aio(self) -> AsyncClient:
        """The same calls to be awaited, over the same connections: ``await client.aio.ping()``."""
        with self._lock:
            if self._aio is None:
                from ssdag.client.async_client import AsyncClient

                self._aio = AsyncClient(cast("Client", self))
            return self._aio

    def release(self) -> None:
        """Close the idle connections and let threads go; the next call makes new ones."""
        super().release()
        aio: Any = self._aio
        if aio is not None:
            aio.release()
