# SPDX-License-Identifier: BSD-3-Clause
"""Objects to bytes and back: pickle protocol 5, cloudpickle where that is not enough.

Plain pickle is tried first because it is several times faster. cloudpickle takes over
where pickle fails (lambdas, local classes) and where the pickle names ``__main__``,
which is another module in a worker; classes of ``__main__`` travel by value and come
back as the class that was sent.
"""

from __future__ import annotations

import itertools
import pickle
import traceback
from typing import TYPE_CHECKING, Any

from ssdag.errors import RemoteError, SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_MAIN = b"__main__"


def dumps(value: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None) -> bytes:
    """Return the pickle of a value.

    Parameters
    ----------
    value : object
        Anything that pickle or cloudpickle takes.
    buffer_callback : callable, optional
        Receives large buffers out of band, as ``pickle.dumps`` documents. It may be
        called for an attempt that is given up: compare with what is returned by
        :func:`loads` order, or use :class:`Encoder`.

    Raises
    ------
    SerializationError
        Neither can; the text names the type.
    """
    return Encoder(buffer_callback).dumps(value)


class Encoder:
    """Pickles values while collecting out-of-band buffers that really belong to them.

    Parameters
    ----------
    accept : callable, optional
        Called with each :class:`pickle.PickleBuffer`; a false value takes it out of
        band, a true one leaves it inside the pickle. None leaves all inside.
    reset : callable, optional
        Called before a second attempt, to forget buffers taken for the first.
    """

    __slots__ = ("_accept", "_reset")

    def __init__(
        self,
        accept: Callable[[pickle.PickleBuffer], Any] | None = None,
        reset: Callable[[], None] | None = None,
    ) -> None:
        self._accept = accept
        self._reset = reset

    def dumps(self, value: Any) -> bytes:
        """Return the pickle of `value`; raises SerializationError if nothing can make it."""
        try:
            data = pickle.dumps(value, 5, buffer_callback=self._accept)
            if _MAIN not in data:
                return data
        except Exception:  # __reduce__ is user code; cloudpickle gets its chance
            pass
        if self._reset is not None:
            self._reset()
        try:
            import cloudpickle

            by_value: bytes = cloudpickle.dumps(value, 5, buffer_callback=self._accept)
        except Exception as error:  # user code again
            if isinstance(error, SerializationError):
                raise
            raise SerializationError(
                f"a {type(value).__name__} cannot be pickled: {_describe(error)}"
            ) from error
        return by_value


def loads(data: bytes | memoryview, buffers: Iterable[Any] | None = None) -> Any:
    """Return the value of a pickle; raises whatever its classes raise while loading."""
    return pickle.loads(data, buffers=buffers)


def name_culprit(args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> str:
    """Say which argument cannot be pickled, for an error message."""
    named = [(f"argument {i}", value) for i, value in enumerate(args)]
    named += [(f"argument {name!r}", value) for name, value in (kwargs or {}).items()]
    for name, value in named:
        try:
            dumps(value)
        except SerializationError:
            return f"{name} (a {type(value).__name__})"
    return "the arguments"


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # __str__ is user code
        return type(error).__name__


# -- exceptions --------------------------------------------------------------------------


def dump_error(error: BaseException) -> bytes:
    """Return bytes from which :func:`load_error` makes the same exception.

    Type, arguments, attributes, traceback, cause, context and notes survive. What
    cannot be sent arrives as :class:`~ssdag.errors.RemoteError` with the text of all.
    """
    text = "".join(traceback.format_exception(error))
    fallback = (f"{type(error).__module__}.{type(error).__qualname__}", _describe(error), text)
    chain = _chain(error)
    try:
        from tblib import Traceback

        frames = [
            Traceback(e.__traceback__).as_dict() if e.__traceback__ is not None else None
            for e, _ in chain
        ]
        data = dumps(([(_portable(e), link) for e, link in chain], frames))
    except Exception:  # user classes
        data = b""
    return pickle.dumps((data, fallback), 5)


class _Parts:
    """An exception taken apart: for classes whose ``__init__`` takes other arguments
    than it hands on, which pickle saves and cannot load."""

    def __init__(self, error: BaseException) -> None:
        self._parts = type(error), error.args, error.__dict__

    def whole(self) -> BaseException:
        """Make the exception without calling its ``__init__``."""
        cls, args, state = self._parts
        error = cls.__new__(cls, *args)
        error.args = args
        error.__dict__.update(state)
        return error


def _portable(error: BaseException) -> BaseException | _Parts:
    """Return what stands for an exception in a pickle: itself if that can be loaded."""
    try:
        twin = loads(dumps(error))
        if type(twin).__qualname__ == type(error).__qualname__ and twin.args == error.args:
            return error
    except Exception:  # user classes
        pass
    return _Parts(error)


def load_error(data: bytes | memoryview) -> BaseException:
    """Return the exception that :func:`dump_error` was given; never raises."""
    try:
        inner, (type_name, message, text) = pickle.loads(data)
    except Exception as error:  # a damaged message
        return RemoteError(f"the error of a task could not be read: {_describe(error)}")
    if inner:
        try:
            return _rebuild(*pickle.loads(inner))
        except Exception:  # a class that can be loaded there and not here
            pass
    return RemoteError(
        f"{message} (a {type_name}, which could not be sent)\n{text}",
        type_name=type_name,
        traceback_text=text,
    )


def _chain(error: BaseException) -> list[tuple[BaseException, str]]:
    """List an exception and its causes; each with how the one before links to it."""
    chain: list[tuple[BaseException, str]] = [(error, "")]
    seen = {id(error)}
    while len(chain) < 20:
        last = chain[-1][0]
        if last.__cause__ is not None:
            following, link = last.__cause__, "cause"
        elif last.__context__ is not None and not last.__suppress_context__:
            following, link = last.__context__, "context"
        else:
            break
        if id(following) in seen:
            break
        seen.add(id(following))
        chain.append((following, link))
    return chain


def _rebuild(chain: list[tuple[Any, str]], frames: list[Any]) -> BaseException:
    from tblib import Traceback

    chain = [(e.whole() if isinstance(e, _Parts) else e, link) for e, link in chain]
    for (error, _), frame in zip(chain, frames, strict=True):
        if frame is not None:
            error.__traceback__ = Traceback.from_dict(frame).as_traceback()
    for (error, _), (following, link) in itertools.pairwise(chain):
        if link == "cause":
            error.__cause__ = following
        else:
            error.__context__ = following
    first: BaseException = chain[0][0]
    return first
