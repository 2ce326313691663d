"""The asyncio client against the real HTTP interface."""

from __future__ import annotations

import asyncio
import datetime
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from meshq.client.aio import AsyncClient
from meshq.core import reports
from meshq.core import requests as ask
from meshq.errors import (
    Ambiguous,
    BadArguments,
    Conflict,
    Malformed,
    MeshqError,
    NoAnswer,
    NoDaemon,
    NoLeader,
    NotFound,
    QueueFull,
    Stopping,
    TaskFailed,
    TooLarge,
    Unencodable,
    UnknownTask,
    WaitTimeout,
)
from meshq.wire import values
from meshq.wire.unix import socket_path
from tests.unit.client_twin import ERROR, Twin


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    with Twin().serving(tmp_path) as twin:
        yield twin


async def test_arguments_arrive_as_they_were_sent(tmp_path: Path, twin: Twin) -> None:
    when = datetime.datetime(2024, 5, 6, tzinfo=datetime.UTC)
    async with AsyncClient(tmp_path) as client:
        handle = await client.submit("echo", (1, b"\x00"), {3, 4}, 2**200, options="mine", timeout_s=when)
        assert await handle.result() == [[(1, b"\x00"), {3, 4}, 2**200], {"options": "mine", "timeout_s": when}]
        assert (handle.copies, handle.majority, handle.queued) == (2, True, False)
        assert await handle.state() == "done"


