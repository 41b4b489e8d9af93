# SPDX-License-Identifier: BSD-3-Clause
"""The engine's configuration: validated once, from Python or from a TOML file."""

from __future__ import annotations

import difflib
import inspect
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ssdag.errors import ConfigError
from ssdag.resources import check_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

#: What an object must have to be an executor; ``executors/base.py`` says what it means.
_EXECUTOR_METHODS = ("start", "submit", "cancel", "shutdown", "capacity", "outstanding")
#: Fields that hold objects, which a file cannot.
_OBJECTS = {"listeners", "retry_handler", "staging"}
#: What a text must be to be the address of a server; any other is a connector or a folder.
_ADDRESS = re.compile(r"(unix|tcp|redis)://.+|[\w.\[\]:-]+:\d+(,[\w.\[\]:-]+:\d+)*")
#: Options of connectors that are paths.
_STORE_PATHS = ("path", "password_file")
#: Options that are tables of their own, with a kind; their groups are named after them.
_PARTS = ("provider", "launcher")


@dataclass(frozen=True)
class Config:
    """How an engine works. Every field has a default that suits a laptop.

    Parameters
    ----------
    executors : sequence of Executor, optional
        What runs tasks, each with a label of its own. The default is one
        ``LocalExecutor()``: a process for each core.
    retries : int or RetryPolicy, optional
        How often a failed task is tried again, for apps that do not say it themselves.
    retry_handler : callable, optional
        ``handler(error, task) -> float``: what a failure costs of the budget;
        ``math.inf`` gives up.
    retry_backoff_s : float, optional
        Seconds before the first retry; each further delay doubles, up to a minute.
    checkpoint : path, optional
        An SQLite file where results of apps with ``cache=True`` outlive the run.
    max_pending : int, optional
        Tasks that may be open; a call beyond that blocks until one ends.
    listeners : sequence of Listener, optional
        Who is told what happens.
    staging : sequence of Staging, optional
        What moves files for tasks (:mod:`ssdag.apps.staging`), before those that are found
        by themselves.
    store : Connector, Orchestrator, str, path or mapping, optional
        Where large results and arguments go that do not fit through memory of this
        machine: they then travel by name, past the driver. A text is the name of a
        connector that needs no options ("shared_memory"), the address of a server, or a
        folder that all workers see. A mapping has the connector's name as ``kind``, and
        its options. None: shared memory where executors have all workers on this
        machine; elsewhere an orchestrator that tasks take and that other machines reach,
        while it runs, and else by the driver. False: by the driver, whatever apps say.
    by_reference_bytes : int, optional
        Values of this many bytes or more go there; the default is 256 KiB.

    Raises
    ------
    ConfigError
        A field has a wrong type or value, or two executors share a label.
    """

    executors: Sequence[Any] = ()
    retries: Any = 0
    retry_handler: Callable[[BaseException, Any], float] | None = None
    retry_backoff_s: float = 0.0
    checkpoint: str | os.PathLike[str] | None = None
    max_pending: int | None = None
    listeners: Sequence[Any] = field(default=())
    staging: Sequence[Any] = field(default=())
    store: Any = None
    by_reference_bytes: int = 1 << 18

    def __post_init__(self) -> None:
        object.__setattr__(self, "executors", _listed("executors", self.executors))
        object.__setattr__(self, "listeners", _listed("listeners", self.listeners))
        labels: set[str] = set()
        for executor in self.executors:
            missing = [name for name in _EXECUTOR_METHODS if not hasattr(type(executor), name)]
            if isinstance(executor, type) or missing:
                hint = f"; write {executor.__name__}()" if isinstance(executor, type) else ""
                raise ConfigError(f"executors holds {executor!r}, which is not an executor{hint}")
            if executor.label in labels:
                raise ConfigError(f"two executors are called {executor.label!r}")
            labels.add(executor.label)
        object.__setattr__(self, "staging", _listed("staging", self.staging))
        for staging in self.staging:
            if not hasattr(staging, "can_stage_in") or isinstance(staging, type):
                raise ConfigError(f"staging holds {staging!r}, which is not a Staging")
        for listener in self.listeners:
            if not hasattr(listener, "on_events") or isinstance(listener, type):
                raise ConfigError(f"listeners holds {listener!r}, which is not a Listener")
        if isinstance(self.retries, (bool, type)) or (
            not hasattr(self.retries, "delay_s")
            and (not isinstance(self.retries, int) or self.retries < 0)
        ):
            raise ConfigError(f"retries={self.retries!r}: an int >= 0 or a RetryPolicy is needed")
        if self.retry_handler is not None and not callable(self.retry_handler):
            raise ConfigError(f"retry_handler={self.retry_handler!r}: a callable is needed")
        check_seconds("retry_backoff_s", self.retry_backoff_s)
        if self.checkpoint is not None and not isinstance(self.checkpoint, (str, os.PathLike)):
            raise ConfigError(f"checkpoint={self.checkpoint!r}: a path is needed")
        if self.store is not False:
            check_store(self.store)
        size = self.by_reference_bytes
        if isinstance(size, bool) or not isinstance(size, int) or size < 4096:
            raise ConfigError(f"by_reference_bytes={size!r}: an int of at least 4096 is needed")
        limit = self.max_pending
        if limit is not None and (
            isinstance(limit, bool) or not isinstance(limit, int) or limit < 1
        ):
            raise ConfigError(f"max_pending={limit!r}: an int of at least 1 is needed")

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Config:
        """Read a configuration from a TOML file.

        Fields stand at the top level; each executor is a table in ``[[executors]]``
        with its ``kind`` (a name of the entry-point group ``ssdag.executors``, such as
        "local" or "pilot") and its options. ``provider`` and ``launcher`` are tables in
        it (``[executors.provider]``) with a kind of the groups ``ssdag.providers`` and
        ``ssdag.launchers``, or just that name; the provider "auto" is the one of the
        scheduler that is here. ``wrapper`` in a launcher's table is a list of words in
        front of every executable. ``store`` is a text, or a table ``[store]`` with the
        ``kind`` of a connector (the group ``ssdag.connectors``) and its options.

        Parameters
        ----------
        path : path
            The file. A relative ``checkpoint`` in it is relative to the file's folder,
            and so is the folder of a ``store``.

        Raises
        ------
        ConfigError
            The file cannot be read, is not TOML, or holds an unknown name; the text
            names the nearest known one.
        """
        import tomllib

        try:
            with open(path, "rb") as file:
                content = tomllib.load(file)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not a TOML file: {error}") from error
        known = {item.name for item in fields(cls)} - _OBJECTS
        for name in content:
            if name in _OBJECTS:
                raise ConfigError(
                    f"{path}: {name!r} takes objects: set it in Python, not in a file"
                )
            if name not in known:
                raise ConfigError(f"{path}: unknown field {name!r}{near(name, known)}")
        folder = os.path.dirname(os.path.abspath(path))
        if isinstance(content.get("checkpoint"), str):
            content["checkpoint"] = os.path.join(folder, content["checkpoint"])
        if "store" in content:
            content["store"] = _store_beside(content["store"], folder)
        tables = content.get("executors", [])
        if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
            raise ConfigError(f"{path}: executors are tables, written [[executors]]")
        content["executors"] = [_executor_of(dict(table), path) for table in tables]
        try:
            return cls(**content)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


