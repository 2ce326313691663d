"""The HTTP interface over real sockets: every path in msgpack and JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from meshq.core import requests as ask
from meshq.core.infos import TaskInfo
from meshq.wire import values
from tests.unit.wire_desk import JSON, NOW_MS, Desk, opened
from tests.unit.wire_service import NODE


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(tmp_path) as desk:
        yield desk


async def test_a_task_from_submit_to_result_in_msgpack(desk: Desk) -> None:
    args: list[Any] = [(1, (2,)), {1, 2}, b"\x00", datetime(2024, 1, 2, tzinfo=UTC), 1 << 100, float("inf")]
    kwargs = {"x": {(1, 2): None}}
    status, answer = await desk.packed("POST", "/submit-task", {"name": "f", "args": args, "kwargs": kwargs})
    assert status == 200
    assert answer == {"ids": [f"{1:032x}"], "copies": 1, "majority": True, "queued": False}
    [task] = answer["ids"]
    get = {"node": NODE, "boot": "b", "number": 1, "slots": 1, "free": 1, "names": ["f"]}
    _, got = await desk.packed("POST", "/get-task", get)
    [job] = got["jobs"]
    assert (job["args"], job["kwargs"], job["epoch"], job["attempt"]) == (args, kwargs, 3, 1)
    outcome = {"task": task, "epoch": 3, "attempt": 1, "kind": "done", "result": (args, kwargs)}
    status, taken = await desk.packed("POST", "/submit-result", {"node": NODE, "boot": "b", "outcomes": [outcome]})
    assert (status, taken) == (200, {"epoch": 3, "dropped": {}, "queued": False})
    _, view = await desk.packed("GET", f"/task/{task}")
    assert view["state"] == "done"
    assert view["result"] == (args, kwargs)
    _, waited = await desk.packed("POST", "/wait", {"ids": [task, "f" * 32], "wait_s": 1.0})
    assert [view["result"] for view in waited["tasks"]] == [(args, kwargs)]


async def test_a_task_from_submit_to_result_in_json(desk: Desk) -> None:
    args = [1, {"$bytes": "AA=="}, {"$set": [1]}, 10**5000]
    text = values.dumps({"name": "f", "args": args, "kwargs": {"x": 1.5}})
    async with desk.tcp.post("/submit-task", data=text, headers=JSON) as answer:
        [task] = (await answer.json())["ids"]
    assert values.unpack_arguments(desk.service.specs[task].payload) == ([1, b"\x00", {1}, 10**5000], {"x": 1.5})
    get = {"node": NODE, "boot": "b", "number": 1, "slots": 1, "free": 1, "names": ["f"]}
    async with desk.tcp.post("/get-task", data=json.dumps(get), headers=JSON) as answer:
        [job] = values.loads(await answer.read())["jobs"]
    # A very long integer comes back in a form that takes no time to write.
    assert (job["args"][:3], job["kwargs"]) == (args[:3], {"x": 1.5})
    assert values.from_json(job["args"][3]) == 10**5000
    outcome = {"task": task, "epoch": 3, "attempt": 1, "kind": "done", "result": {"$float": "nan"}}
    await desk.json("POST", "/submit-result", {"node": NODE, "boot": "b", "outcomes": [outcome]})
    _, view = await desk.json("GET", f"/task/{task[-8:]}?wait=2.5")
    assert view["result"] == {"$float": "nan"}
    assert list(view)[:7] == ["id", "name", "state", "result", "error", "attempt", "retry_of"]
    assert desk.service.seen[-1][0] == ask.TaskQuery(id=task[-8:], wait_s=2.5)


async def test_a_failure_has_its_error_in_place(desk: Desk) -> None:
    _, answer = await desk.json("POST", "/submit-task", {"name": "f"})
    [task] = answer["ids"]
    error = {"type": "ValueError", "message": "no", "traceback": "…"}
    outcome = {"task": task, "epoch": 3, "attempt": 1, "kind": "failed", "error": error}
    await desk.json("POST", "/submit-result", {"node": NODE, "boot": "b", "outcomes": [outcome]})
    for asked in (desk.json, desk.packed):
        _, view = await asked("GET", f"/task/{task}")
        assert (view["state"], view["result"], view["error"]) == ("failed", None, error)


async def test_a_batch_with_every_option(desk: Desk) -> None:
    own = "0123456789abcdef" * 2
    payload = values.pack_arguments([7], {})
    body = {
        "tasks": [
            {
                "id": own, "name": "f", "payload": payload, "priority": -5, "delay_s": 1.5, "timeout_s": 2,
                "retries": 3, "backoff_s": 0.5, "key": "k", "batch": "b", "backoff": "linear",
                "max_running": 4, "keep_s": 0,
            },
            {"name": "g", "args": (), "count": 3, "not_before_ms": 12},
        ]
    }  # fmt: skip
    _, answer = await desk.packed("POST", "/submit-task", body)
    assert answer["ids"] == [own, *(f"{number:032x}" for number in (1, 2, 3))]
    first, second, *_ = desk.service.specs.values()
    assert first == ask.TaskSpec(
        id=own, name="f", payload=payload, priority=-5, not_before_ms=NOW_MS + 1500, timeout_s=2.0, retries=3,
        backoff_s=0.5, key="k", batch="b", backoff="linear", max_running=4, keep_s=0.0,
    )  # fmt: skip
    assert second.unset == ("priority", "timeout_s", "retries", "max_running")
    assert (second.backoff, second.max_running, second.keep_s) == ("exponential", 0, None)
    assert (second.name, second.not_before_ms, second.payload) == ("g", 12, values.pack_arguments([], {}))


async def test_a_time_to_come_and_nothing_to_be_kept(desk: Desk) -> None:
    body = {"name": "f", "at": "2030-01-02T03:04:05.678+00:00", "forget": True, "backoff": "linear"}
    _, answer = await desk.json("POST", "/submit-task", body)
    spec = desk.service.specs[answer["ids"][0]]
    assert (spec.not_before_ms, spec.keep_s, spec.backoff) == (1893553445678, 0.0, "linear")


async def test_no_timeout_is_said_by_null_and_is_not_left_to_the_task(desk: Desk) -> None:
    _, answer = await desk.json("POST", "/submit-task", {"name": "f", "timeout_s": None, "priority": 0})
    spec = desk.service.specs[answer["ids"][0]]
    assert (spec.timeout_s, spec.priority, spec.unset) == (None, 0, ("retries", "max_running"))


async def test_what_waits_for_a_leader_is_202(desk: Desk) -> None:
    desk.service.leaderless = True
    status, answer = await desk.json("POST", "/submit-task", {"name": "f"})
    assert (status, answer["queued"], answer["majority"]) == (202, True, False)
    outcome = {"task": answer["ids"][0], "epoch": 3, "attempt": 1, "kind": "done", "result": 1}
    status, _ = await desk.json("POST", "/submit-result", {"node": NODE, "boot": "b", "outcomes": [outcome]})
    assert status == 202


@pytest.mark.parametrize("packed", [True, False])
async def test_the_other_paths(desk: Desk, packed: bool) -> None:
    asked = desk.packed if packed else desk.json
    _, answer = await asked("POST", "/submit-task", {"name": "f", "count": 3})
    one, *_ = answer["ids"]
    _, page = await asked("GET", "/tasks?state=pending&name=f&limit=2")
    assert [view["id"] for view in page["tasks"]] == answer["ids"][:2]
    assert all("result" not in view for view in page["tasks"])
    assert page["next"] == "next"
    _, view = await asked("POST", f"/task/{one}/cancel")
    assert (view["id"], view["state"]) == (one, "cancelled")
    _, again = await asked("POST", f"/task/{one}/retry")
    assert again["ids"] == ["f" * 32]
    beat = {"node": NODE, "boot": "b", "name": "box", "slots": 2, "tasks": [{"name": "f", "params": []}]}
    _, beaten = await asked("POST", "/heartbeat", beat)
    assert beaten == {"epoch": 3, "invalid": [], "tell": True}
    assert desk.service.seen[-1][0] == ask.Heartbeat(
        node=NODE, boot="b", name="box", slots=2, tasks=(TaskInfo(name="f"),)
    )
    _, status = await asked("GET", "/status")
    assert status["leader"] is None
    assert (status["copies"], status["split"], status["missing"]) == (1, "cold", ["b" * 32])
    assert status["merge"]["merged"] == 3
    assert view["majority"] is True
    assert status["nodes"][0]["address"] == "10.0.0.1:7373"
    _, stats = await asked("GET", "/stats")
    assert stats["counters"] == {"late_answer": 2}
    _, health = await asked("GET", "/health")
    assert health["pid"] == 7


@pytest.mark.parametrize(
    ("path", "request_", "says"),
    [
        ("/stop", ask.Stop(), "meshq down"),
        ("/leave", ask.Stop(leave=True), "meshq leave"),
        ("/recover", ask.Recover(), "meshq recover"),
    ],
)
async def test_what_comes_over_the_unix_socket_only(desk: Desk, path: str, request_: ask.Request, says: str) -> None:
    status, answer = await desk.json("POST", path)
    assert (status, answer["code"], answer["retryable"]) == (403, "forbidden", False)
    assert says in answer["message"]
    assert desk.service.seen == []
    status, answer = await desk.json("POST", path, unix=True)
    assert (status, answer) == (200, {})
    assert desk.service.seen == [(request_, True)]


@pytest.mark.parametrize("node", ["beta", "a" * 32, "my host/1 ü"])
async def test_a_node_is_forgotten(desk: Desk, node: str) -> None:
    assert await desk.json("POST", f"/forget/{quote(node, safe='')}") == (200, {})
    assert desk.service.seen == [(ask.Forget(node=node), False)]


@pytest.mark.parametrize("path", ["drain", "resume"])
async def test_a_node_is_drained_and_resumed(desk: Desk, path: str) -> None:
    for named, node in (("-", ""), ("beta", "beta"), (quote("my host/1 ü", safe=""), "my host/1 ü")):
        assert await desk.json("POST", f"/{path}/{named}") == (200, {})
        assert desk.service.seen[-1] == (ask.Drain(node=node, resume=path == "resume"), False)


async def test_batches(desk: Desk) -> None:
    batch, other = "night/1 ü", "day"
    body = {"tasks": [{"name": "f", "batch": batch, "count": 2}, {"name": "f", "batch": other}]}
    for asked in (desk.json, desk.packed):
        desk.service.specs.clear()
        _, answer = await asked("POST", "/submit-task", body)
        _, changed = await asked("POST", f"/batch/{quote(batch, safe='')}/cancel")
        assert changed == {"ids": answer["ids"][:2]}
        assert (await asked("POST", "/retry-failed"))[1]["ids"] == ["e" * 32]
        await asked("POST", f"/retry-failed?batch={quote(batch)}")
        await asked("GET", f"/tasks?batch={quote(batch)}")
        assert [request for request, _ in desk.service.seen[-3:]] == [
            ask.RetryFailed(), ask.RetryFailed(batch=batch), ask.TasksQuery(batch=batch)
        ]  # fmt: skip


async def test_who_cancels_may_wait_and_sees_how_far_the_run_was(desk: Desk) -> None:
    _, answer = await desk.json("POST", "/submit-task", {"name": "f"})
    [task] = answer["ids"]
    desk.service.views[task] = replace(desk.service.views[task], progress=(1.5, 4.0, "ü"), ending=True)
    for asked in (desk.json, desk.packed):
        _, view = await asked("POST", f"/task/{task}/cancel?wait=2.5")
        assert desk.service.seen[-1][0] == ask.Cancel(id=task, wait_s=2.5)
        assert (view["state"], view["progress"], view["ending"]) == ("cancelled", [1.5, 4.0, "ü"], True)


async def test_a_log_is_text_in_json_and_bytes_in_msgpack(desk: Desk) -> None:
    _, answer = await desk.json("POST", "/submit-task", {"name": "f"})
    [task] = answer["ids"]
    desk.service.printed = "grün\n".encode() + b"\xff"
    common = {"task": task, "node": NODE, "lost": 3, "ended": False}
    path = f"/task/{task[-8:]}/log?after=2&wait=1"
    assert (await desk.packed("GET", path))[1] == common | {"text": desk.service.printed[2:], "next": 7}
    assert desk.service.seen[-1][0] == ask.LogQuery(id=task[-8:], after=2, wait_s=1.0)
    assert (await desk.json("GET", path))[1] == common | {"text": "ün\n\ufffd", "next": 7}
    # Half a character waits for its other half; one to which nothing comes is none.
    desk.service.printed = "aü".encode()[:2]
    assert (await desk.json("GET", f"/task/{task}/log"))[1] == common | {"text": "a", "next": 1}
    assert (await desk.json("GET", f"/task/{task}/log?after=1"))[1] == common | {"text": "\ufffd", "next": 2}


async def test_names_with_all_that_is_known_of_them(desk: Desk) -> None:
    param = {
        "name": "day", "kind": "POSITIONAL_OR_KEYWORD", "required": False, "type": "int", "choices": [], "default": "1"
    }  # fmt: skip
    info = {
        "name": "news", "doc": "All of it.", "params": [param], "priority": None, "timeout_s": None, "retries": 2,
        "max_running": None,
    }  # fmt: skip
    for asked in (desk.json, desk.packed):
        assert await asked("GET", "/names") == (200, {"names": [{"info": info, "nodes": [NODE]}]})


async def test_a_run_keeps_something_and_the_next_one_gets_it(desk: Desk) -> None:
    _, answer = await desk.json("POST", "/submit-task", {"name": "f"})
    [task] = answer["ids"]
    desk.service.checkpoint = b"half\x00"
    get = {"node": NODE, "boot": "b", "number": 1, "slots": 1, "free": 1, "names": ["f"]}
    _, got = await desk.packed("POST", "/get-task", get)
    assert got["jobs"][0]["checkpoint"] == b"half\x00"
    outcome = {"task": task, "epoch": 3, "attempt": 1, "kind": "kept", "checkpoint": {"$bytes": "AA=="}}
    await desk.json("POST", "/submit-result", {"node": NODE, "boot": "b", "outcomes": [outcome]})
    kept = desk.service.seen[-1][0]
    assert isinstance(kept, ask.SubmitResult)
    assert kept.outcomes == (ask.Outcome(task=task, epoch=3, attempt=1, kind="kept", checkpoint=b"\0"),)


async def test_the_story_of_the_cluster(desk: Desk) -> None:
    for asked in (desk.json, desk.packed):
        assert await asked("GET", "/explain") == (200, {
            "node": NODE, "leader": None, "epoch": 3, "majority": False, "since_ms": None, "votes": [NODE],
            "nodes": [{"node": NODE, "name": "box", "role": "replica", "why": "no majority"}], "waits": "for beta",
            "events": [{"at_ms": 1, "text": "started"}],
            "merges": [{"at_ms": 2, "node": NODE, "merged": 3, "twice": 2, "differed": 1, "held": 0}],
        })  # fmt: skip


async def test_the_story_of_a_task_has_all_values_in_place(desk: Desk) -> None:
    _, answer = await desk.json("POST", "/submit-task", {"name": "f"})
    [task] = answer["ids"]
    outcome = {"task": task, "epoch": 3, "attempt": 1, "kind": "done", "result": {"$bytes": "AA=="}}
    await desk.json("POST", "/submit-result", {"node": NODE, "boot": "b", "outcomes": [outcome]})
    for asked, result in ((desk.json, {"$bytes": "AA=="}), (desk.packed, b"\0")):
        status, story = await asked("GET", f"/task/{task[-8:]}/explain")
        assert status == 200
        assert list(story) == ["task", "changes", "waits", "clashes"]
        assert story["task"] == (await asked("GET", f"/task/{task}"))[1]
        assert story["changes"] == [
            {"at_ms": 5, "move": "submit", "epoch": 3, "node": NODE, "worker": None, "cause": "a client"}
        ]
        assert story["waits"] == "for a slot"
        assert story["clashes"] == [{
            "task": task, "state": "done", "worker": NODE, "epoch": 2, "result": result, "error": None,
            "finished_ms": 6, "differs": True,
        }]  # fmt: skip
    assert desk.service.seen[-2][0] == ask.TaskStoryQuery(id=task[-8:])


async def test_requests_of_web_pages_are_refused(desk: Desk) -> None:
    headers = {"Origin": "http://evil.example", "Content-Type": "text/plain"}
    async with desk.tcp.post("/submit-task", data='{"name": "f"}', headers=headers) as answer:
        assert answer.status == 403
    assert desk.service.specs == {}


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("text/html", "application/json"),
        ("application/json", "application/json"),
        ("application/msgpack", "application/msgpack"),
        ("application/x-msgpack", "application/msgpack"),
        ("text/html, application/MSGPACK;q=0.9", "application/msgpack"),
        ("application/msgpack;q=0, */*", "application/json"),
    ],
)
async def test_answers_are_json_unless_msgpack_is_asked_for(desk: Desk, accept: str | None, kind: str) -> None:
    headers = {} if accept is None else {"Accept": accept}
    for path in ("/health", "/nowhere"):
        async with desk.tcp.get(path, headers=headers, skip_auto_headers=["Accept"]) as answer:
            assert answer.content_type == kind


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (values.pack({"name": "f"}), None),
        (values.pack({"name": "f"}), "application/octet-stream"),
        (values.pack({"name": "f"}), "application/x-msgpack"),
        (b'{"name": "f"}', "application/json; charset=utf-8"),
        (b' {"name": "f"}', "application/x-www-form-urlencoded"),
    ],
)
async def test_bodies_are_msgpack_unless_they_are_json(desk: Desk, data: bytes, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    async with desk.tcp.post("/submit-task", data=data, headers=headers, skip_auto_headers=["Content-Type"]) as answer:
        assert answer.status == 200, await answer.text()
