# SPDX-License-Identifier: BSD-3-Clause
"""Every exception that ssdag raises.

::

    SsdagError
    ├── ConfigError (ValueError)             a wrong option, with the near match
    │   └── UnknownExecutorError             a label that no executor has
    ├── AppDefinitionError (TypeError)       a decorator was used wrongly
    ├── EngineClosedError                    the engine (or the one behind a future) is gone
    ├── NestedCallError                      an app was called inside a worker process
    ├── WouldDeadlockError                   waiting here could never end
    ├── CycleError                           a task would wait for itself
    ├── UnsupportedError                     an executor cannot honour an option
    ├── TaskError                            what ends a task without its body's own exception
    │   ├── DependencyError                  a parent failed: root cause and path of task ids
    │   ├── WalltimeExceededError (TimeoutError)  it outlived its walltime and was killed
    │   ├── WorkerLostError    (transient)   the worker process died under the task
    │   ├── JobError           (transient)   the scheduler's job ended before the task did
    │   ├── SerializationError               an argument, result or function cannot be sent
    │   ├── CommandError                     a command ended with a non-zero exit code
    │   └── MissingOutputError               a declared output file does not exist
    ├── RemoteError                          stands in for an exception that cannot be sent
    ├── ServiceError                         a service (orchestrator) misbehaves
    │   └── ServiceStartError                a server did not start: its own last words
    ├── ProviderError          (transient)   a scheduler does not answer, or not as it should
    │   ├── SubmitError                      a scheduler refused a job: its own words
    │   └── BlockError                       blocks fail: reason and last words of the last one
    ├── LauncherError                        a launcher and an MPI library do not fit
    ├── DataError                            tensors, datasets
    │   ├── MissingDataError (KeyError)      no such tensor
    │   │   └── LostValueError (transient)   a task's result is not where it was stored
    │   ├── DataFormatError (ValueError)     dtype, shape, order or name that cannot be stored
    │   └── DataTimeoutError (TimeoutError)  data did not come in time
    ├── StoreError             (transient)   the server cannot be reached or answers an error
    ├── StagingError                         a file cannot be brought to where it is needed
    └── CheckpointError                      a checkpoint file cannot be opened or written

Facts are attributes; ``transient`` says whether trying again can help (it drives
retries); every error pickles with its attributes.
"""

from __future__ import annotations

from typing import Any


def _rebuild(cls: type[SsdagError], args: tuple[Any, ...], state: dict[str, Any]) -> SsdagError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class SsdagError(Exception):
    """Root of all errors of this library.

    Attributes
    ----------
    transient : bool
        True where the same call may succeed if tried again.
    """

    transient: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class ConfigError(SsdagError, ValueError):
    """An option or configuration value is wrong; the text says what is accepted."""


class UnknownExecutorError(ConfigError):
    """An app asks for an executor label that the engine does not have."""


class AppDefinitionError(SsdagError, TypeError):
    """A decorator was given something that it cannot take."""


class EngineClosedError(SsdagError):
    """The engine is closed: nothing can be submitted, unfinished futures end with this."""


class NestedCallError(SsdagError):
    """An app was called inside a worker process, where no engine lives."""


class WouldDeadlockError(SsdagError):
    """``result()`` was called where waiting could never end."""