def check_store(store: Any) -> None:
    """Raise ConfigError for what is surely no store; None means there is none."""
    if isinstance(store, Mapping):
        _check_connector(dict(store))
        return
    if store is None or (isinstance(store, (str, os.PathLike)) and os.fspath(store)):
        if isinstance(store, str) and is_connector(store):
            _check_connector({"kind": store})
        return
    methods = ("read", "write", "delete"), ("client",), ("put_tensor",)
    if isinstance(store, type) or not any(
        all(callable(getattr(store, name, None)) for name in names) for names in methods
    ):
        raise ConfigError(
            f"store={store!r}: a connector, its name or table, an Orchestrator, the address of "
            "a server or a folder is needed"
        )


def is_connector(store: str) -> bool:
    """Return whether a text is the name of a connector."""
    return store.isidentifier() and any(
        point.name == store for point in entry_points(group="ssdag.connectors")
    )


def is_server(store: str) -> bool:
    """Return whether a text is the address of a server."""
    return _ADDRESS.fullmatch(store) is not None


def _check_connector(options: dict[str, Any]) -> None:
    """Raise ConfigError unless a connector of this kind takes these options; make none."""
    factory, kind = _factory(options, "connector")
    try:
        inspect.signature(factory).bind(**options)
    except ValueError:  # a factory written in C may not tell
        return
    except TypeError as error:
        hint = "" if options else f"; a folder of this name is './{kind}'"
        raise ConfigError(f"store of kind {kind!r}: {error}{hint}") from error


