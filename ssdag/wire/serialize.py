# SPDX-License-Identifier: BSD-3-Clause
"""Objects to bytes and back: pickle protocol 5, cloudpickle where that is not enough.

Plain pickle is tried first because it is several times faster. cloudpickle takes over
where pickle fails (lambdas, local classes) and where the pickle names ``__main__``,
which is another module in a worker; classes of ``__main__`` travel by value and come
back as the class that was sent.
"""

from __future__ import annotations

import copyreg
import io
import itertools
import pickle
import traceback
from types import SimpleNamespace
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

    Type, arguments, attributes, traceback, cause, context, notes and the members of a
    group survive. What cannot be sent of these arrives as
    :class:`~ssdag.errors.RemoteError` with its text, and the others as themselves.
    """
    parts = []
    for link_error, link in _chain(error):
        words = _in_words(link_error, chain=link_error is error)
        parts.append((_one_to_bytes(link_error), words, _frames(link_error), link))
    return pickle.dumps(parts, 5)


def load_error(data: bytes | memoryview) -> BaseException:
    """Return the exception that :func:`dump_error` was given; never raises."""
    try:
        errors = [(_one_from(*one), link) for *one, link in pickle.loads(data)]
        for (error, _), (following, link) in itertools.pairwise(errors):
            if link == "cause":
                error.__cause__ = following
            else:
                error.__context__ = following
        first: BaseException = errors[0][0]
    except Exception as error:  # a damaged message
        return RemoteError(f"the error of a task could not be read: {_describe(error)}")
    return first


class _Parts:
    """An exception taken apart: for classes whose ``__init__`` takes other arguments
    than it hands on, which pickle saves and cannot load."""

    def __init__(self, error: BaseException) -> None:
        _, args, *state = _builtin(type(error)).__reduce__(error)
        if isinstance(error, BaseExceptionGroup):
            args = error.message, [dump_error(member) for member in error.exceptions]
        self._parts = type(error), args, state

    def whole(self) -> BaseException:
        """Make the exception without calling what its own class does to make one."""
        cls, args, state = self._parts
        if issubclass(cls, BaseExceptionGroup):
            args = args[0], [load_error(member) for member in args[1]]
        builtin = _builtin(cls)
        error: BaseException = builtin.__new__(cls, *args)
        builtin.__init__(error, *args)
        for fields in state:
            builtin.__setstate__(error, fields)
        return error


def _builtin(cls: type[BaseException]) -> Any:
    """Return the nearest class of Python itself that an exception's class is made of."""
    return next(base for base in cls.__mro__ if base.__module__ == "builtins")


def _one_to_bytes(error: BaseException) -> bytes:
    """Return the pickle of an exception without its causes; empty if it cannot be sent."""
    try:
        # Packages such as distributed give all exceptions of a process another pickle
        # (that of tblib), which loses fields.
        data = _as_built(error) if type(error) in copyreg.dispatch_table else dumps(error)
        twin = loads(data)
        if type(twin).__qualname__ == type(error).__qualname__ and twin.args == error.args:
            return data
    except Exception:  # user classes
        pass
    try:
        data = dumps(_Parts(error))
        loads(data).whole()
    except Exception:  # user classes
        return b""
    return data


def _as_built(error: BaseException) -> bytes:
    """Return the pickle that an exception's own class gives it."""
    import cloudpickle

    class Plain(cloudpickle.Pickler):  # type: ignore[misc]
        """As its base, but deaf to what others say of exceptions."""

        def reducer_override(self, obj: Any) -> Any:
            """Return how an object is taken apart."""
            if isinstance(obj, BaseException):
                return obj.__reduce_ex__(5)
            return super().reducer_override(obj)

    out = io.BytesIO()
    Plain(out, 5).dump(error)
    return out.getvalue()


def _one_from(data: bytes, words: tuple[str, str, str], frames: Any) -> BaseException:
    error: BaseException | None = None
    if data:
        try:
            error = loads(data)
            if isinstance(error, _Parts):
                error = error.whole()
        except Exception:  # a class that can be loaded there and not here
            error = None
    if error is None:
        type_name, message, text = words
        error = RemoteError(
            f"{message} (a {type_name}, which could not be sent)\n{text}",
            type_name=type_name,
            traceback_text=text,
        )
    if frames:
        error.__traceback__ = _trace(frames)
    return error


def _frames(error: BaseException) -> list[tuple[str, str, int, str]]:
    """Return an exception's traceback as plain data: file, function, line, module.

    A list and nothing nested: that of an endless recursion has a thousand frames.
    """
    frames = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        module = str(trace.tb_frame.f_globals.get("__name__", "?"))
        frames.append((code.co_filename, code.co_name, trace.tb_lineno or 0, module))
        trace = trace.tb_next
    return frames


def _trace(frames: list[tuple[str, str, int, str]]) -> Any:
    """Return a traceback object that shows what :func:`_frames` has noted."""
    from tblib import Traceback

    trace = None
    for file, function, line, module in reversed(frames):
        code = SimpleNamespace(co_filename=file, co_name=function)
        names = {"__file__": file, "__name__": module}
        frame = SimpleNamespace(f_globals=names, f_code=code, f_lineno=line)
        trace = SimpleNamespace(tb_frame=frame, tb_lineno=line, tb_next=trace)
    return Traceback(trace).as_traceback()


def _in_words(error: BaseException, *, chain: bool) -> tuple[str, str, str]:
    """Return an exception's type, its message, and its traceback as text."""
    text = "".join(traceback.format_exception(error, chain=chain))
    return f"{type(error).__module__}.{type(error).__qualname__}", _describe(error), text


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