class CycleError(SsdagError):
    """A task would have to wait for itself; ``path`` holds the task ids of the circle."""

    def __init__(self, message: str, path: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


class UnsupportedError(SsdagError):
    """The executor cannot honour an option (for example a walltime on threads)."""


class TaskError(SsdagError):
    """A task ended without its body's own exception.

    Attributes
    ----------
    task_id : int or None
        The task that this error ended.
    """

    def __init__(self, message: str, *, task_id: int | None = None) -> None:
        super().__init__(message)
        self.task_id = task_id


class DependencyError(TaskError):
    """A parent failed, so the task's body never ran.

    The error is flat: ``root_cause`` is the exception of the task that really
    failed, however long the chain, and is also ``__cause__``.

    Parameters
    ----------
    task_id : int
        The task that could not run.
    root_cause : BaseException
        What the first failed task (or future) raised.
    link : tuple
        ``(task_id, link of the parent)``, a linked list shared by all errors of
        one failure, so that a chain of n tasks costs O(n) and not O(n²).
    """

    def __init__(self, task_id: int, root_cause: BaseException, link: tuple[Any, ...]) -> None:
        super().__init__("", task_id=task_id)
        self.root_cause = root_cause
        self._link = link
        self.__cause__ = root_cause

    @property
    def path(self) -> tuple[int | None, ...]:
        """Task ids from the failed task (first) to this one (last).

        The first entry is None where the failure came from a foreign future.
        """
        ids: list[int | None] = []
        link: Any = self._link
        while link:
            ids.append(link[0])
            link = link[1]
        return tuple(reversed(ids))

    def __str__(self) -> str:
        path = self.path
        shown = [str(i) if i is not None else "a foreign future" for i in path]
        if len(shown) > 8:
            shown = [*shown[:4], f"... {len(shown) - 7} more ...", *shown[-3:]]
        # Only the type of the cause: the text of a user's exception is user code.
        cause = type(self.root_cause).__name__
        return f"task {self.task_id} did not run: {cause} in task " + " -> ".join(shown)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_dependency, (type(self), self.task_id, self.root_cause, self.path)


def _rebuild_dependency(
    cls: type[DependencyError], task_id: int, cause: BaseException, path: tuple[int | None, ...]
) -> DependencyError:
    link: tuple[Any, ...] = ()
    for node in path:
        link = (node, link)
    return cls(task_id, cause, link)


class WalltimeExceededError(TaskError, TimeoutError):
    """The task ran longer than its walltime; it and its children were killed.

    Attributes
    ----------
    walltime_s : float
        The limit in seconds.
    """

    def __init__(
        self, message: str, *, walltime_s: float = 0.0, task_id: int | None = None
    ) -> None:
        super().__init__(message, task_id=task_id)
        self.walltime_s = walltime_s


class WorkerLostError(TaskError):
    """The worker process died while it held the task.

    Attributes
    ----------
    exit_code : int or None
        Exit code of the worker; negative is minus the signal number.
    """

    transient = True

    def __init__(
        self, message: str, *, exit_code: int | None = None, task_id: int | None = None
    ) -> None:
        super().__init__(message, task_id=task_id)
        self.exit_code = exit_code


class JobError(TaskError):
    """The scheduler's job that a task was in ended before the task did.

    Attributes
    ----------
    job_id : str
        The scheduler's id.
    state : str
        How the job ended, as a name of :class:`~ssdag.states.JobState`.
    reason : str
        Why, in the scheduler's words.
    stderr_tail : str
        The last lines of the job's own stderr.
    """

    transient = True

    def __init__(
        self,
        message: str,
        *,
        job_id: str = "",
        state: str = "",
        reason: str = "",
        stderr_tail: str = "",
        task_id: int | None = None,
    ) -> None:
        super().__init__(message, task_id=task_id)
        self.job_id = job_id
        self.state = state
        self.reason = reason
        self.stderr_tail = stderr_tail


class SerializationError(TaskError):
    """A function, argument or result cannot be sent to or from a worker."""


class CommandError(TaskError):
    """A command ended with a non-zero exit code, or could not be started.

    Attributes
    ----------
    command : str
        The command as the app returned it.
    exit_code : int or None
        Its exit code; negative is minus the signal number; None if it never started.
    stderr_tail : str
        The last lines that it wrote to stderr.
    """

    def __init__(
        self,
        message: str,
        *,
        command: str = "",
        exit_code: int | None = None,
        stderr_tail: str = "",
        task_id: int | None = None,
    ) -> None:
        super().__init__(message, task_id=task_id)
        self.command = command
        self.exit_code = exit_code
        self.stderr_tail = stderr_tail


class MissingOutputError(TaskError):
    """The task ended well but declared outputs are not there.

    Attributes
    ----------
    missing : tuple of str
        The paths that do not exist.
    """

    def __init__(
        self, message: str, *, missing: tuple[str, ...] = (), task_id: int | None = None
    ) -> None:
        super().__init__(message, task_id=task_id)
        self.missing = missing


class RemoteError(SsdagError):
    """Stands in for an exception of a worker that could not be sent as itself.

    Attributes
    ----------
    type_name : str
        Qualified name of the original class.
    traceback_text : str
        The formatted traceback in the worker.
    """

    def __init__(self, message: str, *, type_name: str = "", traceback_text: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.traceback_text = traceback_text


class ServiceError(SsdagError):
    """A service failed or was used in a state that does not allow it."""


class ServiceStartError(ServiceError):
    """A server could not be started.

    Attributes
    ----------
    log_tail : str
        The server's own last words.
    exit_code : int or None
        Its exit code, if it ended.
    """

    def __init__(self, message: str, *, log_tail: str = "", exit_code: int | None = None) -> None:
        super().__init__(message)
        self.log_tail = log_tail
        self.exit_code = exit_code


class ProviderError(SsdagError):
    """A scheduler does not answer, or answers with an error.

    Attributes
    ----------
    command : tuple of str
        What was asked.
    exit_code : int or None
        How the command ended; None if it did not.
    stderr_tail : str
        Its last words.
    """

    transient = True

    def __init__(
        self,
        message: str,
        *,
        command: tuple[str, ...] = (),
        exit_code: int | None = None,
        stderr_tail: str = "",
    ) -> None:
        super().__init__(message)
        self.command = command
        self.exit_code = exit_code
        self.stderr_tail = stderr_tail


class SubmitError(ProviderError):
    """A scheduler refused a job."""

    transient = False


class BlockError(ProviderError):
    """Too many blocks failed in a row, so tasks that need them fail too.

    Attributes
    ----------
    job_id : str
        The scheduler's id of the last one.
    """

    transient = False

    def __init__(self, message: str, *, job_id: str = "", stderr_tail: str = "") -> None:
        super().__init__(message, stderr_tail=stderr_tail)
        self.job_id = job_id


class LauncherError(SsdagError):
    """A launcher does not start the ranks of an MPI library as one world.

    Attributes
    ----------
    launcher : str
        Name of the launcher.
    library : str
        The MPI library, as it names itself; empty if it said nothing.
    command : tuple of str
        The launch that was tried.
    exit_code : int or None
        How it ended; None if it had to be ended.
    stderr_tail : str
        Its last words.
    """

    def __init__(
        self,
        message: str,
        *,
        launcher: str = "",
        library: str = "",
        command: tuple[str, ...] = (),
        exit_code: int | None = None,
        stderr_tail: str = "",
    ) -> None:
        super().__init__(message)
        self.launcher = launcher
        self.library = library
        self.command = command
        self.exit_code = exit_code
        self.stderr_tail = stderr_tail


class DataError(SsdagError):
    """Something is wrong with a tensor or another named value."""


class MissingDataError(DataError, KeyError):
    """Nothing is stored under this name."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class LostValueError(MissingDataError):
    """A value that travels by reference is gone, or cannot be reached from here.

    Attributes
    ----------
    key : str
        Where it was stored.
    in_body : bool
        A lazy argument was used in the middle of a body.
    """

    transient = True

    def __init__(self, message: str, *, key: str = "", in_body: bool = False) -> None:
        super().__init__(message)
        self.key = key
        self.in_body = in_body


class DataFormatError(DataError, ValueError):
    """A dtype, shape, order or name that cannot be stored or read back."""


class DataTimeoutError(DataError, TimeoutError):
    """The data did not appear within the given time."""


class StoreError(SsdagError):
    """The orchestrator's server cannot be reached, or answered with an error."""

    transient = True


class StagingError(SsdagError):
    """A file cannot be brought to where a task runs, or to where it belongs.

    ``transient`` is True where the network or a server may be better later.
    """


class CheckpointError(SsdagError):
    """A checkpoint file cannot be opened or written.

    Attributes
    ----------
    path : str
        The file.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path
