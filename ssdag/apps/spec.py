# SPDX-License-Identifier: BSD-3-Clause
"""Parsl's special parameters: found by name, in the call or in the signature's defaults."""

from __future__ import annotations

import contextlib
import inspect
import os
from typing import TYPE_CHECKING, Any

from ssdag.apps import staging
from ssdag.apps.files import File
from ssdag.apps.staging import places
from ssdag.config import check_store
from ssdag.errors import AppDefinitionError
from ssdag.futures import DataFuture
from ssdag.resources import check_walltime
from ssdag.tasks import Extras
from ssdag.wire.streams import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ssdag.apps.staging import Staging

#: Parameters that mean something to an app, whatever its body does with them.
SPECIAL = ("outputs", "stdout", "stderr", "walltime", "label")

#: ``stdout=AUTO`` (or ``"auto"``) makes a file name from the app and the task's number.
AUTO = "auto"


class Signature:
    """What an app needs to know of its body's parameters.

    Parameters
    ----------
    func : callable
        The body.
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        self.defaults: dict[str, Any] = {}
        self.accepts: frozenset[str] = frozenset(SPECIAL)
        #: True if the body has a parameter of this name, which is then its own affair.
        self.names_after = self.names_resources = False
        try:
            parameters = inspect.signature(func).parameters
        except (TypeError, ValueError):  # some builtins have none
            self.accepts = frozenset()
            return
        self.names_after = "after" in parameters
        self.names_resources = "resources" in parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        if not takes_any:
            self.accepts = frozenset(name for name in SPECIAL if name in parameters)
        for name in SPECIAL:
            found = parameters.get(name)
            if found is not None and found.default is not inspect.Parameter.empty:
                self.defaults[name] = found.default

    @property
    def plain(self) -> bool:
        """True if the signature itself asks for nothing special."""
        return not self.defaults


class Special:
    """The special parameters of one call.

    Attributes
    ----------
    extras : Extras or None
        For the task; None if nothing special was asked.
    walltime_s : float or None
        From ``walltime=``.
    io : dict
        What the body's wrapper does: streams and the paths that must exist afterwards.
    """

    __slots__ = ("extras", "io", "walltime_s")

    def __init__(
        self,
        name: str,
        signature: Signature,
        kwargs: dict[str, Any],
        stagings: Sequence[Staging] = (),
    ) -> None:
        given = {**signature.defaults}
        for key in SPECIAL:
            if key in kwargs:
                given[key] = kwargs[key] if key in signature.accepts else kwargs.pop(key)
        self.walltime_s = check_walltime(given.get("walltime"))
        self.io: dict[str, Any] = {}
        inputs = kwargs.get("inputs")
        if isinstance(inputs, (list, tuple)) and inputs:
            for item in inputs:
                if isinstance(item, File):
                    staging.find(item, stagings=stagings)
                    _keep_folder(item)
            self.io["inputs"] = True
            if stagings:
                self.io["stagings"] = stagings
        self.extras: Extras | None = None
        asked = {key: given[key] for key in SPECIAL[1:3] if given.get(key) is not None}
        outputs = _listed(given.get("outputs"))
        label = given.get("label")
        if not isinstance(label, str):  # the body's own affair: the labels of a data set, say
            label = None
        if not asked and not outputs and not label:
            return
        extras = self.extras = Extras()
        extras.label = label or None
        shown = extras.label or name
        for stream in ("stdout", "stderr"):
            spec = asked.get(stream)
            if spec is None:
                continue
            if spec == AUTO or spec == -1:  # -1 is Parsl's AUTO_LOGNAME
                spec = _automatic(shown, stream)
                if stream in signature.accepts:
                    kwargs[stream] = spec
            parse(spec, stream)  # a wrong one is told at the call
            setattr(extras, stream, spec)
            self.io[stream] = spec
        for item in outputs:
            file = as_file(item)
            staging.find(file, out=True, stagings=stagings)  # an unknown scheme is told here
            _keep_folder(file)
            extras.outputs.append(DataFuture(place_of(file), "file", file))
        if extras.outputs:
            self.io["outputs"] = [output.target for output in extras.outputs]
            if stagings:
                self.io["stagings"] = stagings


def _keep_folder(file: File) -> None:
    """Have the folder of staged files on this node outlive the workers that use it."""
    if file.scheme != "file":
        with contextlib.suppress(OSError):  # the task will tell
            places.folder()


def place_of(file: File) -> str:
    """Return the name of an output: its path here, or its URL."""
    return file.filepath if file.scheme == "file" or file.local_path else file.url


def values(kind: str, options: dict[str, Any]) -> tuple[Any, bool]:
    """Return an app's ``store=`` and ``lazy=``.

    Raises
    ------
    AppDefinitionError
        The kind of app has no use for them, or one is of a wrong type.
    ConfigError
        The store is surely none.
    """
    store, lazy = options.get("store"), options.get("lazy") or False
    if kind != "python" and (store is not None or lazy):
        raise AppDefinitionError(f"a {kind}_app has no store= and no lazy=: a python_app has")
    if not isinstance(lazy, bool):
        raise AppDefinitionError(f"lazy={lazy!r}: True or False is needed")
    if store is not False:
        check_store(store)
    return store, lazy


def _listed(outputs: Any) -> Sequence[Any]:
    if outputs is None:
        return ()
    if not isinstance(outputs, (list, tuple)):
        raise AppDefinitionError(f"outputs={outputs!r}: a list of files or paths is needed")
    return outputs


def as_file(item: Any) -> File:
    """Return an output as a File.

    Raises
    ------
    AppDefinitionError
        It is neither a File nor a path.
    """
    if isinstance(item, File):
        return item
    if isinstance(item, (str, os.PathLike)):
        return File(os.fspath(item))
    raise AppDefinitionError(f"outputs holds {item!r}; files are given as File(path) or as a path")


class _AutomaticPath(str):
    """A path that nobody chose, so that it does not tell two calls of an app apart."""

    __slots__ = ()

    def __ssdag_hash__(self) -> bytes:
        return b"automatic path"


_numbers: dict[str, int] = {}


def _automatic(name: str, stream: str) -> str:
    """Return a free file name in ``ssdag-runs/`` for a stream of a task."""
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
    number = _numbers[name + stream] = _numbers.get(name + stream, -1) + 1
    while os.path.exists(path := os.path.join("ssdag-runs", f"{safe}-{number:06d}.{stream}")):
        number = _numbers[name + stream] = number + 1
    return _AutomaticPath(os.path.abspath(path))
