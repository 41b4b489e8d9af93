# SPDX-License-Identifier: BSD-3-Clause
"""The client for coroutines: every call as an awaitable, which never blocks the event loop.

Calls run in a few threads of their own, in which the interpreter lock is free while data
travel. Waiting for data takes no thread: it is an event of the connection that all who
wait in this process share.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from ssdag.client.client import Client
from ssdag.client.steering.coroutines import AsyncCheckpoint, AsyncSteering, AsyncStepCounter
from ssdag.client.streams.coroutines import AsyncStream
from ssdag.client.transport.resp import key_bytes
from ssdag.client.waiting import conditions
from ssdag.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from types import TracebackType
    from typing import Self

    from ssdag.client.datasets.dataset import Dataset
    from ssdag.client.waiting.conditions import Comparison, Condition

T = TypeVar("T")
P = ParamSpec("P")


def _awaited(
    method: Callable[Concatenate[Client, P], T],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """Return the counterpart of a method of the client that is awaited."""

    @functools.wraps(method)
    async def call(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        made: T = await self._in_thread(getattr(self.client, method.__name__), *args, **kwargs)
        return made

    return call


class AsyncClient:
    """A client whose calls are awaited; the same calls as those of :class:`ssdag.Client`.

    ``client.aio`` of any client is one that shares its connections. A coroutine that is
    cancelled in the middle of a call does not stop that: it goes on in its thread, and
    what it writes may be written. A cancelled wait ends at once.

    Parameters
    ----------
    address : str or Client, optional
        As :class:`ssdag.Client` takes it, or such a client.
    threads : int
        How many calls travel at once; further ones wait for their turn.
    **options
        Of :class:`ssdag.Client`, if it is not given.

    Attributes
    ----------
    client : Client
        The client that does it; what does not block (prefixes, addresses, futures of
        data) is called there.

    Examples
    --------
    ::

        async with AsyncClient("localhost:6379") as client:
            await client.wait_tensor("u")
            u, v = await asyncio.gather(client.get_tensor("u"), client.get_tensor("v"))
    """

    def __init__(
        self, address: str | Client | None = None, *, threads: int = 8, **options: Any
    ) -> None:
        if not isinstance(threads, int) or threads < 1:
            raise ConfigError(f"threads={threads!r}: a whole number from 1 on")
        if isinstance(address, Client):
            if options:
                raise ConfigError(f"a client was given, so {', '.join(options)} cannot be set")
            self.client = address
        else:
            self.client = Client(address, **options)
        self._count = threads
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"<AsyncClient {self.client.address}{' closed' if self.client.closed else ''}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return AsyncClient, (self.client,)

    # -- tensors -----------------------------------------------------------------------

    put_tensor = _awaited(Client.put_tensor)
    get_tensor = _awaited(Client.get_tensor)
    create_tensor = _awaited(Client.create_tensor)
    put_slab = _awaited(Client.put_slab)
    get_tensor_info = _awaited(Client.get_tensor_info)
    get_tensor_ttl = _awaited(Client.get_tensor_ttl)
    expire_tensor = _awaited(Client.expire_tensor)
    tensor_exists = _awaited(Client.tensor_exists)
    delete_tensor = _awaited(Client.delete_tensor)
    put_tensors = _awaited(Client.put_tensors)
    get_tensors = _awaited(Client.get_tensors)
    delete_tensors = _awaited(Client.delete_tensors)
    copy_tensor = _awaited(Client.copy_tensor)
    rename_tensor = _awaited(Client.rename_tensor)
    list_tensors = _awaited(Client.list_tensors)

    # -- datasets and lists ------------------------------------------------------------

    put_dataset = _awaited(Client.put_dataset)
    get_dataset = _awaited(Client.get_dataset)
    dataset_exists = _awaited(Client.dataset_exists)
    copy_dataset = _awaited(Client.copy_dataset)
    rename_dataset = _awaited(Client.rename_dataset)
    delete_dataset = _awaited(Client.delete_dataset)
    list_datasets = _awaited(Client.list_datasets)
    append_to_list = _awaited(Client.append_to_list)
    get_list_length = _awaited(Client.get_list_length)
    get_datasets_from_list = _awaited(Client.get_datasets_from_list)
    get_dataset_list_range = _awaited(Client.get_dataset_list_range)
    copy_list = _awaited(Client.copy_list)
    rename_list = _awaited(Client.rename_list)
    delete_list = _awaited(Client.delete_list)

    async def iter_datasets_from_list(
        self, list_name: str, start: int = 0, end: int = -1, *, missing_ok: bool = False
    ) -> AsyncIterator[Dataset]:
        """Yield the datasets of a list; see :meth:`ssdag.Client.iter_datasets_from_list`."""
        found = self.client.iter_datasets_from_list(list_name, start, end, missing_ok=missing_ok)
        while (dataset := await self._in_thread(next, found, None)) is not None:
            yield dataset

    # -- keys, messages, streams, steering ---------------------------------------------

    get_key = _awaited(Client.get_key)
    key_exists = _awaited(Client.key_exists)
    delete_key = _awaited(Client.delete_key)
    list_keys = _awaited(Client.list_keys)
    publish = _awaited(Client.publish)
    subscribe = _awaited(Client.subscribe)
    steer = _awaited(Client.steer)

    async def stream(self, name: str, **options: Any) -> AsyncStream:
        """Return a stream whose calls are awaited; see :meth:`ssdag.Client.stream`."""
        return AsyncStream(self, await self._in_thread(self.client.stream, name, **options))

    def steering(self, channel: str = "run") -> AsyncSteering:
        """Return a channel of commands; see :meth:`ssdag.Client.steering`. Does not block."""
        return AsyncSteering(self, self.client.steering(channel))

    def step_counter(self, name: str = "run", ranks: int = 1) -> AsyncStepCounter:
        """Return a step counter; see :meth:`ssdag.Client.step_counter`. Does not block."""
        return AsyncStepCounter(self, self.client.step_counter(name, ranks))

    def checkpoint(self, name: str = "run", ranks: int = 1, keep: int = 1) -> AsyncCheckpoint:
        """Return a checkpoint; see :meth:`ssdag.Client.checkpoint`. Does not block."""
        return AsyncCheckpoint(self, self.client.checkpoint(name, ranks, keep))

    # -- waiting -----------------------------------------------------------------------

    async def wait_tensor(self, name: str, timeout_s: float | None = None) -> None:
        """Wait until a tensor of this name is there; see :meth:`ssdag.Client.wait_tensor`."""
        await self.wait(self.client._tensor_condition(name), timeout_s)

    async def wait_dataset(self, name: str, timeout_s: float | None = None) -> None:
        """Wait until a complete dataset is there; see :meth:`ssdag.Client.wait_dataset`."""
        base = self.client._read_base(name)
        await self.wait(conditions.complete_dataset(name, base), timeout_s)

    async def wait_key(self, key: str, timeout_s: float | None = None) -> None:
        """Wait until there is a key; see :meth:`ssdag.Client.wait_key`."""
        await self.wait(conditions.existence("key", key, key_bytes(key)), timeout_s)

    async def wait_list(
        self,
        name: str,
        length: int,
        timeout_s: float | None = None,
        *,
        compare: Comparison = ">=",
    ) -> None:
        """Wait until a list has a length; see :meth:`ssdag.Client.wait_list`."""
        key = self.client._read("list", name)
        await self.wait(conditions.list_length(name, key, length, compare), timeout_s)

    async def wait(self, condition: Condition, timeout_s: float | None = None) -> None:
        """Wait until a condition holds; see :meth:`ssdag.Client.wait`."""
        future = self.client.future(condition, timeout_s=timeout_s)
        try:
            await future
        finally:
            future.cancel()

    # -- servers -----------------------------------------------------------------------

    ping = _awaited(Client.ping)
    call = _awaited(Client.call)
    call_many = _awaited(Client.call_many)
    get_db_node_info = _awaited(Client.get_db_node_info)
    get_db_cluster_info = _awaited(Client.get_db_cluster_info)
    config_get = _awaited(Client.config_get)
    config_set = _awaited(Client.config_set)
    save = _awaited(Client.save)
    flush_db = _awaited(Client.flush_db)
    nodes = _awaited(Client.nodes)
    refresh = _awaited(Client.refresh)

    # -- life --------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the client and let its threads go; calls that are under way come to their end."""
        self.client.close()
        self.release()

    def release(self) -> None:
        """Let the threads go; the next call makes new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _in_thread(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._pid != os.getpid():
            self._start()  # the threads are the parent's
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="ssdag-aio")
            future = self._pool.submit(method, *args, **kwargs)
        return await asyncio.wrap_future(future)
