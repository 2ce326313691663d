"""The client for programs without asyncio."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from meshq import Client
from meshq.core import requests as ask
from meshq.errors import NoDaemon, TaskFailed, WaitTimeout
from tests.unit.client_twin import Twin


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    with Twin().serving(tmp_path) as twin:
        yield twin


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "meshq-client"]


def test_submit_and_result(tmp_path: Path, twin: Twin) -> None:
    with Client(tmp_path) as client:
        handle = client.options(priority=3).submit("echo", 1, two=2)
        assert handle.result() == [[1], {"two": 2}]
        assert handle.state() == "done"
        assert twin.specs[handle.id].priority == 3
        assert client.result(handle.id[-8:], timeout_s=5) == [[1], {"two": 2}]


def test_map_and_results(tmp_path: Path, twin: Twin) -> None:
    with Client(tmp_path) as client:
        assert list(client.map("echo", range(300))) == [[[n], {}] for n in range(300)]
        handles = client.submit_many("echo", [(1,), (2,)])
        assert list(client.results(handles)) == [[[1], {}], [[2], {}]]
        assert [record.id for record in client.tasks(limit=2)] == [handle.id for handle in reversed(handles)]


def test_what_map_is_given_may_itself_wait_for_the_client(tmp_path: Path, twin: Twin) -> None:
    with Client(tmp_path) as client:
        handles = client.submit_many("echo", [(1,), (2,)])
        assert list(client.map("echo", (handle.result()[0][0] + 10 for handle in handles))) == [[[11], {}], [[12], {}]]


def test_errors_come_through(tmp_path: Path, twin: Twin) -> None:
    with Client(tmp_path) as client:
        with pytest.raises(TaskFailed, match="boom"):
            client.submit("fail").result()
        with pytest.raises(WaitTimeout):
            client.submit("hold").result(timeout_s=0.05)
        with pytest.raises(ZeroDivisionError):
            list(client.map("echo", (1 // n for n in (1, 0))))


def test_a_cluster_in_trouble(tmp_path: Path, twin: Twin) -> None:
    with Client(tmp_path) as client:
        handle = client.submit("echo", 1)
        twin.tasks[handle.id] = replace(twin.tasks[handle.id], majority=False)
        assert not handle.record().majority
        assert client.story(handle).task == handle.record()
        assert client.cluster_story() == twin.cluster_story
        twin.requests.clear()
        client.forget("beta")
        client.recover()
        client.leave()
        assert twin.requests == [ask.Forget(node="beta"), ask.Recover(), ask.Stop(leave=True)]


def test_no_daemon(tmp_path: Path) -> None:
    with Client(tmp_path) as client, pytest.raises(NoDaemon):
        client.status()


def test_many_threads_share_one(tmp_path: Path, twin: Twin) -> None:
    with Client(tmp_path) as client, ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda n: client.submit("echo", n).result(), range(100))
        assert list(results) == [[[n], {}] for n in range(100)]


async def test_it_works_inside_a_running_loop(tmp_path: Path, twin: Twin) -> None:
    with Client(tmp_path) as client:
        assert client.submit("echo", 1).result() == [[1], {}]


def test_an_iterator_that_is_left_behind_stops(tmp_path: Path, twin: Twin) -> None:
    with Client(tmp_path) as client:
        found = client.map("echo", range(10))
        assert next(found) == [[0], {}]
    assert not threads()


def test_a_closed_client_says_so(tmp_path: Path, twin: Twin) -> None:
    client = Client(tmp_path)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.status()


def test_a_forgotten_client_leaves_no_thread(tmp_path: Path, twin: Twin) -> None:
    client = Client(tmp_path).options(priority=1)
    assert client.submit("echo").result() == [[], {}]
    assert threads()
    del client
    gc.collect()
    assert not threads()
