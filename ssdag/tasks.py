# SPDX-License-Identifier: BSD-3-Clause
"""A task, its future and the app it came from: what engine and executors share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ssdag.futures import LOCK, DataFuture, Future
from ssdag.states import ALLOWED, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ssdag.resources import Resources

T = TypeVar("T")


class RetryRule(Protocol):
    """Decides whether a failed task is tried again; see ``ssdag.dataflow.retry``."""

    def delay_s(self, error: BaseException, task: Task) -> float | None:
        """Return seconds to wait before the next try, or None to give up."""


class Options:
    """How a task is to be run; one object is shared by all tasks of an app.

    Attributes
    ----------
    executors : tuple of str or None
        Labels that may run it; None means any that can.
    priority : int
        Higher runs sooner.
    walltime_s : float or None
        Killed after that many seconds of running.
    resources : Resources or None
        What it needs.
    retry : RetryRule or None
        None leaves the decision to the engine's configuration.
    """

    __slots__ = ("executors", "priority", "resources", "retry", "walltime_s")

    def __init__(
        self,
        executors: tuple[str, ...] | None = None,
        priority: int = 0,
        walltime_s: float | None = None,
        resources: Resources | None = None,
        retry: RetryRule | None = None,
    ) -> None:
        self.executors = executors
        self.priority = priority
        self.walltime_s = walltime_s
        self.resources = resources
        self.retry = retry

    def replace(self, **changes: Any) -> Options:
        """Return a copy with some fields changed."""
        fields = {name: changes.get(name, getattr(self, name)) for name in self.__slots__}
        return Options(**fields)


class AppSpec:
    """What all calls of one app have in common.

    Attributes
    ----------
    name : str
        Shown in the graph, in messages and in automatic file names.
    func : callable
        What runs, with the resolved arguments.
    kind : str
        "python", "bash", "mpi" or "join"; a join body runs beside the engine and its task
        then waits for the futures that it returned.
    options : Options
        Defaults of its tasks.
    cache : bool
        True if results are memoized.
    ignore : frozenset of str
        Parameters that do not take part in the memo key.
    source : callable
        The user's function, whose code takes part in it; `func` unless given.
    store : object
        Where large values go: a connector or what one can be made of; None leaves it to
        the engine, False forbids it.
    lazy : bool
        True if references arrive as proxies.
    keeper : object
        Set by the engine, in specs of its own: what looks after stored results.
    indirect : bool
        True if there is something to do before a task is handed over, or after its end.
    """

    __slots__ = (
        "cache",
        "func",
        "ignore",
        "indirect",
        "keeper",
        "kind",
        "lazy",
        "name",
        "options",
        "source",
        "source_digest",
        "store",
    )

    def __init__(
        self,
        func: Callable[..., Any],
        name: str,
        *,
        kind: str = "python",
        options: Options | None = None,
        cache: bool = False,
        ignore: frozenset[str] = frozenset(),
        source: Callable[..., Any] | None = None,
        store: Any = None,
        lazy: bool = False,
        keeper: Any = None,
    ) -> None:
        self.func = func
        self.source = source or func
        self.name = name
        self.kind = kind
        self.options = options or Options()
        self.cache = cache
        self.ignore = ignore
        self.source_digest: bytes | None = None
        self.store = store
        self.lazy = lazy
        self.keeper = keeper
        self.indirect = cache or lazy or keeper is not None


class Extras:
    """What only few tasks have; kept apart so that the others stay small."""

    __slots__ = (
        "follows",
        "join_parts",
        "label",
        "memo_key",
        "outputs",
        "spent",
        "stderr",
        "stdout",
        "tries",
    )

    def __init__(self) -> None:
        self.outputs: list[DataFuture[Any]] = []
        self.stdout: Any = None
        self.stderr: Any = None
        self.label: str | None = None
        self.memo_key: bytes | None = None
        #: The future of an identical call in flight, whose outcome this task shares.
        self.follows: AppFuture[Any] | None = None
        #: Retry budget used so far, and attempts that failed.
        self.spent: float = 0.0
        self.tries = 0
        #: What a join body returned, while its futures are awaited.
        self.join_parts: Any = None


class Manager(Protocol):
    """The engine, as a task and its future see it."""

    def cancel(self, task: Task) -> bool:
        """Cancel a task in any state; False if it is done already or cannot be stopped."""

    def lift(self, future: AppFuture[Any], kind: str, key: Any) -> AppFuture[Any]:
        """Return a future of ``value[key]`` or ``value.key``."""


class Task:
    """A node of the graph that ends. Fields are written under :data:`~ssdag.futures.LOCK`.

    Attributes
    ----------
    task_id : int
        Dense, from 0, in order of submission.
    waiting : int
        Parents that are not done yet.
    has_futures : bool
        True if arguments hold futures, which are replaced when it becomes ready.
    simple : bool
        True if all arguments are atoms (numbers, strings, None) and there are no
        keywords, so that they need no pickle of their own.
    """

    __slots__ = (
        "app",
        "args",
        "engine",
        "executor",
        "extras",
        "future",
        "has_futures",
        "kwargs",
        "options",
        "simple",
        "state",
        "task_id",
        "waiting",
    )

    def __init__(
        self,
        app: AppSpec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        options: Options,
        engine: Manager,
    ) -> None:
        self.app = app
        self.args = args
        self.kwargs = kwargs
        self.options = options
        self.engine = engine
        self.executor: Any = None
        self.extras: Extras | None = None
        self.future: AppFuture[Any] | None = None
        self.has_futures = False
        self.simple = False
        self.state = TaskState.PENDING
        self.task_id = -1
        self.waiting = 0

    def move(self, new: TaskState) -> bool:
        """Change the state if the table allows it; False (and no change) if not.

        The only place where a task's state changes. LOCK is held.
        """
        if not ALLOWED[self.state] >> new & 1:
            return False
        self.state = new
        return True

    def more(self) -> Extras:
        """Return the extras, made on first use."""
        if self.extras is None:
            self.extras = Extras()
        return self.extras

    @property
    def label(self) -> str:
        """The label given by the user, or the app's name."""
        if self.extras is not None and self.extras.label:
            return self.extras.label
        return self.app.name

    def __repr__(self) -> str:
        return f"<task {self.task_id} {self.app.name} {self.state.name.lower()}>"


