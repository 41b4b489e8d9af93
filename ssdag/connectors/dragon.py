# SPDX-License-Identifier: BSD-3-Clause
"""A connector on the dictionary of the Dragon runtime, for programs that run under it.

The dictionary is the user's: ``dragon.data.ddict.DDict``, whose managers hold the values
on the nodes of the runtime. See https://dragonhpc.github.io/dragon/doc/_build/html/
"""

from __future__ import annotations

import threading
import time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NoReturn

from ssdag.connectors.base import Connector, as_views, check_key, missing
from ssdag.connectors.inotify import wait_for_name
from ssdag.errors import ConfigError, DataTimeoutError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ssdag.connectors.base import Buffer, Scope


#: How long an add waits for others.
_ADD_S = 60.0


class DragonConnector(Connector):
    """Values in a dictionary of the Dragon runtime.

    It pickles only to processes of the same runtime, such as those of a
    ``FuturesExecutor`` on Dragon's pool.

    Parameters
    ----------
    dictionary : dragon.data.ddict.DDict
        The dictionary, made without ``wait_for_keys``. It stays the caller's.
    name : str
        Keeps the keys of connectors on one dictionary apart.

    Raises
    ------
    ConfigError
        It is no such dictionary.

    Notes
    -----
    What Dragon lacks is done with what it has: :meth:`wait` looks again after pauses that
    grow to 250 ms, and :meth:`size` fetches the value. Adds go one after the other, and
    are one step against other adds but not against :meth:`write`; if a process is killed
    in the middle of one, later ones raise StoreError after a minute.
    """

    kind = "dragon"

    def __init__(self, dictionary: Any, name: str = "store") -> None:
        for method in ("pop", "fetch_add", "keys", "wait_for_keys"):
            if not hasattr(dictionary, method):
                raise ConfigError(f"a dragon.data.ddict.DDict is needed, not {dictionary!r:.80}")
        if dictionary.wait_for_keys:
            raise ConfigError("make the DDict with wait_for_keys=False: a look must not wait")
        self._dictionary = dictionary
        self._name = name
        self._lock = threading.Lock()  # it serves one thread at a time

    @property
    def scope(self) -> Scope:
        """``network``: all nodes of the runtime."""
        return "network"

    def __repr__(self) -> str:
        return f"<DragonConnector {self._name!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return DragonConnector, (self._dictionary, self._name)

    def _do(self, what: str, work: Callable[[Any], Any]) -> Any:
        """Do something with the dictionary; KeyError is the caller's."""
        try:
            with self._lock:
                return work(self._dictionary)
        except Exception as error:
            if isinstance(error, KeyError) or not _is_dragons(error):
                raise
            raise StoreError(f"{what} in {self!r}: {error}") from error

    def _place(self, key: str) -> str:
        check_key(key)
        return f"{self._name}:{key}"

    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        """Publish a value in place of what is there; its parts are joined."""
        place = self._place(key)
        value = bytearray().join(as_views(parts))
        self._do(f"write of {key!r}", lambda d: d.__setitem__(place, value))

    def add(self, key: str, parts: Sequence[Buffer]) -> bool:
        """Publish a value if there is none; see the notes of the class."""
        place = self._place(key)
        value = bytearray().join(as_views(parts))
        adds = ("adds", self._name)  # no key of a connector is a tuple

        def work(dictionary: Any) -> bool | None:
            try:
                if dictionary.fetch_add(adds, 1) != 0:
                    return None
                if place in dictionary:
                    return False
                dictionary[place] = value
                return True
            finally:
                dictionary.fetch_add(adds, -1)

        added: list[bool] = []

        def alone() -> bool:
            done = self._do(f"add of {key!r}", work)
            added.extend(() if done is None else (done,))
            return bool(added)

        if not wait_for_name("", "", alone, time.monotonic() + _ADD_S, told=False):
            raise StoreError(f"add of {key!r} in {self!r}: another add does not end")
        return added[0]

    def read(self, key: str) -> memoryview:
        """Return a value."""
        place = self._place(key)
        try:
            return memoryview(self._do(f"read of {key!r}", lambda d: d[place]))
        except KeyError:
            self._absent(key)

    def take(self, key: str) -> memoryview:
        """Return a value and remove it; of several that take it one gets it."""
        place = self._place(key)
        try:
            return memoryview(self._do(f"take of {key!r}", lambda d: d.pop(place)))
        except KeyError:
            self._absent(key)

    def wait(self, key: str, timeout_s: float | None = None) -> None:
        """Block until there is a value; looks again after pauses that grow to 250 ms."""
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        if not wait_for_name("", "", lambda: self.exists(key), end_s, told=False):
            raise DataTimeoutError(f"{key!r} did not come within {timeout_s} s in {self!r}")

    def exists(self, key: str) -> bool:
        """Return whether there is a value."""
        place = self._place(key)
        return bool(self._do(f"look for {key!r}", lambda d: place in d))

    def size(self, key: str) -> int:
        """Return the bytes of a value, which is fetched for that."""
        return len(self.read(key))

    def delete(self, key: str) -> bool:
        """Remove a value; return whether there was one."""
        place = self._place(key)
        try:
            self._do(f"delete of {key!r}", lambda d: d.pop(place))
        except KeyError:
            return False
        return True

    def keys(self, pattern: str = "*") -> list[str]:
        """Return the keys that match a shell pattern, sorted."""
        start = f"{self._name}:"
        names = self._do("list of the keys", lambda d: list(d.keys()))
        found = (n[len(start) :] for n in names if isinstance(n, str) and n.startswith(start))
        return sorted(key for key in found if fnmatchcase(key, pattern))

    def _absent(self, key: str) -> NoReturn:
        raise missing(key, self) from None


def _is_dragons(error: Exception) -> bool:
    module = type(error).__module__.partition(".")[0]
    return module == "dragon" or isinstance(error, TimeoutError | RuntimeError)
