# SPDX-License-Identifier: BSD-3-Clause
"""An app: a function whose calls return futures."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from ssdag.apps import mpi
from ssdag.apps.bodies import IO, BashBody, PythonBody
from ssdag.apps.spec import Signature, Special, values
from ssdag.dataflow import session
from ssdag.dataflow.retry import as_policy
from ssdag.errors import AppDefinitionError, NestedCallError
from ssdag.resources import Resources, check_walltime
from ssdag.tasks import AppSpec, Options
from ssdag.wire import context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from ssdag.tasks import AppFuture, RetryRule

_NO_WALLTIME = (
    "a join_app cannot have a walltime_s: its body runs beside the engine, where it cannot be "
    "killed; give one to the apps that it calls"
)

P = ParamSpec("P")
R = TypeVar("R")


class App(Generic[R]):
    """A function whose calls are tasks. Made by the decorators.

    Calling it returns an :class:`~ssdag.AppFuture` at once. Arguments may be futures, or
    hold them in lists, tuples, sets and dictionaries. ``app.func`` is the plain function.

    Parameters
    ----------
    func : callable
        The body.
    kind : str
        "python", "bash", "mpi" or "join".
    options : dict
        Those of the decorator, unchecked.

    Raises
    ------
    AppDefinitionError, ConfigError
        An option is of the wrong type or out of range.
    """

    def __init__(self, func: Callable[..., R], kind: str, options: dict[str, Any]) -> None:
        if not callable(func):
            raise AppDefinitionError(
                f"@{kind}_app decorates a function, not {func!r}; options are given by name"
            )
        self.func = func
        self.kind = kind
        self._given = options
        self._after = _futures("after", options.get("after") or ())
        self._signature = Signature(func)
        self._options = _options(kind, options)
        name = getattr(func, "__name__", type(func).__name__)
        ignore = _names("ignore_for_cache", options.get("ignore_for_cache") or ())
        cache = options.get("cache") or False
        if not isinstance(cache, bool):
            raise AppDefinitionError(f"cache={cache!r}: True or False is needed")

        store, lazy = values(kind, options)

        def spec(body: Callable[..., Any]) -> AppSpec:
            return AppSpec(
                body,
                name,
                kind=kind,
                options=self._options,
                cache=cache,
                ignore=ignore | {IO},
                source=func,
                store=store,
                lazy=lazy,
            )

        if kind == "bash":
            self._spec = self._io_spec = spec(BashBody(func, name))
        elif kind == "mpi":
            self._spec = self._io_spec = spec(mpi.body_of(func, name, options))
        else:
            self._spec = spec(func)
            self._io_spec = spec(PythonBody(func, name))
        #: True if a call without keywords needs no look at special parameters.
        self._simple = kind not in ("bash", "mpi") and self._signature.plain
        #: Options of calls with resources of their own, which are often the same.
        self._with_resources: dict[Resources, Options] = {}
        functools.update_wrapper(self, func)

    def __reduce__(self) -> tuple[Any, ...]:
        # By value, for a body of __main__ that mentions another app.
        return App, (self.func, self.kind, self._given)

    @property
    def name(self) -> str:
        """The function's name."""
        return self._spec.name

    def __repr__(self) -> str:
        return f"<{self.kind}_app {self._spec.name}>"

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Bind like a function, so that an app may be defined in a class."""
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, /, *args: Any, **kwargs: Any) -> AppFuture[R]:
        """Submit a call; returns its future at once.

        Blocks only if the engine's ``max_pending`` is reached. ``after=[futures]`` makes
        this call wait for them without getting their values, unless the body itself has
        a parameter of that name. So does ``resources=Resources(...)``, for this call
        instead of the decorator's.

        Raises
        ------
        NestedCallError
            Inside a worker process.
        EngineClosedError, UnknownExecutorError, UnsupportedError, ConfigError
            The task cannot be run.
        """
        if context.in_worker():
            raise NestedCallError(
                f"app {self.name!r} was called inside a worker process, where no engine lives; "
                "call it from a join_app, or pass its future as an argument"
            )
        engine = session.current()
        if self._simple and not kwargs:
            return engine.call(self._spec, args, None, after=self._after)
        after = self._after
        if not self._signature.names_after and "after" in kwargs:
            after += _futures("after", kwargs.pop("after") or ())
        options = self._options
        if not self._signature.names_resources and isinstance(kwargs.get("resources"), Resources):
            options = self._options_with(kwargs.pop("resources"))
        special = Special(self.name, self._signature, kwargs, engine.config.staging)
        if special.walltime_s is not None:
            if self.kind == "join":
                raise AppDefinitionError(_NO_WALLTIME)
            options = options.replace(walltime_s=special.walltime_s)
        spec = self._spec
        if self.kind == "bash" and options.walltime_s is not None:
            # The body itself kills the command in time; the executor's clock would kill
            # the whole worker.
            special.io["walltime_s"] = options.walltime_s
            options = options.replace(walltime_s=None)
        if special.io:
            spec = self._io_spec
            kwargs[IO] = special.io
        return engine.call(spec, args, kwargs, options=options, after=after, extras=special.extras)

    def _options_with(self, resources: Resources) -> Options:
        """Return the options of a call with resources of its own."""
        known = self._with_resources.get(resources)
        if known is None:
            if len(self._with_resources) > 1000:
                self._with_resources.clear()
            given = {**self._given, "resources": resources}
            known = self._with_resources[resources] = _options(self.kind, given)
        return known

    def map(self, *iterables: Iterable[Any], **common: Any) -> list[AppFuture[R]]:
        """Call the app for each item, as ``map`` does; returns the futures in order.

        Parameters
        ----------
        *iterables
            One for each positional parameter; the shortest one ends it.
        **common
            Keyword arguments of all calls.

        Examples
        --------
        >>> squares = square.map(range(100))  # doctest: +SKIP
        """
        calls = zip(*iterables, strict=False)
        if self._simple and not common and not context.in_worker():
            return session.current().call_many(self._spec, calls, after=self._after)
        return [self(*items, **common) for items in calls]


def _options(kind: str, given: dict[str, Any]) -> Options:
    resources = given.get("resources")
    if resources is not None and not isinstance(resources, Resources):
        raise AppDefinitionError(f"resources={resources!r}: a Resources(...) is needed")
    walltime_s = check_walltime(given.get("walltime_s"))
    priority = given.get("priority")
    if resources is not None:
        walltime_s = resources.walltime_s if walltime_s is None else walltime_s
        priority = resources.priority if priority is None else priority
    if priority is None:
        priority = 0
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise AppDefinitionError(f"priority={priority!r}: an int is needed; higher runs sooner")
    if kind == "join" and walltime_s is not None:
        raise AppDefinitionError(_NO_WALLTIME)
    retry: RetryRule | None = as_policy(given.get("retries"))
    executors = given.get("executors")
    labels = None if executors in (None, "all") else _names("executors", executors)
    if labels is not None and not labels:
        raise AppDefinitionError("executors=[] names none that could run it; leave it out for any")
    return Options(
        None if labels is None else tuple(sorted(labels)),
        priority,
        walltime_s,
        resources,
        retry,
    )


def _names(option: str, value: Any) -> frozenset[str]:
    if isinstance(value, str):
        return frozenset({value})
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(
        isinstance(name, str) and name for name in value
    ):
        raise AppDefinitionError(f"{option}={value!r}: a name or a list of names is needed")
    return frozenset(value)


def _futures(option: str, value: Any) -> tuple[Future[Any], ...]:
    from concurrent.futures import Future as AnyFuture

    items = (value,) if isinstance(value, AnyFuture) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(f, AnyFuture) for f in items):
        raise AppDefinitionError(f"{option}={value!r}: a future or a list of futures is needed")
    return tuple(items)
