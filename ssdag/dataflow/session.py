# SPDX-License-Identifier: BSD-3-Clause
"""The engines of this process: the current one, the default one, and their end."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
from typing import TYPE_CHECKING

from ssdag.config import Config
from ssdag.dataflow.engine import Engine
from ssdag.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_log = logging.getLogger("ssdag")
_lock = threading.Lock()
#: Held while the default engine starts: two threads must not start one each.
_starting = threading.Lock()
_engines: list[Engine] = []
_default_config: Config | None = None
_stand_in: Callable[[Config], Config] | None = None


def load(config: Config | str | os.PathLike[str] | None = None) -> Engine:
    """Start an engine and make it the current one.

    Parameters
    ----------
    config : Config or path, optional
        A configuration, or a TOML file of one. Without it, local processes.

    Returns
    -------
    Engine
        A context manager; apps that are called without it use it too, until it is
        closed.

    Raises
    ------
    ConfigError
        The configuration is wrong.
    CheckpointError
        The checkpoint file cannot be used.
    NestedCallError
        Inside a worker process.

    Notes
    -----
    An engine that is still open when the script ends is closed; tasks that are not done
    are cancelled then, with a warning.
    """
    if config is None:
        config = _default_config
    elif isinstance(config, (str, os.PathLike)):
        config = Config.from_toml(config)
    elif not isinstance(config, Config):
        raise ConfigError(f"load({config!r}): a Config or the path of a TOML file is needed")
    if _stand_in is not None:
        config = _stand_in(config or Config())
    engine = Engine(config)
    with _lock:
        _engines[:] = [old for old in _engines if not old.closed]
        _engines.append(engine)
    return engine


def set_default_config(config: Config | None) -> None:
    """Set what :func:`load` uses without an argument; ``ssdag run --config`` does."""
    global _default_config
    _default_config = config


@contextlib.contextmanager
def stand_in(make: Callable[[Config], Config]) -> Iterator[None]:
    """Within the block engines get ``make(config)`` for their config; ``ssdag plan`` does it."""
    global _stand_in
    kept, _stand_in = _stand_in, make
    try:
        yield
    finally:
        _stand_in = kept


def current() -> Engine:
    """Return the engine that apps use: the last one loaded, else a new default one."""
    engine = _engines[-1] if _engines else None
    if engine is not None and not engine.closed:
        return engine
    with _starting:
        with _lock:
            for engine in reversed(_engines):
                if not engine.closed:
                    return engine
        return load()


@atexit.register
def close_all() -> None:
    """Close every engine that is open; runs at the end of the process."""
    with _lock:
        left = [engine for engine in _engines if not engine.closed]
        _engines.clear()
    for engine in reversed(left):
        if engine.open_tasks:
            _log.warning(
                "%d unfinished tasks are cancelled because the program ends; wait for them with "
                "ssdag.gather(...) or use 'with ssdag.load():'",
                engine.open_tasks,
            )
        engine.close()


def _forget_after_fork() -> None:
    # The threads of an engine do not survive a fork: the child starts without one, and
    # leaves the parent's alone, also where it unwinds through their ``with`` blocks.
    global _lock, _starting
    _lock, _starting = threading.Lock(), threading.Lock()
    for engine in _engines:
        engine.abandon()
    _engines.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
