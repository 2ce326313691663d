"""What each kind of caller may do, path by path: real daemons, real databases, TLS on loopback."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from meshq.core.ids import cluster_hash
from meshq.core.keys import Key
from meshq.core.messages import Call, CallAnswer, Refused
from meshq.core.requests import Get, Heartbeat, SubmitResult
from meshq.wire import codec, handshake
from meshq.wire.handshake import Identity
from meshq.wire.http import build_app
from meshq.wire.security import Role, Subject
from tests.unit.secured_pair import Answer, Caller, Machine, Pair, secured_pair
from tests.unit.wire_service import DictService

pytestmark = pytest.mark.asyncio(loop_scope="module")

NODE = "0" * 31 + "9"  # a worker that does nothing
GET = {"node": NODE, "boot": "1", "number": 1, "slots": 1, "free": 1, "names": []}
BEAT = {"node": NODE, "boot": "1", "name": "box", "slots": 1, "tasks": []}
RESULT: dict[str, Any] = {"node": NODE, "boot": "1", "outcomes": []}
TASK = {"name": "primes", "args": [10]}

OK, MALFORMED, FORBIDDEN = (200, None), (400, "malformed"), (403, "forbidden")
NOT_FOUND, CONFLICT = (404, "not_found"), (409, "conflict")
# Method, path, body; then what somebody is answered who brings a credential, and who has the key. `{mine}` is a task
# of that credential that waits, `{my_done}` one that is done; `{other}` and `{others_done}` are the key's own.
Row = tuple[str, str, Any, tuple[int, str | None], tuple[int, str | None]]
TABLE: list[Row] = [
    ("POST", "/submit-task", TASK, OK, OK),
    ("POST", "/submit-task", {"tasks": [TASK, TASK]}, OK, OK),
    ("POST", "/submit-task", TASK | {"owner": "eve"}, MALFORMED, MALFORMED),
    ("POST", "/submit-task", TASK | {"id": "{mine}"}, OK, OK),
    ("POST", "/submit-task", TASK | {"id": "{other}"}, CONFLICT, OK),
    ("GET", "/task/{mine}", None, OK, OK),
    ("GET", "/task/{mine:tail}", None, OK, OK),
    ("GET", "/task/{other}", None, NOT_FOUND, OK),
    ("GET", "/task/{other:tail}", None, NOT_FOUND, OK),
    ("GET", "/task/{others_done}?wait=1", None, NOT_FOUND, OK),
    ("GET", "/task/{mine}/log", None, OK, OK),
    ("GET", "/task/{my_done}/log?after=0&wait=1", None, OK, OK),
    ("GET", "/task/{other}/log", None, NOT_FOUND, OK),
    ("GET", "/task/{others_done:tail}/log", None, NOT_FOUND, OK),
    ("GET", "/task/{mine}/explain", None, OK, OK),
    ("GET", "/task/{other}/explain", None, NOT_FOUND, OK),
    ("GET", "/task/{other:tail}/explain", None, NOT_FOUND, OK),
    ("POST", "/task/{mine}/cancel", None, OK, OK),
    ("POST", "/task/{other}/cancel", None, NOT_FOUND, OK),
    ("POST", "/task/{other:tail}/cancel", None, NOT_FOUND, OK),
    ("POST", "/task/{mine}/cancel?wait=1", None, OK, OK),
    ("POST", "/batch/{my_batch}/cancel", None, OK, OK),
    ("POST", "/batch/{others_batch}/cancel", None, NOT_FOUND, OK),
    ("POST", "/batch/nobodys/cancel", None, NOT_FOUND, NOT_FOUND),
    ("POST", "/retry-failed", None, OK, OK),
    ("POST", "/retry-failed?batch={others_batch}", None, NOT_FOUND, OK),
    ("POST", "/task/{my_done}/retry", None, OK, OK),
    ("POST", "/task/{mine}/retry", None, CONFLICT, CONFLICT),
    ("POST", "/task/{others_done}/retry", None, NOT_FOUND, OK),
    ("POST", "/task/{other}/retry", None, NOT_FOUND, CONFLICT),
    ("GET", "/tasks", None, OK, OK),
    ("GET", "/tasks?state=done", None, OK, OK),
    ("GET", "/tasks?batch={my_batch}", None, OK, OK),
    ("GET", "/names", None, OK, OK),
    ("POST", "/wait", {"ids": ["{my_done}", "{others_done}"]}, OK, OK),
    ("GET", "/health", None, OK, OK),
    ("POST", "/get-task", GET, FORBIDDEN, OK),
    ("POST", "/get-task", {"nonsense": 1}, FORBIDDEN, MALFORMED),
    ("POST", "/heartbeat", BEAT, FORBIDDEN, OK),
    ("POST", "/submit-result", RESULT, FORBIDDEN, OK),
    ("GET", "/status", None, FORBIDDEN, OK),
    ("GET", "/stats", None, FORBIDDEN, OK),
    ("GET", "/explain", None, FORBIDDEN, OK),
    ("POST", "/forget/nobody", None, FORBIDDEN, NOT_FOUND),
    ("POST", "/drain/nobody", None, FORBIDDEN, NOT_FOUND),
    ("POST", "/resume/nobody", None, FORBIDDEN, NOT_FOUND),
    ("POST", "/resume/-", None, FORBIDDEN, OK),
    ("POST", "/credential/bob", None, FORBIDDEN, CONFLICT),
    ("POST", "/credential/..%2Fx", None, FORBIDDEN, MALFORMED),
    ("POST", "/credential/nobody/revoke", None, FORBIDDEN, NOT_FOUND),
    ("GET", "/credentials", None, FORBIDDEN, OK),
    ("GET", "/peer?kind=control", None, FORBIDDEN, (400, "malformed")),
    ("POST", "/stop", None, FORBIDDEN, FORBIDDEN),
    ("POST", "/leave", None, FORBIDDEN, FORBIDDEN),
    ("POST", "/recover", None, FORBIDDEN, FORBIDDEN),
    ("POST", "/key/rotate", None, FORBIDDEN, FORBIDDEN),
]
# What a part of a path that is not fixed is in the table.
PARTS = {
    "{batch}": r"\{\w+\}",
    "{id}": r"\{\w+(:tail)?\}",
    "{node}": "nobody",
    "{name}": r"[\w.%]+",
    "{step}": "rotate",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    async with secured_pair(tmp_path_factory.mktemp("pair")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bob(pair: Pair) -> Caller:
    return await pair.issue("bob")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def done(pair: Pair, bob: Caller) -> dict[str, str]:
    await pair.submit(bob, batch="mine")
    await pair.submit(pair.holder, batch="others")
    return {
        "my_done": await pair.finished(bob), "others_done": await pair.finished(pair.holder), "my_batch": "mine",
        "others_batch": "others",
    }  # fmt: skip


def filled(value: Any, ids: dict[str, str]) -> Any:
    """The same with the tasks' ids in their places."""
    match value:
        case str():
            return re.sub(r"\{(\w+)(:tail)?\}", lambda at: ids[at[1]][-12 if at[2] else 0 :], value)
        case dict():
            return {name: filled(part, ids) for name, part in value.items()}
        case list():
            return [filled(part, ids) for part in value]
    return value


