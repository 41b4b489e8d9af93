# SPDX-License-Identifier: BSD-3-Clause
"""Which executor runs a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdag.config import near
from ssdag.errors import UnknownExecutorError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.executors.base import Executor
    from ssdag.tasks import Options


class Placement:
    """Chooses among the executors that a task's options allow: the least loaded one.

    Parameters
    ----------
    executors : sequence of Executor
        Those of the engine.
    """

    def __init__(self, executors: Sequence[Executor]) -> None:
        self._by_label = {executor.label: executor for executor in executors}
        #: Options are shared by all tasks of an app, so their candidates are found once.
        self._known: dict[tuple[Options, str], tuple[Executor, ...]] = {}

    def candidates(self, options: Options, kind: str) -> tuple[Executor, ...]:
        """Return the executors that may run it.

        Raises
        ------
        UnknownExecutorError
            A label that no executor has; the text names the nearest one.
        UnsupportedError
            None of the allowed ones can honour the options; the text says why.
        """
        found = self._known.get((options, kind))
        if found is not None:
            return found
        if options.executors is None:
            allowed = tuple(self._by_label.values())
        else:
            for label in options.executors:
                if label not in self._by_label:
                    labels = ", ".join(map(repr, self._by_label))
                    raise UnknownExecutorError(
                        f"no executor is called {label!r} (there is {labels})"
                        f"{near(label, self._by_label)}"
                    )
            allowed = tuple(self._by_label[label] for label in options.executors)
        reasons = [executor.check(options, kind) for executor in allowed]
        found = tuple(e for e, why in zip(allowed, reasons, strict=True) if why is None)
        if not found:
            raise UnsupportedError("; ".join(why for why in reasons if why is not None))
        if len(self._known) > 10_000:  # options made anew for each call
            self._known.clear()
        self._known[options, kind] = found
        return found


def least_loaded(candidates: Sequence[Executor]) -> Executor:
    """Return the executor with the fewest tasks for each that it can run at a time."""
    return min(candidates, key=lambda executor: executor.outstanding / executor.capacity)
