# SPDX-License-Identifier: BSD-3-Clause
"""When a failed task is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ssdag.errors import ConfigError, NestedCallError, SerializationError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.config import Config
    from ssdag.tasks import RetryRule, Task

#: Errors that come again however often one tries.
_HOPELESS = (SerializationError, NestedCallError, UnsupportedError)


@dataclass(frozen=True)
class RetryPolicy:
    """A budget of retries, with back-off and a handler.

    Parameters
    ----------
    budget : float
        Each failure costs 1 (or what the handler says); a task whose costs exceed the
        budget fails. ``budget=2`` means at most three attempts.
    backoff_s : float, optional
        Seconds before the first retry; 0 tries again at once.
    factor : float, optional
        Each further delay is that many times longer.
    max_backoff_s : float, optional
        No delay is longer.
    jitter : float, optional
        A delay is lengthened by a random part of itself up to this fraction, so that
        tasks that failed together do not come back together.
    transient_only : bool, optional
        Retry only errors whose attribute ``transient`` is true (lost workers, lost
        connections), not those of the body.
    handler : callable, optional
        ``handler(error, task) -> float`` returns the cost of this failure; 0 retries
        for free, ``math.inf`` gives up. If it raises, the task fails with what it raised.

    Raises
    ------
    ConfigError
        A number is negative.
    """

    budget: float = 0
    backoff_s: float = 0.0
    factor: float = 2.0
    max_backoff_s: float = 60.0
    jitter: float = 0.1
    transient_only: bool = False
    handler: Callable[[BaseException, Task], float] | None = None

    def __post_init__(self) -> None:
        for name in ("budget", "backoff_s", "factor", "max_backoff_s", "jitter"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
                raise ConfigError(f"RetryPolicy({name}={value!r}): a number >= 0 is needed")
        if self.handler is not None and not callable(self.handler):
            raise ConfigError(f"RetryPolicy(handler={self.handler!r}): a callable is needed")

    def delay_s(self, error: BaseException, task: Task) -> float | None:
        """Return seconds to wait before the next attempt, or None to give up.

        Raises
        ------
        Exception
            What the handler raises.
        """
        if isinstance(error, _HOPELESS):
            return None
        if self.transient_only and not getattr(error, "transient", False):
            return None
        cost = 1.0 if self.handler is None else float(self.handler(error, task))
        extras = task.more()
        extras.spent += cost
        if not extras.spent <= self.budget:
            return None
        delay = self._pause_s(extras.tries)
        extras.tries += 1
        return delay * (1 + self.jitter * random.random())

    def _pause_s(self, tries: int) -> float:
        if not self.backoff_s:
            return 0.0
        try:
            return min(self.backoff_s * self.factor**tries, self.max_backoff_s)
        except OverflowError:  # a thousand doublings, where a handler lets go on for free
            return self.max_backoff_s


def as_policy(value: object) -> RetryRule | None:
    """Return a rule for ``retries=``: an int is a budget, None means not given."""
    if value is None:
        return None
    if hasattr(value, "delay_s") and not isinstance(value, type):
        rule: RetryRule = value
        return rule
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"retries={value!r}: an int >= 0 or a RetryPolicy is needed")
    return RetryPolicy(budget=value)


def from_config(config: Config) -> RetryRule:
    """Return the rule of an engine: its ``retries``, back-off and handler in one.

    Raises
    ------
    ConfigError
        A rule of the user's own is given, and a back-off or handler beside it.
    """
    policy = as_policy(config.retries) or RetryPolicy()
    if config.retry_handler is None and not config.retry_backoff_s:
        return policy
    if not isinstance(policy, RetryPolicy):
        raise ConfigError(
            f"retries={policy!r} decides alone; retry_handler and retry_backoff_s go with an "
            "int or a RetryPolicy"
        )
    return replace(
        policy,
        backoff_s=config.retry_backoff_s or policy.backoff_s,
        handler=config.retry_handler or policy.handler,
    )