def outcome(answer: Answer) -> tuple[int, str | None]:
    status, body = answer
    return status, body.get("code") if status >= 400 else None


class NoLinks:
    """Takes no links."""

    async def accept(self, request: web.Request) -> web.WebSocketResponse:
        raise NotImplementedError

    async def hang_up(self) -> None:
        """There are none."""


async def test_every_path_is_in_the_table() -> None:
    app = build_app(DictService(), NoLinks(), new_id=lambda: "", wall_ms=lambda: 0, body_bytes_max=1)
    told = [(row[0], row[1].partition("?")[0]) for row in TABLE]
    for route in app.router.routes():
        assert route.resource is not None
        path = re.sub(r"\{\w+\}", lambda at: PARTS[at[0]], route.resource.canonical)
        method = "GET" if route.method == "HEAD" else route.method
        assert any(row[0] == method and re.fullmatch(path, row[1]) for row in told), f"{method} {path}"


@pytest.mark.parametrize("asked", ["leader", "follower"])
@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]} {row[1]} {row[2]}"[:80])
async def test_who_may_do_what(pair: Pair, bob: Caller, done: dict[str, str], row: Row, asked: str) -> None:
    method, path, body, for_credential, for_key = row
    machine = pair.machines[asked]
    ids = {"mine": await pair.submit(bob), "other": await pair.submit(pair.holder), **done}
    path, body = filled(path, ids), filled(body, ids)
    before = pair.leader.rows("tasks", "payloads", "roster")
    answer = await machine.ask(bob, method, path, body)
    assert outcome(answer) == for_credential, answer
    if for_credential != OK:
        assert pair.leader.rows("tasks", "payloads", "roster") == before
    answer = await machine.ask(pair.holder, method, path, body)
    assert outcome(answer) == for_key, answer


