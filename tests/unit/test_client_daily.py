"""What people do with tasks from Python every day: options, batches, handles, lists, logs, machines."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from meshq import Client
from meshq.client.aio import AsyncClient
from meshq.client.options import Options
from meshq.core import infos
from meshq.core import requests as ask
from meshq.errors import Conflict, Malformed, NotFound, TaskFailed, WaitTimeout
from tests.unit.client_twin import NODE, Twin


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    with Twin().serving(tmp_path) as twin:
        yield twin


# -- options ---------------------------------------------------------------------------------------------


def test_what_is_left_open_is_not_sent() -> None:
    assert Options().given() == {}
    assert Options(priority=0, retries=0, max_running=0, keep_s=0).given() == {
        "priority": 0, "retries": 0, "max_running": 0, "keep_s": 0,
    }  # fmt: skip
    assert Options(forget=True).given() == {"forget": True}
    assert Options(timeout_s=math.inf).given() == {"timeout_s": None}


def test_a_time_and_a_delay_are_two_words_for_one_thing() -> None:
    at = datetime(2030, 1, 2, 3, 4, 5, 678_000, UTC)
    assert Options(at=at).given() == {"not_before_ms": 1893553445678}
    assert Options(at=at.astimezone().replace(tzinfo=None)).given() == Options(at=at).given()
    assert Options(at=datetime(1960, 1, 1, tzinfo=UTC)).given() == {"not_before_ms": 0}
    with pytest.raises(Malformed, match="at and delay_s can't both be given"):
        Options(at=at, delay_s=1).given()
    no_time: Any = "18:30"
    with pytest.raises(Malformed, match="at: must be a datetime, not str"):
        Options(at=no_time).given()


async def test_each_option_arrives(tmp_path: Path, twin: Twin) -> None:
    at = datetime(2030, 1, 2, tzinfo=UTC)
    async with AsyncClient(tmp_path) as client:
        with_all = client.options(
            priority=2, at=at, timeout_s=3.5, retries=4, backoff="linear", backoff_s=0.5, key="k", max_running=6,
            keep_s=7.5, batch="b",
        )  # fmt: skip
        spec = twin.specs[(await with_all.submit("echo")).id]
        # Options are those of the last call, and no others.
        plain = twin.specs[(await with_all.options(priority=1).submit("echo")).id]
    assert (spec.priority, spec.not_before_ms, spec.timeout_s, spec.retries) == (2, at.timestamp() * 1000, 3.5, 4)
    assert (spec.backoff, spec.backoff_s, spec.key, spec.max_running) == ("linear", 0.5, "k", 6)
    assert (spec.keep_s, spec.batch, spec.unset) == (7.5, "b", ())
    assert (plain.priority, plain.retries, plain.key, plain.batch) == (1, 0, None, None)
    assert set(plain.unset) == {"timeout_s", "retries", "max_running"}


async def test_no_limit_is_another_thing_than_none_said(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        spec = twin.specs[(await client.options(timeout_s=math.inf).submit("echo")).id]
    assert spec.timeout_s is None
    assert "timeout_s" not in spec.unset


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(backoff="quadratic"), "backoff"),
        (Options(max_running=-1), "max_running"),
        (Options(keep_s=-1.0), "keep_s"),
        (Options(retries=1001), "retries"),
        (Options(forget=True, keep_s=5.0), "forget and keep_s"),
        (Options(backoff="linear", retries=0), "backoff"),
    ],
)
async def test_a_wrong_option_is_named(tmp_path: Path, twin: Twin, options: Options, words: str) -> None:
    async with AsyncClient(tmp_path) as client:
        with pytest.raises(Malformed, match=f"^{words}"):
            await client.with_options(options).submit("echo")
    assert not twin.tasks


async def test_a_key_would_make_one_task_of_many(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        keyed = client.options(key="k")
        with pytest.raises(Malformed, match=r"^key: would make one task of all of them"):
            await keyed.submit_many("echo", [(1,), (2,)])
        with pytest.raises(Malformed, match=r"^key"):
            _ = [result async for result in keyed.map("echo", [1, 2])]
    assert not twin.tasks


# -- many tasks ------------------------------------------------------------------------------------------


async def test_a_hundred_thousand_tasks_are_one_request(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        batch = await client.submit_many("echo", [()] * 100_000)
    assert [type(request) for request in twin.requests] == [ask.Submit]
    assert len(batch) == len(twin.tasks) == 100_000
    assert {view.batch for view in twin.tasks.values()} == {batch.name}


async def test_results_as_they_come(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        handles = await client.submit_many("hold", [(n,) for n in range(2500)])
        found = client.as_completed([*handles, handles[7]])
        # Far behind the first that are asked for, and before them.
        for number in (2400, 7, 1200):
            twin.finish(handles[number].id, number)
            record = await anext(found)
            assert (record.id, record.value()) == (handles[number].id, number)
            if number == 7:
                assert (await anext(found)).value() == 7
        await found.aclose()
        # The others are looked through without a wait.
        waits = [request.wait_s for request in twin.requests if isinstance(request, ask.WaitQuery)]
        assert 0.0 in waits and max(waits) < 2
        with pytest.raises(WaitTimeout, match="2497 tasks are not finished"):
            [record async for record in client.as_completed(handles[:2400] + handles[2401:], timeout_s=0.3)
             if record.state != "done"]  # fmt: skip


async def test_map_as_it_comes_has_each_result_once(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        found = [result[0][0] async for result in client.map("echo", range(7000), in_order=False)]
        assert sorted(found) == list(range(7000))
        records = [record async for record in client.map_records("fail", range(3))]
        assert [record.state for record in records] == ["failed"] * 3


@pytest.mark.parametrize("cancel_rest", [False, True])
async def test_what_map_leaves_behind(tmp_path: Path, twin: Twin, cancel_rest: bool) -> None:
    async with AsyncClient(tmp_path) as client:
        other = await client.submit("hold")
        with pytest.raises(WaitTimeout):
            [result async for result in client.map("hold", range(3), timeout_s=0.1, cancel_rest=cancel_rest)]
    states = [view.state for task, view in twin.tasks.items() if task != other.id]
    assert states == ["cancelled" if cancel_rest else "pending"] * 3
    assert twin.tasks[other.id].state == "pending"


def test_an_iterator_that_is_left_cancels_the_rest(tmp_path: Path, twin: Twin) -> None:
    with Client(tmp_path) as client:
        results = client.options(batch="mine").map("echo", range(3), cancel_rest=True)
        assert next(results) == [[0], {}]
        client.options(batch="mine").submit("hold")
        del results
        assert [view.state for view in twin.tasks.values()] == ["done"] * 3 + ["cancelled"]
        assert list(client.map("echo", range(3), in_order=False, cancel_rest=True)) != []
    assert len([request for request in twin.requests if isinstance(request, ask.CancelBatch)]) == 1


# -- batches and handles -----------------------------------------------------------------------------------


async def test_a_batch_says_how_far_it_is(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        batch = await client.options(batch="night/1").submit_many("hold", [(n,) for n in range(4)])
        assert (batch.name, await batch.state(), await batch.progress()) == ("night/1", "pending", (0, 4))
        twin.finish(batch[0].id, 0)
        await client.result(batch[0])
        assert (await batch.state(), await batch.progress()) == ("running", (1, 4))
        assert repr(batch) == "<batch night/1: 1 of 4 finished (3 pending, 1 done)>"
        assert len(await batch.cancel()) == 3
        assert await batch.state() == "cancelled"
        assert [record.id async for record in batch.as_completed()] == [handle.id for handle in batch]
        with pytest.raises(TaskFailed, match="cancelled"):
            await batch.result()
        again = await client.batch("night/1")
        assert [handle.id for handle in again] == [handle.id for handle in batch]
        assert [handle.id for handle in again[1:]] == [handle.id for handle in batch[1:]]
        with pytest.raises(NotFound, match="there are no tasks of the batch day"):
            await client.batch("day")


def test_a_batch_without_asyncio(tmp_path: Path, twin: Twin) -> None:
    with Client(tmp_path) as client:
        batch = client.submit_many("echo", [(n,) for n in range(3)])
        assert batch.result() == [[[n], {}] for n in range(3)]
        assert (batch.state(), batch.progress(), str(batch.counts())) == ("done", (3, 3), "3 of 3 finished (3 done)")
        failed = client.options(batch="f").submit_many("fail", [()] * 2)
        client.submit("fail")
        assert (failed.state(), len(failed.retry_failed()), len(failed.retry_failed())) == ("failed", 2, 2)
        assert [handle.record().retry_of for handle in client.retry_failed()][:1] != [None]
        assert [record.id for record in failed.as_completed()] == [handle.id for handle in failed]
        assert len(client.batch("f")) == 2 + 2 + 2 + 2
        assert failed.cancel() == ()
        assert [record.batch for record in client.tasks(batch="f", limit=1)] == ["f"]


def test_a_handle_does_what_the_client_does(tmp_path: Path, twin: Twin) -> None:
    with Client(tmp_path) as client:
        handle = client.submit("hold")
        assert handle.id[-8:] in repr(handle)
        twin.tasks[handle.id] = replace(twin.tasks[handle.id], state="running", progress=(3.0, 12.0, "<b>halfway"))
        assert handle.progress() == (3.0, 12.0, "<b>halfway")
        assert repr(handle) == f"<task {handle.id[-8:]} hold: running, 3 of 12 (25 %), <b>halfway>"
        assert (handle.cancel().state, handle.state()) == ("cancelled", "cancelled")
        with pytest.raises(TaskFailed):
            handle.result()
        assert handle.retry().record().retry_of == handle.id


async def test_cancel_waits_for_the_run_to_end(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        handle = await client.submit("hold")
        assert not (await handle.cancel(wait_s=90)).ending
        await client.cancel(handle)
    waits = [request.wait_s for request in twin.requests if isinstance(request, ask.Cancel)]
    assert waits == [60.0, 0.0]


def test_a_notebook_shows_tasks_and_never_their_markup(tmp_path: Path, twin: Twin) -> None:
    with Client(tmp_path) as client:
        handle = client.submit("hold")
        twin.tasks[handle.id] = replace(
            twin.tasks[handle.id],
            name="<i>x",
            state="running",
            attempt=2,
            progress=(1.0, 4.0, "<script>alert(1)</script>"),
        )
        shown = handle._repr_html_()
        assert "&lt;script&gt;alert(1)" in shown and "<script" not in shown and "<i>" not in shown
        assert '<progress value="1" max="4">' in shown and "running" in shown and "25 %" in shown
        twin.finish(handle.id, "<b>bold</b>")
        handle.result()
        assert "&lt;b&gt;bold" in handle._repr_html_() and "<b>" not in handle._repr_html_()
        twin.error = {"type": "E<u>", "message": "<u>m", "traceback": "<u>t\n&"}
        failed = client.submit_many("fail", [(), ()])
        assert "<u>" not in failed[0]._repr_html_()
        assert "&lt;u&gt;t\n&amp;" in failed[0]._repr_html_()
        assert '<progress value="2" max="2">' in failed._repr_html_() and "2 <span" in failed._repr_html_()
        assert "failed" in failed._repr_html_()
    # A display is no place for an exception.
    assert "the Client is closed" in handle._repr_html_() and "&lt;b&gt;bold" in handle._repr_html_()
    assert "the Client is closed" in failed._repr_html_()


async def test_a_notebook_shows_what_asyncio_saw_last(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        batch = await client.submit_many("echo", [(1,)])
        assert "done" not in batch[0]._repr_html_() and "done" not in batch._repr_html_()
        await batch[0].result()
        await batch.counts()
        assert "done" in batch[0]._repr_html_() and "done" in batch._repr_html_()


# -- what tasks print, names, machines -------------------------------------------------------------------------


async def test_a_log_comes_in_parts(tmp_path: Path, twin: Twin) -> None:
    async with AsyncClient(tmp_path) as client:
        handle = await client.submit("hold")
        twin.printed[handle.id] = bytes(range(65, 90))
        parts = [part async for part in handle.logs()]
        assert b"".join(part.text for part in parts) == bytes(range(65, 90))
        assert [part.lost for part in parts] == [0, 0, 0]
        twin.lost_bytes = 20
        assert [(part.text, part.lost) async for part in client.logs(handle.id[-8:])] == [(bytes(range(85, 90)), 20)]
        with pytest.raises(NotFound):
            [part async for part in client.logs("ffffffff")]


def test_a_log_is_followed_to_its_end(tmp_path: Path, twin: Twin) -> None:
    with Client(tmp_path) as client:
        handle = client.submit("hold")
        twin.printed[handle.id] = b"first"
        parts = handle.logs(follow=True)
        assert next(parts).text == b"first"
        twin.printed[handle.id] += b" then"
        twin.finish(handle.id, None)
        assert [part.text for part in parts] == [b" then"]


async def test_names_and_machines(tmp_path: Path, twin: Twin) -> None:
    param = infos.Param(name="limit", kind="POSITIONAL_OR_KEYWORD", required=True, type="int", default="")
    info = infos.TaskInfo(name="primes", doc="Counts.", params=(param,), retries=3, timeout_s=1.5)
    twin.names = infos.Names(names=(infos.Name(info=info, nodes=(NODE.name,)),))
    async with AsyncClient(tmp_path) as client:
        assert await client.names() == twin.names
        twin.requests.clear()
        await client.drain()
        await client.resume()
        await client.drain("my host/1")
        await client.resume("my host/1")
        assert twin.requests == [
            ask.Drain(), ask.Drain(resume=True), ask.Drain(node="my host/1"), ask.Drain(node="my host/1", resume=True)
        ]  # fmt: skip
        twin.refusals.append(Conflict("it leaves"))
        with pytest.raises(Conflict, match="it leaves"):
            await client.drain()


def test_names_and_machines_without_asyncio(tmp_path: Path, twin: Twin) -> None:
    with Client(tmp_path) as client:
        assert client.names() == twin.names
        client.drain("beta")
        client.resume("beta")
    assert twin.requests[1:] == [ask.Drain(node="beta"), ask.Drain(node="beta", resume=True)]
