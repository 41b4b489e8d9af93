# SPDX-License-Identifier: BSD-3-Clause
"""What decorators take and refuse, and what the call of an app does with its arguments."""

from __future__ import annotations

import concurrent.futures as cf
import functools
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

import ssdag
from ssdag import (
    AppDefinitionError,
    Config,
    ConfigError,
    DependencyError,
    File,
    SsdagError,
    TaskState,
    UnsupportedError,
    bash_app,
    join_app,
    python_app,
)
from ssdag.executors import LocalExecutor, ThreadExecutor
from tests.contract import bodies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ssdag.dataflow.engine import Engine

DEADLINE_S = 30.0
DECORATORS: dict[str, Callable[..., Any]] = {
    "python": python_app,
    "bash": bash_app,
    "join": join_app,
}

same = python_app(bodies.same)
show = python_app(bodies.show)
trouble = python_app(bodies.trouble)


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine of threads."""
    engine = ssdag.load(Config(executors=[ThreadExecutor(2)]))
    yield engine
    engine.close()  # without waiting: a test that fails may leave what never ends


@pytest.fixture(params=list(DECORATORS))
def decorator(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Each of the three."""
    return DECORATORS[request.param]


# -- decorating --------------------------------------------------------------------------


def test_bare_and_with_options(engine: Engine) -> None:
    @python_app
    def plain(x: int) -> int:
        """Say what it does."""
        return x + 1

    @python_app(retries=1, priority=3)
    def other(x: int) -> int:
        return x + 2

    @python_app()
    def empty(x: int) -> int:
        return x + 3

    assert [app(1).result(DEADLINE_S) for app in (plain, other, empty)] == [2, 3, 4]
    assert plain.__doc__ == "Say what it does."
    assert plain.__name__ == plain.name == "plain"  # type: ignore[attr-defined]
    assert plain.func(1) == 2
    assert repr(plain) == "<python_app plain>"
    assert [kind for _, kind in engine.graph().nodes(data="app")] == ["plain", "other", "empty"]