@pytest.mark.parametrize("asked", ["leader", "follower"])
async def test_a_credential_sees_its_own_tasks_and_the_key_sees_whose_they_are(
    pair: Pair, bob: Caller, done: dict[str, str], asked: str
) -> None:
    machine = pair.machines[asked]
    mine, other = await pair.submit(bob), await pair.submit(pair.holder)
    status, seen = await machine.ask(bob, "GET", "/tasks?limit=1000")
    shown = {task["id"]: task["owner"] for task in seen["tasks"]}
    assert (status, set(shown.values())) == (200, {"bob"})
    assert {mine, done["my_done"]} <= shown.keys()
    _, seen = await machine.ask(pair.holder, "GET", "/tasks?limit=1000")
    all_shown = {task["id"]: task["owner"] for task in seen["tasks"]}
    assert (all_shown[mine], all_shown[other]) == ("bob", "")
    for forged in ({}, {"owner": ""}, {"owner": "eve"}):
        ids = [done["my_done"], done["others_done"]]
        _, seen = await machine.ask(bob, "POST", "/wait", {"ids": ids, **forged})
        assert [task["id"] for task in seen["tasks"]] == [done["my_done"]]
        _, seen = await machine.ask(pair.holder, "POST", "/wait", {"ids": ids, **forged})
        assert [task["id"] for task in seen["tasks"]] == ids
    _, seen = await machine.ask(bob, "GET", f"/task/{mine}/explain")
    assert seen["changes"][0]["cause"] == "submitted with the credential bob"
    again = (await machine.ask(pair.holder, "POST", f"/task/{done['my_done']}/retry"))[1]["ids"][0]
    assert (await machine.ask(bob, "GET", f"/task/{again}"))[1]["retry_of"] == done["my_done"]


async def test_what_is_forbidden_is_told_with_what_is_not_and_is_so_for_heads(pair: Pair, bob: Caller) -> None:
    for machine in pair.machines.values():
        _, answer = await machine.ask(bob, "GET", "/status")
        assert answer["message"] == (
            "the credential bob is for submitting tasks, and for seeing, cancelling and retrying those; everything "
            "else needs the cluster's key"
        )
        assert (await machine.ask(bob, "HEAD", "/status"))[0] == 403
        assert (await machine.ask(bob, "HEAD", "/health"))[0] == 200
        assert outcome(await machine.ask(bob, "GET", "/nowhere")) == (404, "no_such_path")


async def test_a_node_is_a_worker_as_itself_only_and_else_as_good_as_who_has_the_key(pair: Pair) -> None:
    node = pair.caller(Subject(Role.NODE, NODE))
    for machine in pair.machines.values():
        for path, body in (("/get-task", GET), ("/heartbeat", BEAT), ("/submit-result", RESULT)):
            assert (await machine.ask(node, "POST", path, body))[0] == 200
            other = {**body, "node": "0" * 31 + "8"}
            assert outcome(await machine.ask(node, "POST", path, other)) == FORBIDDEN
        for path in ("/status", "/credentials", "/tasks", "/explain"):
            assert (await machine.ask(node, "GET", path))[0] == 200
        assert outcome(await machine.ask(node, "POST", "/stop")) == FORBIDDEN


