# SPDX-License-Identifier: BSD-3-Clause
"""How memoization takes part in a task's life: before it runs, and after."""

from __future__ import annotations

import os
import queue
import threading
from typing import TYPE_CHECKING, Any, ClassVar

from ssdag.dataflow.memo import Memo
from ssdag.futures import LOCK
from ssdag.states import TaskState
from ssdag.tasks import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.dataflow.ledger import Ledger
    from ssdag.tasks import Task


class Memoizing:
    """The memo of an engine and a thread for what takes time.

    Parameters
    ----------
    checkpoint : path or None
        Where results outlive the run.

    Raises
    ------
    CheckpointError
        The file cannot be used.
    """

    #: Returned by :meth:`before` for a task that waits for an identical call.
    FOLLOWS: ClassVar[Any] = object()

    def __init__(self, checkpoint: str | os.PathLike[str] | None) -> None:
        self._checkpoint: Any = None
        if checkpoint is not None:
            from ssdag.dataflow.checkpoint import Checkpoint

            self._checkpoint = Checkpoint(checkpoint)
        self.memo = Memo(self._checkpoint)
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def in_thread(self, function: Callable[[], None]) -> None:
        """Call `function` from the memo's thread, after those given before."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="ssdag-memo", daemon=True)
            with LOCK:
                first = self._thread is None
                if first:
                    self._thread = thread
            if first:
                thread.start()
        self._calls.put(function)

    def _run(self) -> None:
        while (function := self._calls.get()) is not None:
            function()
            del function  # it holds a task, which would live until the next one comes

    def before(self, task: Task, ledger: Ledger) -> Outcome | Any | None:
        """Look a call up.

        Returns
        -------
        Outcome or FOLLOWS or None
            The outcome if the result is known, :attr:`FOLLOWS` if an identical call is
            in flight (the task then waits for it), None if the task must run.
        """
        extras = task.more()
        if extras.follows is not None:  # the identical call has ended well
            value = extras.follows._result
            return Outcome(task, value, state=TaskState.MEMO_DONE)
        try:
            with LOCK:
                args, kwargs = task.args, task.kwargs
            if extras.memo_key is None:
                extras.memo_key = self._key(task, args, kwargs)
        except Exception as error:  # hashing arguments may run user code
            error.add_note(
                f"while hashing the arguments of {task.app.name!r} for its cache; leave a "
                "parameter out with ignore_for_cache, or give its class __ssdag_hash__()"
            )
            return Outcome(task, error=error, state=TaskState.FAILED)
        with LOCK:
            first = self.memo.claim(extras.memo_key, task)
            if first is not None and first.future is None:  # it failed with what it joined
                self.memo.release(extras.memo_key, first)
                first = self.memo.claim(extras.memo_key, task)
            if first is not None and ledger.follow(task, first.future):
                return self.FOLLOWS
        found, value = self.memo.lookup(extras.memo_key)
        if found and all(os.path.exists(output.name) for output in extras.outputs):
            return Outcome(task, value, state=TaskState.MEMO_DONE)
        return None

    def _key(self, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> bytes:
        from ssdag.dataflow.codehash import function_digest
        from ssdag.dataflow.hashing import call_key, signature_of

        app = task.app
        if app.source_digest is None:
            app.source_digest = function_digest(app.source)
        if task.extras is not None and task.extras.outputs and kwargs:
            # By name: what they hold is made by the call, not given to it.
            kwargs = {**kwargs, "outputs": [output.name for output in task.extras.outputs]}
        return call_key(app.source_digest, args, kwargs or {}, app.ignore, signature_of(app.source))

    def after(self, outcome: Outcome) -> None:
        """Remember a result; before anybody is told of it, so that followers find it."""
        extras = outcome.task.extras
        if extras is not None and extras.memo_key is not None:
            run_time = max(0.0, outcome.ended - outcome.started)
            self.memo.store(extras.memo_key, outcome.value, outcome.task.app.name, run_time)

    def release(self, task: Task) -> None:
        """Forget that a task computes its key; it has ended."""
        if task.extras is not None and task.extras.memo_key is not None:
            with LOCK:
                self.memo.release(task.extras.memo_key, task)

    def close(self) -> None:
        """Write what is left to the checkpoint and end the thread."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join(5.0)
        if self._checkpoint is not None:
            self._checkpoint.close()