async def test_options_go_with_the_task(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        urgent = client.options(priority=7, retries=2, timeout_s=1.5, key="k", delay_s=60)
        handle = await urgent.submit("echo")
        plain = await client.submit("echo")
    spec = twin.specs[handle.id]
    assert (spec.priority, spec.retries, spec.timeout_s, spec.key, spec.not_before_ms) == (7, 2, 1.5, "k", 60_000)
    assert twin.specs[plain.id].priority == 0


async def test_an_answer_that_was_lost_makes_no_second_task(tmp_path: Path, twin: Twin) -> None:
    twin.lost_answers = 1
    async with AsyncClient(tmp_path) as client:
        await client.submit("echo", 1)
    submits = [request for request in twin.requests if isinstance(request, ask.Submit)]
    assert len(submits) == 2
    assert submits[0] == submits[1]
    assert len(twin.tasks) == 1


async def test_a_lost_answer_to_a_retry_is_no_second_retry(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        failed = await client.submit("fail")
        twin.lost_answers = 1
        with pytest.raises(NoDaemon, match="broke off"):
            await client.retry(failed)
    assert len(twin.tasks) == 2


async def test_retry_names_the_old_task(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        failed = await client.submit("fail")
        again = await client.retry(failed)
        assert (await again.record()).retry_of == failed.id


async def test_an_error_that_passes_is_tried_again(tmp_path: Path, twin: Twin) -> None:
    twin.refusals.extend([QueueFull(), NoLeader()])
    async with AsyncClient(tmp_path) as client:
        await client.submit("echo", 1)
    assert len(twin.tasks) == 1


async def test_an_error_that_stays_is_raised_in_the_end(tmp_path: Path, twin: Twin) -> None:
    twin.refusals.extend([QueueFull()] * 100)
    async with AsyncClient(tmp_path, connect_timeout_s=0.3) as client:
        with pytest.raises(QueueFull):
            await client.submit("echo", 1)


@pytest.mark.parametrize(
    ("name", "args", "error"),
    [("nothing", (), UnknownTask), ("primes", (-5,), BadArguments), ("echo", (object(),), Unencodable)],
)
async def test_what_is_wrong_is_raised_at_once(
    tmp_path: Path, twin: Twin, name: str, args: tuple[object, ...], error: type[MeshqError]
) -> None:
    async with AsyncClient(tmp_path) as client:
        with pytest.raises(error):
            await client.submit(name, *args)
    assert not twin.tasks
    assert len(twin.requests) == (0 if error is Unencodable else 1)


async def test_what_was_kept_before_a_refusal_is_said(tmp_path: Path) -> None:
    twin, large = Twin(), bytes(900)
    # Each is a request of its own.
    twin.body_bytes_max = 1500
    with twin.serving(tmp_path):
        async with AsyncClient(tmp_path) as client:
            with pytest.raises(BadArguments, match="before that, the first 1 of 3 tasks were kept"):
                await client.submit_many("primes", [(1, large), (-5, large), (1, large)])
    assert len(twin.tasks) == 1


async def test_a_daemon_that_stops_is_not_asked_again(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        done = await client.submit("echo")
        twin.refusals.extend([Stopping()] * 2)
        with pytest.raises(Stopping, match="nothing was kept"):
            await client.submit("echo")
        with pytest.raises(Stopping, match="nothing was kept"):
            await client.retry(done)
        twin.refusals.extend([Stopping()])
        assert await client.status() == twin.status


async def test_a_task_may_be_taken_by_a_daemon_that_broke_off(tmp_path: Path, twin: Twin) -> None:
    twin.lost_answers = 100
    async with AsyncClient(tmp_path, connect_timeout_s=0.2) as client:
        with pytest.raises(NoAnswer, match=r"broke off.*it may still take the task") as failure:
            await client.submit("echo")
    [task] = twin.tasks
    assert str(failure.value).endswith(f"meshq result {task[-8:]}")


async def test_no_daemon_is_said_at_once(tmp_path: Path) -> None:
    began_s = time.monotonic()
    async with AsyncClient(tmp_path) as client:
        with pytest.raises(NoDaemon, match="meshq up"):
            await client.status()
    assert time.monotonic() - began_s < 5


async def test_a_socket_that_a_dead_daemon_left_is_no_daemon(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_path(tmp_path)))
    async with AsyncClient(tmp_path) as client:
        with pytest.raises(NoDaemon, match="meshq up"):
            await client.status()


async def test_a_daemon_that_hangs_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(socket_path(tmp_path)))
        hanging.listen()
        async with AsyncClient(tmp_path, connect_timeout_s=0.2) as client:
            with pytest.raises(NoDaemon, match=r"no answer within 0\.2 s"):
                await client.status()


async def test_a_daemon_that_comes_back_is_the_same_to_its_client(tmp_path: Path) -> None:
    async with AsyncClient(tmp_path) as client:
        with Twin().serving(tmp_path):
            await client.status()
        waiting = asyncio.ensure_future(client.submit("echo", 1))
        await asyncio.sleep(0.1)
        with Twin().serving(tmp_path) as second:
            await waiting
            assert len(second.tasks) == 1


async def test_many_tasks_need_few_requests(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        results = [result async for result in client.map("echo", range(12_000), range(12_000))]
    assert results == [[[n, n], {}] for n in range(12_000)]
    assert len(twin.requests) < 40


async def test_map_yields_in_order_whatever_finishes_first(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        handles = await client.submit_many("hold", [(0,), (1,), (2,)])
        found = client.results(handles)
        for number in (2, 1, 0):
            twin.finish(handles[number].id, number)
        assert [result async for result in found] == [0, 1, 2]


async def test_a_task_that_stands_twice_is_yielded_twice(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        first, second = await client.submit_many("echo", [(1,), (2,)])
        ids = [result[0][0] async for result in client.results([first, second, first])]
    assert ids == [1, 2, 1]


async def test_map_raises_where_a_task_failed(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        with pytest.raises(TaskFailed, match="ValueError: boom") as failure:
            [result async for result in client.map("fail", [1])]
    assert failure.value.error is not None
    assert "the_function" in failure.value.error["traceback"]


async def test_waiting_ends_when_told(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        handle = await client.submit("hold")
        with pytest.raises(WaitTimeout, match="pending"):
            await handle.result(timeout_s=0.1)
        with pytest.raises(WaitTimeout, match="1 tasks"):
            [result async for result in client.results([handle], timeout_s=0.1)]
        assert not (await client.finished(handle, 0)).finished


async def test_a_result_wakes_whoever_waits(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        handle = await client.submit("hold")
        waiting = asyncio.ensure_future(handle.result())
        assert await asyncio.to_thread(twin.asked_to_wait.wait, 10)
        twin.finish(handle.id, 42)
        assert await asyncio.wait_for(waiting, 5) == 42
    assert sum(isinstance(request, ask.TaskQuery) for request in twin.requests) == 1


async def test_waiting_outlasts_the_time_without_a_leader(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path, connect_timeout_s=0.2) as client:
        handle = await client.submit("echo", 1)
        twin.refusals.extend([NoLeader()] * 4)
        assert await handle.result() == [[1], {}]


async def test_more_may_wait_at_once_than_are_let_through(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        handles = await client.submit_many("hold", [()] * 100)
        waiting = [asyncio.ensure_future(handle.result()) for handle in handles]
        with pytest.raises(WaitTimeout):
            await handles[0].result(timeout_s=0.1)
        for handle in reversed(handles):
            twin.finish(handle.id, handle.id)
        assert await asyncio.wait_for(asyncio.gather(*waiting), 30) == [handle.id for handle in handles]


async def test_ids_may_be_cut(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        first, second = await client.submit_many("echo", [(1,), (2,)])
        assert await client.result(first.id[-8:]) == [[1], {}]
        with pytest.raises(Ambiguous):
            await client.task(second.id[:6])
        with pytest.raises(NotFound):
            await client.task("ffffffff")
        with pytest.raises(MeshqError, match="no task id"):
            await client.task("../status")


async def test_a_batch_that_is_too_large_is_split(tmp_path: Path) -> None:
    twin = Twin()
    twin.body_bytes_max = 20_000
    with twin.serving(tmp_path):
        async with AsyncClient(tmp_path) as client:
            handles = await client.submit_many("echo", [("x" * 5000,)] * 10)
            assert len({handle.id for handle in handles} & set(twin.tasks)) == 10
            with pytest.raises(TooLarge):
                await client.submit("echo", "x" * 30_000)


async def test_the_list_goes_over_pages(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        await client.submit_many("echo", [()] * 2300)
        await client.submit("fail")
        everything = [record.id async for record in client.tasks()]
        assert everything == sorted(twin.tasks, reverse=True)
        assert len([record async for record in client.tasks(limit=1200)]) == 1200
        [failed] = [record async for record in client.tasks(state="failed")]
        assert failed.error == ERROR


async def test_cancelled_tasks_have_no_result(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        handle = await client.submit("hold")
        assert (await client.cancel(handle)).state == "cancelled"
        with pytest.raises(TaskFailed, match="cancelled") as failure:
            await handle.result()
        assert failure.value.state == "cancelled"
        done = await client.submit("echo")
        assert (await client.cancel(done)).state == "done"


async def test_the_daemon_says_how_it_is(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        assert await client.status() == twin.status
        assert (await client.health()).pid == twin.pid
        assert (await client.stats()).uptime_s == 1.0


# -- a cluster in trouble ----------------------------------------------------------------------------------


async def test_what_has_no_majority_says_so(tmp_path: Path, twin: Twin) -> None:
    twin.copies, twin.majority = 1, False
    twin.status = replace(twin.status, majority=False, copies=1, split="cold", missing=("b" * 32,))
    async with AsyncClient(tmp_path) as client:
        handle = await client.submit("echo", 1)
        assert (handle.copies, handle.majority, handle.queued) == (1, False, False)
        assert (await handle.record()).majority
        twin.tasks[handle.id] = replace(twin.tasks[handle.id], majority=False)
        record = await client.finished(handle)
        assert (record.majority, record.value()) == (False, [[1], {}])
        assert [record.majority async for record in client.records([handle])] == [False]
        assert [record.majority async for record in client.tasks()] == [False]
        assert await client.status() == twin.status


async def test_a_story_has_its_values_unpacked(tmp_path: Path, twin: Twin) -> None:
    change = reports.Change(at_ms=5, move="submit", epoch=3, node="a" * 32, cause="submitted")
    async with AsyncClient(tmp_path) as client:
        handle = await client.submit("echo", 1)
        twin.stories[handle.id] = reports.TaskStory(
            task=twin.tasks[handle.id],
            changes=(change,),
            waits="for a slot",
            clashes=(
                reports.Clash(
                    task=handle.id, state="failed", worker="b" * 32, epoch=2, result=values.pack((1, b"\x00")),
                    error=values.pack(ERROR), finished_ms=6, differs=True,
                ),
            ),
        )  # fmt: skip
        story = await client.story(handle.id[-8:])
        assert (story.task, story.changes, story.waits) == (await client.task(handle), (change,), "for a slot")
        [other] = story.clashes
        assert (other.result, other.error, other.worker) == ((1, b"\x00"), ERROR, "b" * 32)
        assert await client.cluster_story() == twin.cluster_story
        with pytest.raises(NotFound):
            await client.story("ffffffff")


async def test_what_mends_a_cluster_is_asked_for_once(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path, connect_timeout_s=1) as client:
        await client.forget("my host/1")
        await client.recover()
        await client.leave()
        assert twin.requests == [ask.Forget(node="my host/1"), ask.Recover(), ask.Stop(leave=True)]
        for act in (client.recover, client.leave, lambda: client.forget("x")):
            twin.refusals.append(Conflict("not now"))
            with pytest.raises(Conflict, match="not now"):
                await act()
            # It may be done already, and is then not what is wanted any more.
            twin.lost_answers, asked = 1, len(twin.requests)
            with pytest.raises(NoAnswer):
                await act()
            assert len(twin.requests) == asked + 1
        with pytest.raises(Malformed, match="is no node"):
            await client.forget(" ")