class Doubler:
    """Its instances and methods are callable."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, x: int) -> int:
        return x * self.factor

    @python_app
    def method(self, x: int) -> int:
        """Run as a task."""
        return x * self.factor + 1


@pytest.mark.usefixtures("engine")
def test_callables_of_every_kind() -> None:
    assert python_app(Doubler(3))(5).result(DEADLINE_S) == 15
    assert Doubler(3).method(5).result(DEADLINE_S) == 16
    assert Doubler.method(Doubler(2), 5).result(DEADLINE_S) == 11
    assert python_app(pow)(2, 5).result(DEADLINE_S) == 32
    assert python_app(functools.partial(pow, 2))(6).result(DEADLINE_S) == 64
    assert python_app(lambda *a, **k: (a, k))(1, b=2).result(DEADLINE_S) == ((1,), {"b": 2})
    assert python_app(dict)(self=1, func=2, args=3).result(DEADLINE_S) == {
        "self": 1, "func": 2, "args": 3,
    }  # fmt: skip


@pytest.mark.usefixtures("engine")
def test_an_app_travels_by_value() -> None:
    factor = 5
    app = python_app(retries=1, cache=True)(lambda x: x * factor)
    other = cloudpickle.loads(cloudpickle.dumps(app))
    assert repr(other) == repr(app)
    assert other(3).result(DEADLINE_S) == 15
    assert other._spec.cache
    assert other._options.retry == app._options.retry


WRONG_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"retrys": 2}, "no option 'retrys'; did you mean 'retries'"),
    ({"walltime": 2}, "no option 'walltime'; did you mean 'walltime_s'"),
    ({"nodes": 2}, "there are executors, cache"),
    ({"cache": "yes"}, "cache='yes'"),
    ({"ignore_for_cache": 3}, "ignore_for_cache=3"),
    ({"ignore_for_cache": ["a", 3]}, "ignore_for_cache="),
    ({"retries": -1}, "retries=-1"),
    ({"retries": "2"}, "retries='2'"),
    ({"retries": True}, "retries=True"),
    ({"walltime_s": 0}, "walltime_s=0"),
    ({"walltime_s": "1h"}, "walltime_s='1h'"),
    ({"resources": 4}, "resources=4"),
    ({"priority": 1.5}, "priority=1.5"),
    ({"priority": True}, "priority=True"),
    ({"after": 3}, "after=3"),
    ({"after": "x"}, "after='x'"),
    ({"after": [1]}, r"after=\[1\]"),
    ({"executors": 3}, "executors"),
    ({"executors": [3]}, "executors"),
    ({"executors": [""]}, "executors"),
    ({"executors": []}, "executors"),
]


@pytest.mark.parametrize(("options", "text"), WRONG_OPTIONS)
def test_wrong_options(options: dict[str, Any], text: str, decorator: Callable[..., Any]) -> None:
    with pytest.raises((AppDefinitionError, ConfigError), match=text) as caught:
        decorator(**options)(bodies.inc)
    assert isinstance(caught.value, (TypeError, ValueError))


def test_what_cannot_be_decorated(decorator: Callable[..., Any]) -> None:
    def generator() -> Any:
        yield 1

    async def agenerator() -> Any:
        yield 1

    for wrong in (generator, agenerator):
        with pytest.raises(AppDefinitionError, match="is a generator"):
            decorator(wrong)
    with pytest.raises(AppDefinitionError, match="is an app already"):
        decorator(same)
    for no_function in ("threads", 3, [bodies.inc]):
        with pytest.raises(AppDefinitionError, match=r"decorates a function.*options are given by"):
            decorator(no_function)


def test_a_join_takes_no_executor_and_no_walltime() -> None:
    with pytest.raises(AppDefinitionError, match="takes no executors"):
        join_app(executors="local")(bodies.inc)
    for options in ({"walltime_s": 3.0}, {"resources": ssdag.Resources(walltime_s=3.0)}):
        with pytest.raises(AppDefinitionError, match="cannot have a walltime_s"):
            join_app(**options)(bodies.inc)


@pytest.mark.usefixtures("engine")
def test_all_executors_are_meant_by_all() -> None:
    assert python_app(executors="all")(bodies.inc)(1).result(DEADLINE_S) == 2


def test_submit_takes_callables(engine: Engine) -> None:
    assert engine.submit(pow, 2, 3).result(DEADLINE_S) == 8
    assert engine.submit(dict, self=1, func=2).result(DEADLINE_S) == {"self": 1, "func": 2}
    with pytest.raises(SsdagError, match="needs a callable first, not 3"):
        engine.submit(3)  # type: ignore[arg-type]
    assert len(engine.graph()) == 2


# -- map ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("engine")
def test_map() -> None:
    futures = show.map([1, 2, 3], iter("ab"), key=5)
    assert isinstance(futures, list)
    expected = [((1, "a"), {"key": 5}), ((2, "b"), {"key": 5})]
    assert [future.result(DEADLINE_S) for future in futures] == expected
    assert same.map([]) == []
    more = same.map(same.map(range(3)))
    assert [future.result(DEADLINE_S) for future in more] == [0, 1, 2]


# -- after, for one call -----------------------------------------------------------------


def gated() -> tuple[threading.Event, Any]:
    """Return an event, and a task that ends when it is set."""
    gate = threading.Event()
    return gate, python_app(gate.wait)(DEADLINE_S)


@pytest.mark.parametrize("form", ["future", "list", "tuple"])
def test_after_of_a_call_orders_without_a_value(engine: Engine, form: str) -> None:
    gate, parent = gated()
    given: Any = {"future": parent, "list": [parent], "tuple": (parent,)}[form]
    child = show(1, after=given, key=2)
    assert child.state is TaskState.PENDING
    free = show(1, key=2)
    assert free.result(DEADLINE_S) == ((1,), {"key": 2})
    assert child.state is TaskState.PENDING
    gate.set()
    assert child.result(DEADLINE_S) == ((1,), {"key": 2}), "the body does not get it"
    graph = engine.graph()
    assert graph.edges[parent.task_id, child.task_id] == {"kind": "after"}
    assert graph.number_of_edges() == 1


def test_after_adds_to_that_of_the_decorator(engine: Engine) -> None:
    first_gate, first = gated()
    second_gate, second = gated()
    app = python_app(after=[first])(bodies.same)
    both = app(1, after=[second])
    one = app(2)
    first_gate.set()
    assert one.result(DEADLINE_S) == 2
    assert both.state is TaskState.PENDING
    second_gate.set()
    assert both.result(DEADLINE_S) == 1
    graph = engine.graph()
    assert set(graph.pred[both.task_id]) == {first.task_id, second.task_id}
    assert set(graph.pred[one.task_id]) == {first.task_id}, "only for that call"


@pytest.mark.usefixtures("engine")
def test_after_what_failed_or_was_cancelled() -> None:
    failed = trouble()
    error = same(1, after=[failed]).exception(DEADLINE_S)
    assert isinstance(error, DependencyError)
    assert error.root_cause is failed.exception()
    foreign: cf.Future[int] = cf.Future()
    foreign.cancel()
    error = same(1, after=foreign).exception(DEADLINE_S)
    assert isinstance(error, DependencyError)
    assert error.path[0] is None


@pytest.mark.usefixtures("engine")
def test_after_foreign_futures_and_in_map(tmp_path: Path) -> None:
    foreign: cf.Future[int] = cf.Future()
    futures = same.map(range(3), after=foreign)
    shell = bash_app(lambda name: f"touch {name}")
    command = shell(str(tmp_path / "made"), after=[foreign])
    join = join_app(lambda: same(5))
    joined = join(after=[foreign, command])
    assert {f.state for f in (*futures, command, joined)} == {TaskState.PENDING}
    assert not (tmp_path / "made").exists()
    foreign.set_result(9)
    assert ssdag.gather(futures, timeout=DEADLINE_S) == [0, 1, 2]
    assert joined.result(DEADLINE_S) == 5
    assert (tmp_path / "made").exists()


@pytest.mark.usefixtures("engine")
def test_a_body_with_a_parameter_named_after_keeps_it() -> None:
    @python_app
    def plan(x: int, after: Any = "nothing") -> Any:
        return x, after

    assert plan(1, after="lunch").result(DEADLINE_S) == (1, "lunch")
    assert plan(1).result(DEADLINE_S) == (1, "nothing")
    # A future for it is an argument like any other.
    assert plan(1, after=same("tea")).result(DEADLINE_S) == (1, "tea")
    # Any keyword is no parameter of that name.
    free = cf.Future[int]()
    free.set_result(1)
    assert show(after=free).result(DEADLINE_S) == ((), {})


@pytest.mark.parametrize("wrong", [3, "x", [1], {"a"}, [[]]])
def test_wrong_after_is_told_at_the_call(engine: Engine, wrong: Any) -> None:
    with pytest.raises(AppDefinitionError, match=r"after=.*a future or a list of futures"):
        same(1, after=wrong)
    assert len(engine.graph()) == 0


@pytest.mark.usefixtures("engine")
def test_after_nothing() -> None:
    for nothing in (None, list[Any](), ()):
        assert same(1, after=nothing).result(DEADLINE_S) == 1


# -- special parameters ------------------------------------------------------------------


@pytest.mark.usefixtures("engine")
def test_a_body_gets_the_special_parameters_that_it_declares(tmp_path: Path) -> None:
    out, err, made = (str(tmp_path / name) for name in ("out", "err", "made"))
    special = {"outputs": [made], "stdout": out, "stderr": (err, "w"), "label": "mine"}

    @python_app
    def none(path: str) -> str:
        bodies.touch(path)
        return "quiet"

    @python_app
    def some(path: str, stdout: Any = None, label: Any = None) -> tuple[Any, Any]:
        bodies.touch(path)
        return stdout, label

    @python_app
    def any_of_them(path: str, **kwargs: Any) -> dict[str, Any]:
        bodies.touch(path)
        return kwargs

    assert none(made, **special).result(DEADLINE_S) == "quiet"
    assert some(made, **special).result(DEADLINE_S) == (out, "mine")
    future = any_of_them(made, **special)
    assert future.result(DEADLINE_S) == special
    assert (future.stdout, future.stderr) == (out, (err, "w"))
    assert [output.name for output in future.outputs] == [made]
    plain = any_of_them(made)
    assert plain.result(DEADLINE_S) == {}
    assert (plain.stdout, plain.stderr, plain.outputs) == (None, None, ())


@pytest.mark.usefixtures("engine")
def test_defaults_of_the_signature_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    @python_app
    def speak(
        text: str, stdout: Any = "auto", label: str = "speech", outputs: Any = ("made",)
    ) -> str:
        bodies.touch("made")
        print(text)  # noqa: T201
        return str(stdout)

    future = speak("hello")
    path = future.result(DEADLINE_S)
    assert path == future.stdout == str(tmp_path / "ssdag-runs" / "speech-000000.stdout")
    assert (tmp_path / "ssdag-runs" / "speech-000000.stdout").read_text() == "hello\n"
    assert future.outputs[0].result(DEADLINE_S) == File("made")
    other = speak("hello", stdout=str(tmp_path / "mine"), label="own", outputs=())
    assert other.result(DEADLINE_S) == str(tmp_path / "mine")
    assert other.outputs == ()


def test_walltime_of_a_call() -> None:
    forever = python_app(threading.Event().wait)

    @python_app
    def limited(walltime: float = 0.2) -> None:
        bodies.wait_for("/nowhere")

    with ssdag.load(Config(executors=[LocalExecutor(1)])):
        start = python_app(bodies.hold)
        error = start("/dev/null", "/nowhere", walltime=0.3).exception(DEADLINE_S)
        assert isinstance(error, ssdag.WalltimeExceededError)
        assert error.walltime_s == 0.3
        error = limited().exception(DEADLINE_S)
        assert isinstance(error, ssdag.WalltimeExceededError)
        assert error.walltime_s == 0.2
    with ssdag.load(Config(executors=[ThreadExecutor(1)])) as engine:
        with pytest.raises(UnsupportedError, match="cannot kill a Python body"):
            forever(walltime=1.0)
        with pytest.raises(ConfigError, match="walltime_s='soon'"):
            forever(walltime="soon")
        with pytest.raises(AppDefinitionError, match="join_app cannot have"):
            join_app(bodies.inc)(1, walltime=1.0)
        assert len(engine.graph()) == 0
        sleep = bash_app(lambda: "sleep 60")
        error = sleep(walltime=0.2).exception(DEADLINE_S)
        assert isinstance(error, ssdag.WalltimeExceededError)


@pytest.mark.usefixtures("engine")
def test_inputs_are_waited_for_and_must_exist(tmp_path: Path) -> None:
    @python_app
    def read(inputs: Any) -> list[str]:
        return [Path(item).read_text() if isinstance(item, File) else item for item in inputs]

    (tmp_path / "a").write_text("A")
    inputs = [File(tmp_path / "a"), same("b")]
    assert read(inputs=inputs).result(DEADLINE_S) == ["A", "b"]
    error = read(inputs=[File(tmp_path / "none")]).exception(DEADLINE_S)
    assert error is not None
    assert "none" in str(error)
    with pytest.raises(ConfigError, match="gopher"):
        read(inputs=[File("gopher://host/x")])
    with pytest.raises(ConfigError, match="gopher"):
        read(inputs=[], outputs=["gopher://host/x"])
