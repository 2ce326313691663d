"""Every way in which the HTTP interface says no, over real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshq.core import limits, reports
from meshq.errors import Conflict, DiskFull, QueueFull
from meshq.wire import values
from tests.unit.wire_desk import BODY_BYTES_MAX, JSON, MSGPACK, Desk, opened
from tests.unit.wire_service import NODE


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(tmp_path) as desk:
        yield desk


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({}, ["name"]),
        ({"name": ""}, ["name"]),
        ({"name": "x" * (limits.NAME_CHARS_MAX + 1)}, ["name", str(limits.NAME_CHARS_MAX)]),
        ({"name": "a\nb"}, ["name"]),
        ({"name": "\ud800"}, ["name"]),
        ({"name": 1}, ["name"]),
        ({"name": "f", "prio": 1}, ["prio", "priority"]),
        ({"name": "f", "args": 5}, ["args"]),
        ({"name": "f", "kwargs": [1]}, ["kwargs"]),
        ({"name": "f", "kwargs": {"$dict": [[1, 1]]}}, ["kwargs"]),
        ({"name": "f", "args": {"$bytes": "?"}}, ["$bytes"]),
        ({"name": "f", "payload": {"$bytes": "AAAA"}}, ["payload"]),
        ({"name": "f", "payload": {"$bytes": "kpCA"}, "args": []}, ["payload", "args"]),
        ({"name": "f", "id": "x"}, ["id"]),
        ({"name": "f", "id": "A" * 32}, ["id"]),
        ({"name": "f", "id": "0" * 32, "count": 2}, ["id", "2"]),
        ({"name": "f", "count": 0}, ["count"]),
        ({"name": "f", "count": limits.BATCH_TASKS_MAX + 1}, ["count", str(limits.BATCH_TASKS_MAX)]),
        ({"name": "f", "priority": 1.5}, ["priority"]),
        ({"name": "f", "priority": limits.PRIORITY_MAX + 1}, ["priority", str(limits.PRIORITY_MAX)]),
        ({"name": "f", "delay_s": -1}, ["delay_s"]),
        ({"name": "f", "delay_s": {"$float": "nan"}}, ["delay_s"]),
        ({"name": "f", "delay_s": 1, "not_before_ms": 1}, ["delay_s", "not_before_ms"]),
        ({"name": "f", "delay_s": 1, "at": "2999-12-31T18:30"}, ["at and delay_s"]),
        ({"name": "f", "at": "18:30"}, ["at: must be a date and a time such as", "'18:30'"]),
        ({"name": "f", "at": 5}, ["at"]),
        ({"name": "f", "forget": True, "keep_s": 1}, ["forget and keep_s"]),
        ({"name": "f", "forget": 1}, ["forget"]),
        ({"name": "f", "key": "k", "count": 2}, ["key", "one task of all 2"]),
        ({"name": "f", "backoff": "linear", "retries": 0}, ["backoff", "needs retries"]),
        ({"name": "f", "not_before_ms": -1}, ["not_before_ms"]),
        ({"name": "f", "not_before_ms": 1 << 63}, ["not_before_ms"]),
        ({"name": "f", "not_before_ms": (1 << 62) + 1}, ["not_before_ms"]),
        ({"name": "f", "timeout_s": 0}, ["timeout_s"]),
        ({"name": "f", "timeout_s": {"$float": "inf"}}, ["timeout_s"]),
        ({"name": "f", "timeout_s": "1"}, ["timeout_s"]),
        ({"name": "f", "retries": True}, ["retries"]),
        ({"name": "f", "retries": limits.RETRIES_MAX + 1}, ["retries", str(limits.RETRIES_MAX)]),
        ({"name": "f", "backoff_s": -0.5}, ["backoff_s"]),
        ({"name": "f", "backoff": "cubic"}, ["backoff", "constant, linear, exponential", "cubic"]),
        ({"name": "f", "backoff": 2}, ["backoff"]),
        ({"name": "f", "max_running": -1}, ["max_running", f"from 0 to {limits.RUNNING_MAX}"]),
        ({"name": "f", "max_running": limits.RUNNING_MAX + 1}, ["max_running", str(limits.RUNNING_MAX)]),
        ({"name": "f", "max_running": None}, ["max_running"]),
        ({"name": "f", "keep_s": -1}, ["keep_s", "from 0 to"]),
        ({"name": "f", "keep_s": limits.KEEP_S_MAX + 1}, ["keep_s"]),
        ({"name": "f", "keep_s": {"$float": "nan"}}, ["keep_s"]),
        ({"name": "f", "keep_s": "0"}, ["keep_s"]),
        ({"name": "f", "unset": []}, ["unset", "known are"]),
        ({"name": "f", "key": ""}, ["key"]),
        ({"name": "f", "key": "\udfff"}, ["Unicode"]),
        ({"name": "f", "batch": "x" * (limits.KEY_CHARS_MAX + 1)}, ["batch"]),
    ],
    ids=str,
)
async def test_a_wrong_option_is_named_and_nothing_is_kept(desk: Desk, task: Any, words: list[str]) -> None:
    for body in (task, {"tasks": [{"name": "good"}, task]}):
        status, answer = await desk.json("POST", "/submit-task", body)
        assert (status, answer["code"], answer["retryable"]) == (400, "malformed", False)
        for word in words:
            assert word in answer["message"]
    assert "$" in words[0] or words[0] == "Unicode" or "tasks[1]." in answer["message"]
    assert desk.service.specs == {}


@pytest.mark.parametrize(
    "body", [[], 1, "x", {"tasks": []}, {"tasks": {}}, {"tasks": [1]}, {"tasks": [{"name": "f"}], "name": "f"}]
)
async def test_what_is_no_task_is_malformed(desk: Desk, body: Any) -> None:
    for asked in (desk.json, desk.packed):
        status, answer = await asked("POST", "/submit-task", body)
        assert (status, answer["code"]) == (400, "malformed")


async def test_too_many_tasks_at_once_are_refused(desk: Desk) -> None:
    half = {"name": "f", "count": limits.BATCH_TASKS_MAX // 2 + 1}
    status, answer = await desk.json("POST", "/submit-task", {"tasks": [half, half]})
    assert status == 400
    assert str(limits.BATCH_TASKS_MAX) in answer["message"]


OUTCOME = {"task": "0" * 32, "epoch": 3, "attempt": 1, "kind": "done"}


def told(*outcomes: Any) -> dict[str, Any]:
    return {"node": "n", "boot": "b", "outcomes": list(outcomes)}


WORKERS_SAY: dict[str, dict[str, Any]] = {
    "/get-task": {"node": "n", "boot": "b", "number": 1, "slots": 1, "free": 1, "names": []},
    "/heartbeat": {"node": "n", "boot": "b", "name": "", "slots": 1},
    "/submit-result": told(OUTCOME),
}


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/get-task", {"node": "n"}, ["boot"]),
        ("/get-task", {"node": "n", "boot": "b", "number": 1, "slots": 1, "free": -1, "names": []}, ["free"]),
        (
            "/get-task",
            {"node": "n", "boot": "b", "number": 1, "slots": 1, "free": 1, "names": [], "wait_s": 61},
            ["wait_s", "60"],
        ),
        ("/heartbeat", {"node": 1}, ["node"]),
        ("/heartbeat", {"node": "\ud800", "boot": "b", "name": "", "slots": 1}, ["Unicode"]),
        ("/wait", {"ids": "x"}, ["ids"]),
        ("/wait", {"ids": [], "wait_s": -1}, ["wait_s"]),
        ("/submit-result", {"node": "n", "boot": "b"}, ["outcomes"]),
        ("/submit-result", told(OUTCOME | {"kind": "x"}), ["outcomes[0].kind", "done"]),
        ("/submit-result", told(OUTCOME, OUTCOME | {"epoch": -1}), ["outcomes[1].epoch"]),
        ("/submit-result", told(OUTCOME | {"attempt": (1 << 31) + 1}), ["outcomes[0].attempt", str(1 << 31)]),
        ("/submit-result", told(OUTCOME | {"kind": "failed"}), ["outcomes[0].error"]),
        ("/submit-result", told(OUTCOME | {"x": 1}), ["x", "known are"]),
        ("/submit-result", told(OUTCOME | {"kind": "kept"}), ["outcomes[0].checkpoint"]),
        ("/submit-result", told(OUTCOME | {"checkpoint": {"$bytes": "AA=="}}), ["outcomes[0].checkpoint"]),
        ("/submit-result", told(OUTCOME | {"kind": "kept", "checkpoint": 5}), ["outcomes[0].checkpoint"]),
        (
            "/heartbeat",
            WORKERS_SAY["/heartbeat"] | {"progress": [{"task": "t", "note": "x" * 201}]},
            ["progress[0].note", "200"],
        ),
        (
            "/heartbeat",
            WORKERS_SAY["/heartbeat"] | {"progress": [{"task": "t", "done": {"$float": "nan"}}]},
            ["progress[0].done"],
        ),
    ],
)  # fmt: skip
async def test_what_workers_say_wrongly_is_named(desk: Desk, path: str, body: Any, words: list[str]) -> None:
    status, answer = await desk.json("POST", path, body)
    assert (status, answer["code"]) == (400, "malformed")
    for word in words:
        assert word in answer["message"]
    assert desk.service.seen == []


@pytest.mark.parametrize("path", WORKERS_SAY)
@pytest.mark.parametrize("field", ["node", "boot"])
async def test_a_worker_that_is_nobody_or_too_long_is_refused_by_name(desk: Desk, path: str, field: str) -> None:
    longest = "ø" * limits.ID_CHARS_MAX
    for value, words in (("", ["empty"]), (longest + "x", [str(limits.ID_CHARS_MAX)])):
        for asked in (desk.json, desk.packed):
            status, answer = await asked("POST", path, WORKERS_SAY[path] | {field: value})
            assert (status, answer["code"], answer["retryable"]) == (400, "malformed", False)
            for word in (field, *words):
                assert word in answer["message"]
    assert desk.service.seen == []
    await desk.json("POST", path, WORKERS_SAY[path] | {field: longest})
    [(request, _)] = desk.service.seen
    assert getattr(request, field) == longest


async def test_an_error_that_is_too_long_is_refused(desk: Desk) -> None:
    error = {"message": "x" * (limits.ERROR_BYTES_MAX + 1)}
    status, answer = await desk.json("POST", "/submit-result", told(OUTCOME | {"kind": "failed", "error": error}))
    assert (status, answer["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/task/xyz", "xyz"), ("/task/abc", "4"), ("/task/" + "a" * 33, "32"), ("/task/abcd?wait=x", "wait_s"),
        ("/task/abcd?wait=61", "60"), ("/task/abcd?wait=nan", "wait_s"), ("/task/abcd?wait=-1", "wait_s"),
        ("/task/abcd?wiat=1", "wiat"), ("/tasks?state=purged", "pending"), ("/tasks?limit=0", "limit"),
        (f"/tasks?limit={limits.PAGE_TASKS_MAX + 1}", str(limits.PAGE_TASKS_MAX)), ("/tasks?limit=1.5", "limit"),
        ("/tasks?after=zz", "zz"), ("/tasks?sort=id", "sort"), ("/tasks?batch=", "batch"),
        ("/tasks?batch=" + "x" * (limits.KEY_CHARS_MAX + 1), f"1 to {limits.KEY_CHARS_MAX} characters"),
        ("/task/abcd/log?after=-1", "after"), ("/task/abcd/log?after=1.5", "after"),
        ("/task/abcd/log?wait=61", "60"), ("/task/abcd/log?follow=1", "known are after, wait"),
        ("/task/xyz/log", "xyz"),
    ],
)  # fmt: skip
async def test_a_wrong_query_is_named(desk: Desk, path: str, word: str) -> None:
    status, answer = await desk.json("GET", path)
    assert (status, answer["code"]) == (400, "malformed")
    assert word in answer["message"]


@pytest.mark.parametrize(
    "node", ["%20", "%1b%5b2J", "x" * (limits.NAME_CHARS_MAX + 1)], ids=["blank", "control", "long"]
)
async def test_what_is_no_node_is_not_forgotten(desk: Desk, node: str) -> None:
    status, answer = await desk.json("POST", f"/forget/{node}")
    assert (status, answer["code"]) == (400, "malformed")
    assert "is no node" in answer["message"]
    assert desk.service.seen == []


async def test_whose_story_is_not_there(desk: Desk) -> None:
    assert (await desk.json("GET", "/task/abcd/explain"))[0] == 404
    assert (await desk.json("GET", "/task/xyz/explain"))[0] == 400
    assert (await desk.json("POST", "/forget"))[0] == 404
    assert (await desk.json("GET", "/recover"))[0] == 405


async def test_an_id_may_be_written_as_a_uuid(desk: Desk) -> None:
    await desk.json("POST", "/submit-task", {"name": "f", "id": "0123456789ab7def8123456789abcdef"})
    status, _ = await desk.json("GET", "/task/01234567-89AB-7DEF-8123-456789ABCDEF")
    assert status == 200


async def test_a_body_that_is_too_large_is_refused_with_the_limit(desk: Desk) -> None:
    body = values.pack({"name": "f", "args": [b"x" * BODY_BYTES_MAX]})

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    for data in (body, chunks()):
        async with desk.tcp.post("/submit-task", data=data, headers=MSGPACK) as answer:
            error = values.unpack(await answer.read())
            assert (answer.status, error["code"]) == (413, "too_large")
            assert str(BODY_BYTES_MAX) in error["message"]
    assert desk.service.specs == {}
    fits = values.pack({"name": "f", "args": [b"x" * (BODY_BYTES_MAX - 100)]})
    async with desk.tcp.post("/submit-task", data=fits, headers=MSGPACK) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (b"", MSGPACK), (b"\xc1", MSGPACK), (b"\x81", MSGPACK), (b'{"name": "f"}', MSGPACK), (b"\x91" * 500, MSGPACK),
        (b"", JSON), (b"{", JSON), (b"\x81\xa4name\xa1f", JSON), (b"[" * 5000, JSON), (b"[" * 5000, {}),
        (b'{"name": "f", "args": [NaN]}', JSON),
    ],
)  # fmt: skip
async def test_a_body_that_is_neither_msgpack_nor_json_is_malformed(
    desk: Desk, data: bytes, headers: dict[str, str]
) -> None:
    async with desk.tcp.post("/submit-task", data=data, headers={"Accept": "*/*"} | headers) as answer:
        assert answer.status == 400
    assert desk.service.seen == []


LONG = "9" * 5000  # digits, more than Python writes


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/submit-task", f'{{"name": "f", "priority": {LONG}}}'),
        ("/submit-task", f'{{"name": "f", "count": {LONG}}}'),
        ("/submit-task", f'{{"name": "f", "delay_s": {LONG}}}'),
        ("/submit-task", f'{{"name": "f", "args": [{{"$bytes": {LONG}}}]}}'),
        ("/submit-task", f'{{"name": "f", "args": [{{"$date": "{LONG}"}}]}}'),
        ("/submit-task", f'{{"name": "f", "x{LONG}": 1}}'),
        ("/wait", f'{{"ids": [], "wait_s": {LONG}}}'),
        ("/get-task", f'{{"node": "n", "boot": "b", "number": {LONG}, "slots": 1, "free": 1, "names": []}}'),
    ],
)
async def test_what_can_not_be_written_is_refused_all_the_same_and_not_repeated(
    desk: Desk, path: str, body: str
) -> None:
    async with desk.tcp.post(path, data=body, headers=JSON) as answer:
        assert answer.status == 400
        assert len((await answer.json())["message"]) < 1000


async def test_unknown_paths_and_wrong_methods_have_the_same_form(desk: Desk) -> None:
    for asked in (desk.json, desk.packed):
        status, answer = await asked("GET", "/nowhere")
        assert (status, answer["code"], answer["retryable"]) == (404, "no_such_path", False)
        assert "/nowhere" in answer["message"]
        status, answer = await asked("GET", "/submit-task")
        assert (status, answer["code"]) == (405, "method_not_allowed")
        assert "POST" in answer["message"]
    async with desk.tcp.get("/submit-task") as raw:
        assert raw.headers["Allow"] == "POST"


async def test_the_services_errors_keep_code_status_and_text(desk: Desk) -> None:
    for error, status in ((QueueFull("5 tasks"), 429), (DiskFull(), 507), (Conflict("a majority is there"), 409)):
        desk.service.broken = error
        for asked in (desk.json, desk.packed):
            assert await asked("POST", "/submit-task", {"name": "f"}) == (status, error.to_wire())
            assert await asked("POST", "/forget/beta") == (status, error.to_wire())
    desk.service.broken = None
    assert (await desk.json("GET", "/task/abcd"))[0] == 404
    desk.service.leaderless = True
    get = {"node": NODE, "boot": "b", "number": 1, "slots": 1, "free": 1, "names": ["f"]}
    async with desk.tcp.post("/get-task", data=json.dumps(get), headers=JSON) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert (await answer.json())["retryable"] is True


async def test_a_bug_is_500_with_the_traceback_in_the_log(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.service.broken = ZeroDivisionError("secret")
    status, answer = await desk.json("GET", "/status")
    assert (status, answer["code"], answer["retryable"]) == (500, "internal", False)
    assert "secret" not in answer["message"]
    assert "ZeroDivisionError: secret" in caplog.text
    desk.service.broken = None
    assert (await desk.json("GET", "/status"))[0] == 200


async def test_a_stored_value_that_cannot_be_read_is_an_error_of_the_store(desk: Desk) -> None:
    desk.service.views["b" * 32] = reports.TaskView(id="b" * 32, name="f", state="done", attempt=1, result=b"\xc1")
    status, answer = await desk.json("GET", "/task/bbbb")
    assert (status, answer["code"]) == (500, "store")


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/task/abcd/cancel?wait=61", "60"), ("/task/abcd/cancel?wait=x", "wait_s"),
        ("/task/abcd/cancel?force", "known are wait"), ("/retry-failed?batch=", "batch"),
        ("/retry-failed?name=f", "known are batch"),
        ("/batch/" + "x" * (limits.KEY_CHARS_MAX + 1) + "/cancel", "batch"),
        ("/drain/" + "x" * (limits.NAME_CHARS_MAX + 1), "is no node"), ("/drain/%09", "is no node"),
        ("/resume/%20", "is no node"),
    ],
)  # fmt: skip
async def test_what_is_asked_wrongly_is_named_and_nothing_is_done(desk: Desk, path: str, word: str) -> None:
    for asked in (desk.json, desk.packed):
        status, answer = await asked("POST", path)
        assert (status, answer["code"]) == (400, "malformed")
        assert word in answer["message"]
    assert desk.service.seen == []


async def test_the_first_stage_of_a_stop_refuses_new_work_only(desk: Desk) -> None:
    _, answer = await desk.json("POST", "/submit-task", {"name": "f"})
    [task] = answer["ids"]
    desk.server.refuse()
    get = {"node": NODE, "boot": "b", "number": 1, "slots": 1, "free": 1, "names": ["f"]}
    for path, body in (
        ("/submit-task", {"name": "f"}),
        ("/get-task", get),
        (f"/task/{task}/retry", None),
        ("/retry-failed", None),
    ):
        status, refused = await desk.json("POST", path, body)
        assert (status, refused["code"], refused["retryable"]) == (503, "stopping", True)
    outcome = {"task": task, "epoch": 3, "attempt": 1, "kind": "done", "result": 1}
    status, _ = await desk.json("POST", "/submit-result", {"node": NODE, "boot": "b", "outcomes": [outcome]})
    assert status == 200
    assert (await desk.json("GET", f"/task/{task}"))[1]["result"] == 1
    assert (await desk.json("GET", "/health"))[0] == 200
