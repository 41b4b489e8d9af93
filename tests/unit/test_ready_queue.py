# SPDX-License-Identifier: BSD-3-Clause
"""The queue of ready tasks against a plain model, and between threads."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ssdag.executors.base import ReadyQueue
from ssdag.futures import LOCK
from ssdag.states import TaskState
from ssdag.tasks import AppSpec, Options, Task

if TYPE_CHECKING:
    from ssdag.tasks import Manager

DEADLINE_S = 60.0
SPEC = AppSpec(print, "print")
PRIORITIES = st.sampled_from([0, 0, 0, 1, 5, -1, -7])


def ready(number: int, priority: int = 0) -> Task:
    task = Task(SPEC, (), None, Options(priority=priority), cast("Manager", None))
    task.task_id = number
    with LOCK:
        assert task.move(TaskState.READY)
    return task


def numbers(tasks: Any) -> list[int]:
    return [task.task_id for task in tasks]


class QueueMachine(RuleBasedStateMachine):
    """The model keeps a list for each priority."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = ReadyQueue()
        self.model: dict[int, list[Task]] = {}
        self.count = 0
        self.taken: list[Task] = []

    def make(self, priority: int) -> Task:
        self.count += 1
        return ready(self.count, priority)

    def expect(self, limit: int) -> list[Task]:
        """Return what the model gives, and take it out."""
        found: list[Task] = []
        for priority in sorted(self.model, reverse=True):
            line = self.model[priority]
            while line and len(found) < limit:
                task = line.pop(0)
                if task.state == TaskState.READY:
                    found.append(task)
        return found

    @rule(priority=PRIORITIES)
    def push(self, priority: int) -> None:
        task = self.make(priority)
        self.queue.push(task)
        self.model.setdefault(priority, []).append(task)

    @rule(priority=PRIORITIES, count=st.integers(1, 4))
    def push_many(self, priority: int, count: int) -> None:
        tasks = [self.make(priority) for _ in range(count)]
        self.queue.push_many(tasks)
        self.model.setdefault(priority, []).extend(tasks)

    @rule(limit=st.integers(0, 5))
    def pop(self, limit: int) -> None:
        taken = self.queue.pop(limit)
        assert numbers(taken) == numbers(self.expect(limit))
        self.taken += taken

    @rule(count=st.integers(1, 4))
    def give_back(self, count: int) -> None:
        """The last ones that were taken return to the front, in their order."""
        back, self.taken = self.taken[-count:], self.taken[:-count]
        self.queue.push_front(back)
        for task in reversed(back):
            self.model.setdefault(task.options.priority, []).insert(0, task)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiting = [task for line in self.model.values() for task in line]
        if waiting:
            task = data.draw(st.sampled_from(waiting))
            with LOCK:
                task.move(TaskState.CANCELLED)

    @rule()
    def drain(self) -> None:
        assert numbers(self.queue.drain()) == numbers(self.expect(1 << 30))
        assert len(self.queue) == 0

    @invariant()
    def its_length_is_no_less_than_what_is_wanted(self) -> None:
        wanted = sum(task.state == TaskState.READY for line in self.model.values() for task in line)
        assert wanted <= len(self.queue) <= self.count


QueueMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestQueue = QueueMachine.TestCase


def test_threads_push_and_pop_and_nothing_is_lost_or_given_twice() -> None:
    queue = ReadyQueue()
    each, pushers, poppers = 4000, 3, 3
    taken: list[list[int]] = [[] for _ in range(poppers)]
    begin = threading.Barrier(pushers + poppers)
    all_pushed = threading.Event()

    def push(first: int) -> None:
        begin.wait(DEADLINE_S)
        for number in range(first, first + each):
            queue.push(ready(number, (0, 0, 3, -2)[number % 4]))

    def pop(into: list[int]) -> None:
        begin.wait(DEADLINE_S)
        while len(queue) or not all_pushed.is_set():
            batch = queue.pop(7)
            queue.push_front(batch[5:])  # as those of a worker that dies
            into += numbers(batch[:5])

    threads = [threading.Thread(target=push, args=(i * each,)) for i in range(pushers)]
    readers = [threading.Thread(target=pop, args=(into,), daemon=True) for into in taken]
    for thread in (*threads, *readers):
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    all_pushed.set()
    for thread in readers:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    rest = numbers(queue.drain())
    assert Counter(n for into in (*taken, rest) for n in into) == Counter(range(each * pushers))