def launch(
    tasks: Iterable[Task],
) -> list[tuple[Task, tuple[Any, ...], dict[str, Any] | None]]:
    """Mark tasks as handed to a worker; return the live ones with their arguments.

    The arguments are taken here, under the lock: a cancel drops them from the task, and
    a body must never run without them.
    """
    with LOCK:
        return [(t, t.args, t.kwargs) for t in tasks if t.move(TaskState.LAUNCHED)]


def path_down(task: Task, targets: Sequence[Task]) -> tuple[int, ...]:
    """Return the task ids from `task` down to the first target that waits for it, or ()."""
    wanted = {t for t in targets if t.state in (TaskState.PENDING, TaskState.JOINING)}
    if not wanted:
        return ()
    with LOCK:
        came_from: dict[Task, Task | None] = {task: None}
        stack = [task]
        while stack:
            here = stack.pop()
            if here in wanted:
                path = []
                step: Task | None = here
                while step is not None:
                    path.append(step.task_id)
                    step = came_from[step]
                return tuple(reversed(path))
            for child in (here.future and here.future._children) or ():
                if child not in came_from:
                    came_from[child] = here
                    stack.append(child)
    return ()


class AppFuture(Future[T]):
    """The future of a task.

    ``future[key]`` and ``future.name`` are futures of the item or attribute of the
    result, made by a task of their own.
    """

    __slots__ = ("_children", "_task")

    # Without this Python would ask for future[0], future[1], ... for ever.
    __iter__ = None

    def __init__(self, task: Task) -> None:
        # The base initialiser's fields, set here: one call less on the hot path.
        self._state = "PENDING"
        self._result = None
        self._exception = None
        self._done_callbacks = None
        self._cond = None
        self._sleepers = None
        self._task = task
        self._children: list[Task] | None = None

    @property
    def task_id(self) -> int:
        """Number of the task, from 0 in order of submission."""
        return self._task.task_id

    @property
    def state(self) -> TaskState:
        """Where the task stands now."""
        return self._task.state

    @property
    def outputs(self) -> Sequence[DataFuture[Any]]:
        """Futures of the files declared with ``outputs=``, in their order."""
        extras = self._task.extras
        return tuple(extras.outputs) if extras is not None else ()

    @property
    def stdout(self) -> Any:
        """Where standard output goes: a path, a ``(path, mode)`` pair, or None."""
        return self._task.extras.stdout if self._task.extras is not None else None

    @property
    def stderr(self) -> Any:
        """Where standard error goes: a path, a ``(path, mode)`` pair, or None."""
        return self._task.extras.stderr if self._task.extras is not None else None

    def running(self) -> bool:
        """Return True while the body executes, or its joined futures are awaited."""
        return self._task.state in (TaskState.RUNNING, TaskState.JOINING)

    def cancel(self) -> bool:
        """Cancel the task wherever it is: pending, queued, or running (it is killed).

        Returns
        -------
        bool
            False if it was done already, or runs where it cannot be stopped (a Python
            body on a thread executor).
        """
        # A task that the end of its engine cancelled has an error to tell.
        return self._task.engine.cancel(self._task) and self._exception is None

    def __getitem__(self, key: Any) -> AppFuture[Any]:
        return self._task.engine.lift(self, "item", key)

    def __getattr__(self, name: str) -> AppFuture[Any]:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self._task.engine.lift(self, "attribute", name)

    def _describe(self) -> str:
        return f"of task {self._task.task_id} ({self._task.app.name}): {super()._describe()}"


class Outcome:
    """How one attempt at a task ended; executors hand these to their sink.

    Attributes
    ----------
    error : BaseException or None
        None means `value` is the result.
    started, ended : float
        ``time.monotonic()`` in seconds when the body ran; 0.0 if it never did.
    """

    __slots__ = ("ended", "error", "started", "state", "task", "value")

    def __init__(
        self,
        task: Task,
        value: Any = None,
        error: BaseException | None = None,
        started: float = 0.0,
        ended: float = 0.0,
        state: TaskState | None = None,
    ) -> None:
        self.task = task
        self.value = value
        self.error = error
        self.started = started
        self.ended = ended
        if state is None:
            state = TaskState.DONE if error is None else TaskState.FAILED
        self.state = state