async def refused_everywhere(pair: Pair, caller: Caller, why: str) -> None:
    before = pair.leader.rows("tasks", "payloads", "roster")
    places = ("mine", "other", "my_done", "others_done", "my_batch", "others_batch")
    ids = dict.fromkeys(places, before["tasks"][0][0])
    for machine in pair.machines.values():
        for method, path, body, *_ in TABLE:
            answer = await machine.ask(caller, method, filled(path, ids), filled(body, ids))
            assert outcome(answer) == FORBIDDEN, (method, path)
            assert why in answer[1]["message"]
    assert pair.leader.rows("tasks", "payloads", "roster") == before


async def test_who_is_revoked_gets_nothing_and_its_tasks_stay(pair: Pair) -> None:
    gone = await pair.issue("gone")
    task = await pair.submit(gone)
    assert await pair.follower.ask(pair.holder, "POST", "/credential/gone/revoke") == (200, {})
    await refused_everywhere(pair, gone, "the credential gone was revoked")
    assert (await pair.leader.ask(pair.holder, "GET", f"/task/{task}"))[1]["owner"] == "gone"
    for machine in pair.machines.values():
        _, told = await machine.ask(pair.holder, "GET", "/credentials")
        found = {each["name"]: each["revoked_ms"] for each in told["credentials"]}
        assert found["gone"] is not None
        assert (await machine.local("GET", "/credentials"))[1] == told
    assert outcome(await pair.leader.local("POST", "/credential/gone")) == CONFLICT


@pytest.mark.parametrize("name", ["stranger", "bob ", "Bob"])
async def test_who_is_not_on_the_list_gets_nothing(pair: Pair, bob: Caller, name: str) -> None:
    why = "the certificate names nobody" if " " in name else f"this cluster has issued no credential {name}"
    await refused_everywhere(pair, pair.caller(Subject(Role.SUBMIT, name)), why)


async def test_a_credential_without_a_name_is_not_taken_for_the_key(pair: Pair) -> None:
    await refused_everywhere(pair, pair.caller(Subject(Role.SUBMIT, "")), "the certificate names nobody")


async def test_a_credential_of_another_key_is_not_even_heard(pair: Pair, bob: Caller) -> None:
    other = pair.caller(Subject(Role.SUBMIT, "bob"), Key(bytes(20)))
    for machine in pair.machines.values():
        with pytest.raises(aiohttp.ClientError):
            await machine.ask(other, "GET", "/health")


async def asked_on_a_link(machine: Machine, caller: Caller, node: str, request: Any) -> Any:
    """What a node is answered that forwards a request over a link of its own."""
    me = Identity(node=node, boot="1" * 32, cluster_hash=cluster_hash("pair"), port=1)
    async with caller.session.ws_connect(f"{machine.url}/peer?kind=bulk") as link:
        await link.send_bytes(handshake.greeting(me, "bulk"))
        assert handshake.read((await link.receive()).data).refused is None
        call = Call(request=type(request).__name__, body=codec.encode_body(request))
        await link.send_bytes(msgspec.msgpack.encode((1, 1, codec.encode(call))))
        async for frame in link:
            kind, number, content = msgspec.msgpack.decode(frame.data)
            if (kind, number) == (4, 1):
                return codec.decode(content)
    raise AssertionError("the link ended")


async def test_a_node_forwards_nothing_in_the_name_of_another_node(pair: Pair) -> None:
    node = "0" * 31 + "a"
    caller = pair.caller(Subject(Role.NODE, node))
    others = [(await machine.local("GET", "/health"))[1]["node"] for machine in pair.machines.values()]
    for other in others:
        for request in (
            Heartbeat(node=other, boot="2" * 32, name="box", slots=9, tasks=()),
            Get(node=other, boot="2" * 32, number=1, slots=9, free=9, names=()),
            SubmitResult(node=other, boot="2" * 32, outcomes=()),
        ):
            answer = await asked_on_a_link(pair.leader, caller, node, request)
            assert isinstance(answer, Refused)
            assert answer.code == "forbidden"
    mine = await asked_on_a_link(pair.leader, caller, node, Heartbeat(node=node, boot="1" * 32, name="box", slots=0))
    assert isinstance(mine, CallAnswer)