def _store_beside(store: Any, folder: str) -> Any:
    """Return a store of a file with its paths relative to the file's folder."""
    if isinstance(store, dict):
        there = {name: store[name] for name in _STORE_PATHS if isinstance(store.get(name), str)}
        return {**store, **{name: os.path.join(folder, path) for name, path in there.items()}}
    if not isinstance(store, str) or not store or is_server(store) or is_connector(store):
        return store
    return os.path.join(folder, store)


def _listed(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise ConfigError(f"{name}={value!r}: a list is needed")
    return tuple(value)


def _executor_of(table: dict[str, Any], path: str | os.PathLike[str]) -> Any:
    try:
        return _made(table, "executor", "[executors")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _made(table: dict[str, Any], what: str, place: str) -> Any:
    """Make what a table stands for: its ``kind`` is a name of an entry-point group.

    Parameters
    ----------
    table : dict
        The kind, and options; the tables of :data:`_PARTS` among them become objects.
    what : str
        "executor", or a key of :data:`_PARTS`.
    place : str
        The table's name in the file, without the closing bracket.
    """
    wrapper = table.pop("wrapper", None) if what == "launcher" else None
    factory, kind = _factory(table, what)
    try:
        for name, value in table.items():
            if name in _PARTS:
                table[name] = _part(name, value, f"{place}.{name}")
            elif what == "launcher" and isinstance(value, list):
                table[name] = tuple(value)
        made = factory(**table)
        # A group's own name for it, so that this layer need not know the class.
        return made if wrapper is None else _factory({"kind": "wrapped"}, what)[0](made, wrapper)
    except TypeError as error:
        raise ConfigError(f"{what} {kind!r}: {error}") from error
    except ConfigError:
        raise
    except Exception as error:  # plug-in load
        raise ConfigError(f"{what} {kind!r} cannot be loaded: {error}") from error


def _factory(table: dict[str, Any], what: str) -> tuple[Any, str]:
    """Take the ``kind`` out of a table; return what makes one of its kind, and the kind.

    Raises
    ------
    ConfigError
        There is no such kind, it cannot be loaded, or an option is not one of its own.
    """
    kinds = {point.name: point for point in entry_points(group=f"ssdag.{what}s")}
    kind = table.pop("kind", None)
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(
            f"{_article(what)} {what} needs kind = one of {', '.join(sorted(kinds))}; "
            f"{kind!r} is none of them{near(str(kind), kinds)}"
        )
    try:
        factory = kinds[kind].load()
    except Exception as error:  # plug-in load
        raise ConfigError(f"{what} {kind!r} cannot be loaded: {error}") from error
    for name in table:
        _check_option(factory, name, f"{what} {kind!r}")
    return factory, kind


def _part(name: str, value: Any, place: str) -> Any:
    """Make the provider or launcher of an executor, or the launcher of a provider."""
    table = {"kind": value} if isinstance(value, str) else value
    if not isinstance(table, dict):
        raise ConfigError(f"{place}] is a table, or the name of a {name}; it is {value!r}")
    try:
        return _made(dict(table), name, place)
    except ConfigError as error:
        if str(error).startswith("[executors."):
            raise
        raise ConfigError(f"{place}]: {error}") from error


def _article(what: str) -> str:
    return "an" if what[0] in "aeiou" else "a"


def _check_option(factory: Any, name: str, where: str) -> None:
    """Refuse an option that `factory` does not take, and name the nearest that it does."""
    try:
        parameters = inspect.signature(factory).parameters
    except ValueError:  # a factory written in C may not tell
        return
    if name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    raise ConfigError(
        f"{where} takes no option {name!r}{near(name, parameters)} "
        f"(it takes {', '.join(parameters)})"
    )


def near(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" for the nearest known name, or an empty string."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
