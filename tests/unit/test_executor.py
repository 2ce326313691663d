"""`meshq.Executor` on a real daemon of one node. CPython's own tests stand in tests/executor."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshq import Client, Executor, Options
from meshq.client.raised import RemoteTraceback
from meshq.errors import NoDaemon, TaskFailed, Unencodable, UnknownTask
from tests.executor.daemon import daemon
from tests.unit import executor_functions as functions

HOME = functions.__name__
SETTLED_S = 20.0


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    allow = (f"{HOME}:*", "builtins:pow", "time:sleep")
    with daemon(tmp_path_factory.mktemp("node"), allow=allow, tasks=(HOME,)) as data_dir:
        yield data_dir


@pytest.fixture
def executor(node: Path) -> Iterator[Executor]:
    with Executor(data_dir=node) as executor:
        yield executor


def test_values_travel_as_they_are(executor: Executor) -> None:
    future = executor.submit(functions.taken, (1, b"\x00"), {3}, self=2**200, fn=None)
    assert future.result(SETTLED_S) == (((1, b"\x00"), {3}), {"self": 2**200, "fn": None})
    assert future.done() and not future.cancelled() and not future.running() and not future.cancel()


def test_what_can_be_called(executor: Executor) -> None:
    assert executor.submit(functools.partial(functions.add, 1, second=5)).result(SETTLED_S) == 6
    nested = functools.partial(functools.partial(functions.taken, 1), 2, a=3)
    assert executor.submit(nested, 4).result(SETTLED_S) == ((1, 2, 4), {"a": 3})
    assert executor.submit(functions.Heir.of_class, 4).result(SETTLED_S) == ("Heir", 4)
    assert executor.submit(functions.Thing.static, 4).result(SETTLED_S) == -4
    assert executor.submit(functions.tenfold, 4).result(SETTLED_S) == 40
    awaited: Any = executor.submit(functions.waits, 4).result(SETTLED_S)
    assert awaited == 4
    assert executor.submit(pow, 2, 10).result(SETTLED_S) == 1024


def test_a_task_needs_no_permission(executor: Executor, node: Path) -> None:
    assert executor.submit(functions.executor_task, 1).result(SETTLED_S) == 1001
    assert list(executor.map(functions.executor_task, range(3), chunksize=2)) == [1000, 1001, 1002]
    with Client(node) as client:
        assert [record.name for record in client.tasks(limit=4)] == ["executor_task"] * 4


def _in_main() -> Callable[..., Any]:
    found: dict[str, Any] = {"__name__": "__main__"}
    exec("def main_function(): pass", found)
    function: Callable[..., Any] = found["main_function"]
    return function


def _nested() -> Callable[..., Any]:
    def inner() -> None: ...

    return inner


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda: 1, "a lambda has no name"),
        (_nested(), "move it to the top of a module"),
        (_in_main(), "stands in the program itself"),
        (functions.Thing(3).method, "only a function of a module"),
        ([].append, "only a function of a module"),
        (functions.hidden, "is something else"),
        (functools.partial(lambda: 1), "a lambda has no name"),
        (3, "can't be called"),
    ],
)
def test_what_can_not_travel_is_refused_at_once(executor: Executor, function: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        executor.submit(function)
    with pytest.raises(TypeError, match=words):
        executor.map(function, [1, 2])
    with pytest.raises(TypeError, match=words):
        executor.map(function, [1, 2], chunksize=2)


def test_values_that_can_not_travel_are_refused_where_they_stand(executor: Executor) -> None:
    with pytest.raises(Unencodable, match=r"^args\[1\]\['x'\]: a value of type object can't be sent"):
        executor.submit(functions.taken, 1, {"x": object()})
    with pytest.raises(TaskFailed, match="its result is lost"):
        executor.submit(functions.makes_object, 1).result(SETTLED_S)


def test_a_module_that_no_machine_allows(executor: Executor) -> None:
    failure = executor.submit(pathlib.PurePath).exception(SETTLED_S)
    assert isinstance(failure, UnknownTask)
    assert 'write allow = ["pathlib:*"] into the configuration' in str(failure)
    # Those that went out with it are no worse for it.
    called: list[Callable[..., Any]] = [functions.same, os.getenv, pow] * 20
    futures = [executor.submit(each, 1, 2) if each is pow else executor.submit(each, 1) for each in called]
    assert [future.exception(SETTLED_S) is None for future in futures] == [True, False, True] * 20


def test_a_function_that_is_not_allowed_in_its_module(executor: Executor) -> None:
    with pytest.raises(TaskFailed, match=r"does not allow builtins:eval; it has allow = builtins:pow"):
        executor.submit(eval, "1").result(SETTLED_S)


@pytest.mark.parametrize("name", ["os.system", "Path", "add.__globals__", "Thing.__init_subclass__", "nothing", "HOME"])
def test_names_from_elsewhere_lead_nowhere_else(node: Path, name: str) -> None:
    with Client(node) as client, pytest.raises(TaskFailed, match="there is no function"):
        client.submit(f"call:{HOME}", name, [[[], {}]]).result(SETTLED_S)


def test_calls_that_make_no_sense(node: Path) -> None:
    with Client(node) as client, pytest.raises(TaskFailed, match=r"each must be \[args, kwargs\]"):
        client.options(retries=3).submit(f"call:{HOME}", "add", [1]).result(SETTLED_S)
    with Client(node) as client:
        assert next(client.tasks()).attempt == 1


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), ValueError("a", 2, (3,)), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"), ValueError()],
    ids=repr,
)
def test_built_in_exceptions_come_back(executor: Executor, error: Exception) -> None:
    found = executor.submit(functions.fails, type(error).__name__, *error.args).exception(SETTLED_S)
    assert type(found) is type(error)
    assert found.args == error.args
    assert isinstance(found.__cause__, RemoteTraceback)
    assert "in fails" in str(found.__cause__)


def test_an_error_of_the_system_comes_back_whole(executor: Executor) -> None:
    found = executor.submit(functions.opens, "/nowhere/at all").exception(SETTLED_S)
    assert isinstance(found, FileNotFoundError)
    assert (found.errno, found.filename) == (2, "/nowhere/at all")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ((functions.fails, "Own", "mine"), "executor_functions.Own: mine"),
        ((functions.fails, "SystemExit", 3), r"sys\.exit\(3\)"),
        ((functions.group,), "two"),
        ((functions.dies,), "ChildDied"),
    ],
)
def test_what_else_went_wrong_is_a_failed_task(executor: Executor, call: tuple[Any, ...], words: str) -> None:
    with pytest.raises(TaskFailed, match=words) as failure:
        executor.submit(*call).result(60)
    assert failure.value.error is not None
    assert failure.value.state == "failed"


def test_map_keeps_the_order_and_ends_with_the_shortest(executor: Executor) -> None:
    assert list(executor.map(functions.add, range(2000), range(500))) == [2 * n for n in range(500)]
    assert list(executor.map(functions.add, range(500), chunksize=7)) == list(range(500))
    assert list(executor.map(functools.partial(functions.add, 1), range(5), chunksize=2)) == [1, 2, 3, 4, 5]
    assert list(executor.map(functions.add, [])) == []
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        executor.map(functions.add, [1], chunksize=0)


def test_map_raises_what_a_call_raised(executor: Executor) -> None:
    results = executor.map(functions.opens, [functions.__file__, "/nowhere", functions.__file__])
    assert b"What the tests" in next(results)
    with pytest.raises(FileNotFoundError):
        next(results)


def test_map_ends_when_the_time_is_over(executor: Executor) -> None:
    began_s = time.monotonic()
    results = executor.map(functions.slow, [1, 2], [0.0, 60.0], timeout=2)
    assert next(results) == 1
    with pytest.raises(TimeoutError):
        next(results)
    # The call that is left is called off, or the end of the block would wait for it.
    executor.shutdown()
    assert time.monotonic() - began_s < 30


def test_cancel_ends_a_call_that_runs(executor: Executor, tmp_path: Path) -> None:
    path = tmp_path / "mark"
    future = executor.submit(functions.mark, str(path), 60.0)
    called: list[bool] = []
    future.add_done_callback(lambda done: called.append(done.cancelled()))
    _until(future.running)
    assert not future.done()
    assert future.cancel() and future.cancel()
    assert future.cancelled() and not future.running() and called == [True]
    assert concurrent.futures.wait([future], SETTLED_S).done == {future}
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(SETTLED_S)
    assert path.read_text() == "begun\n"


def test_a_task_that_was_cancelled_elsewhere_is_a_cancelled_future(executor: Executor, node: Path) -> None:
    future = executor.submit(functions.slow, 1, 60.0)
    _until(future.running)
    with Client(node) as client:
        client.cancel(next(client.tasks()).id)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(SETTLED_S)


def test_at_most_so_many_are_in_the_cluster(node: Path) -> None:
    with Executor(2, data_dir=node) as executor, Client(node) as client:
        known = {record.id for record in client.tasks()}
        futures = [executor.submit(functions.slow, number, 0.3) for number in range(6)]
        _until(futures[0].done)
        assert len({record.id for record in client.tasks()} - known) <= 4
        # What waits here is cancelled without a question.
        assert futures[5].cancel()
        assert [future.result(SETTLED_S) for future in futures[:5]] == list(range(5))
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        Executor(0)


def test_shutdown_cancels_what_has_not_begun(node: Path, tmp_path: Path) -> None:
    executor = Executor(data_dir=node)
    began = [executor.submit(functions.slow, number, 1.0) for number in range(4)]
    _until(lambda: all(future.running() for future in began))
    waiting = [executor.submit(functions.slow, number, 1.0) for number in range(20)]
    executor.shutdown(cancel_futures=True)
    assert [future.result(0) for future in began] == [0, 1, 2, 3]
    assert all(future.cancelled() for future in waiting)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(functions.add, 1)
    executor.shutdown()


def test_options_go_with_each_call(node: Path) -> None:
    options = Options(priority=7, retries=2, backoff_s=0.01, batch="of the executor")
    with Executor(data_dir=node, options=options) as executor, Client(node) as client:
        with pytest.raises(KeyError):
            executor.submit(functions.fails, "KeyError", 1).result(SETTLED_S)
        record = next(client.tasks())
        assert (record.priority, record.attempt, record.batch) == (7, 3, "of the executor")
    with pytest.raises(ValueError, match="one task"):
        Executor(data_dir=node, options=Options(key="k"))


def test_a_callback_may_do_whatever_it_likes(executor: Executor) -> None:
    results: list[int] = []
    ended = threading.Event()

    def again(done: concurrent.futures.Future[int]) -> None:
        results.append(done.result())
        if len(results) < 5:
            executor.submit(functions.add, results[-1], 1).add_done_callback(again)
        else:
            ended.set()

    executor.submit(functions.add, 0).add_done_callback(again)
    assert ended.wait(SETTLED_S)
    assert results == [0, 1, 2, 3, 4]


async def test_asyncio_takes_it_for_its_own(executor: Executor) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(SETTLED_S):
        assert await loop.run_in_executor(executor, functions.add, 1, 2) == 3


def test_an_executor_that_is_dropped_finishes_its_calls(node: Path) -> None:
    executor = Executor(data_dir=node)
    futures = [executor.submit(functions.slow, number, 0.1) for number in range(3)]
    del executor
    gc.collect()
    assert [future.result(SETTLED_S) for future in futures] == [0, 1, 2]
    _until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("meshq-")])


def test_no_daemon(tmp_path: Path) -> None:
    with Executor(data_dir=tmp_path) as executor:
        assert isinstance(executor.submit(functions.add, 1).exception(SETTLED_S), NoDaemon)


def _script(node: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    text = "\n".join(["import atexit, sys", "from tests.unit import executor_functions as functions", *lines])
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": paths, "MESHQ_DATA_DIR": str(node)}
    command = [sys.executable, "-W", "error", "-c", text]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_program_ends_when_its_calls_are_done(node: Path, tmp_path: Path) -> None:
    for number, last in enumerate(("", "executor.shutdown(wait=False)")):
        path = tmp_path / str(number)
        done = _script(
            node, "from meshq import Executor", "executor = Executor()",
            f"executor.submit(functions.mark, {str(path)!r}, 1.0).add_done_callback(lambda _: print('called'))", last,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "called\n", "")
        assert path.read_text() == "begun\nended\n"


def test_nothing_is_taken_once_the_program_ends(node: Path) -> None:
    done = _script(
        node, "atexit.register(lambda: executor.submit(functions.add, 1))", "from meshq import Executor",
        "executor = Executor()", "executor.submit(functions.add, 1).result()",
    )  # fmt: skip
    assert "RuntimeError: cannot schedule new futures after interpreter shutdown" in done.stderr


def _until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + SETTLED_S
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.02)
