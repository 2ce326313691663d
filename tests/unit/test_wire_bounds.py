"""What one caller can make grow or keep waiting at the HTTP interface, and that others are served meanwhile."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshq.core import limits, reports
from meshq.core import requests as ask
from meshq.core.requests import Answer, Request
from meshq.wire import values
from meshq.wire.lines import Lines
from meshq.wire.security import HOLDER, Role, Subject
from meshq.wire.shares import Share, account
from tests.unit.wire_desk import Desk, opened
from tests.unit.wire_service import DictService

TASK = "a" * 32


class Holding(DictService):
    """Keeps who waits waiting, until `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.waiting = 0

    async def call(self, request: Request, *, local: bool) -> Answer:
        if getattr(request, "wait_s", 0.0):
            self.waiting += 1
            await self.go.wait()
            self.waiting -= 1
        return await super().call(request, local=local)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


class Wire:
    """A bare connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, text: str) -> None:
        self.writer.write(text.encode())

    async def status(self) -> int:
        """The status of the next answer."""
        return int((await self.reader.readline()).split()[1])

    async def ended(self) -> bool:
        """Reads to the end of the connection."""
        try:
            while await self.reader.read(1 << 16):
                pass
        except ConnectionError:
            pass
        return True


@asynccontextmanager
async def wires(desk: Desk, count: int) -> AsyncIterator[list[Wire]]:
    made: list[Wire] = []
    try:
        while len(made) < count:
            made += [Wire(*await asyncio.open_connection("127.0.0.1", desk.server.port))]
        yield made
    finally:
        for wire in made:
            wire.writer.close()


# -- slow ones -----------------------------------------------------------------------------------------------------


async def test_fifty_slow_bodies_delay_nobody_and_are_ended(tmp_path: Path) -> None:
    async with opened(tmp_path, body_s=2.0) as desk, wires(desk, 50) as slow:
        for wire in slow:
            wire.send("POST /submit-task HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{")
        began_s, served = time.monotonic(), 0
        answers = [asyncio.ensure_future(wire.status()) for wire in slow]
        try:
            while not all(answer.done() for answer in answers):
                asked_s = time.monotonic()
                status, _ = await desk.json("POST", "/submit-task", {"name": "f"})
                assert (status, time.monotonic() - asked_s < 1.0) == (200, True)
                served += 1
                for wire in slow:
                    wire.send(" ")
                await asyncio.sleep(0.05)
                assert time.monotonic() - began_s < 10
        finally:
            for answer in answers:
                answer.cancel()
        assert {answer.result() for answer in answers} == {408}
        assert served > 10
        async with asyncio.timeout(8):
            assert all([await wire.ended() for wire in slow])


async def test_a_header_that_comes_too_slowly_is_ended_as_is_a_silent_connection(tmp_path: Path) -> None:
    async with opened(tmp_path, header_s=1.0) as desk, wires(desk, 3) as (silent, slow, second):
        second.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await second.status() == 200
        slow.send("GET /health HTTP/1.1\r\nHost: x\r\n")

        async def trickle() -> None:
            while True:
                slow.send("X-More: and more\r\n")
                second.send("G" if second.writer.is_closing() else "")
                await asyncio.sleep(0.1)

        trickling = asyncio.ensure_future(trickle())
        async with asyncio.timeout(5):
            assert all([await wire.ended() for wire in (silent, slow, second)])
        trickling.cancel()


async def test_who_does_not_read_an_answer_is_cut_off(tmp_path: Path) -> None:
    service = DictService()
    service.views[TASK] = reports.TaskView(
        id=TASK, name="f", state="done", attempt=1, result=values.pack(b"x" * (24 << 20))
    )
    async with opened(tmp_path, service, answer_s=0.5) as desk:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", desk.server.port))
        reader, writer = await asyncio.open_connection(sock=raw, limit=1024)
        writer.write(f"GET /task/{TASK} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        server = desk.server
        await until(lambda: server.connections == 1)
        await until(lambda: server.connections == 0)
        assert (await desk.json("GET", "/health"))[0] == 200
        assert len(await reader.read()) < 24 << 20
        writer.close()


# -- large ones ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("X-Long: " + "x" * (limits.HEADER_BYTES_MAX + 1), 400),
        ("\r\n".join(f"X-{number}: x" for number in range(limits.HEADER_LINES_MAX + 1)), 400),
        ("X-Fits: " + "x" * 8000, 200),
    ],
    ids=["a long line", "many lines", "neither"],
)
async def test_headers_are_bounded(tmp_path: Path, header: str, status: int) -> None:
    async with opened(tmp_path) as desk, wires(desk, 1) as (wire,):
        wire.send(f"GET /health HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n")
        assert await wire.status() == status


async def test_callers_who_speak_no_http_write_a_few_lines_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as desk, wires(desk, 4 * limits.LINES_PER_MINUTE) as callers:
        for number, wire in enumerate(callers):
            wire.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * (number % 2) + "\x00\x01 no HTTP\r\n\r\n")
            async with asyncio.timeout(10):
                assert await wire.ended()
    assert len([record for record in caplog.records if record.levelno > logging.INFO]) <= limits.LINES_PER_MINUTE
    assert "Traceback" not in caplog.text


def test_what_others_make_a_log_say_is_told_again_a_minute_later() -> None:
    lines = Lines()
    told = [lines.next(100.0 + number) for number in range(limits.LINES_PER_MINUTE + 3)]
    assert told == [""] * (limits.LINES_PER_MINUTE - 1) + ["; more are not told for a minute", None, None, None]
    assert lines.next(159.9) is None
    assert lines.next(160.0) == ""


def test_the_same_about_the_same_is_told_once_an_hour_and_takes_no_room_of_others() -> None:
    lines = Lines()
    assert [lines.next(100.0 + number, ("bob", "fell")) for number in range(50)] == [""] + [None] * 49
    assert lines.next(150.0, ("bob", "rose")) == lines.next(150.0, ("eve", "fell")) == ""
    assert lines.next(3699.0, ("bob", "fell")) is None
    assert lines.next(3700.0, ("bob", "fell")) == ""


def test_what_was_not_told_for_the_many_others_is_told_later() -> None:
    lines = Lines()
    for number in range(limits.LINES_PER_MINUTE):
        lines.next(100.0, (str(number), "fell"))
    assert lines.next(101.0, ("bob", "fell")) is None
    assert lines.next(160.0, ("bob", "fell")) == ""


async def test_a_body_is_taken_as_it_is(tmp_path: Path) -> None:
    bomb = gzip.compress(b'{"name": "' + b"f" * 10_000_000 + b'"}')
    async with (
        opened(tmp_path) as desk,
        desk.tcp.post("/submit-task", data=bomb, headers={"Content-Encoding": "gzip"}) as answer,
    ):
        assert (answer.status, (await answer.json())["code"]) == (400, "malformed")
        assert "Content-Encoding" in (await answer.json())["message"]


async def test_a_body_without_a_length_is_bounded_too(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 10_000

    async with opened(tmp_path) as desk, desk.tcp.post("/submit-task", data=endless()) as answer:
        assert (answer.status, (await answer.json())["code"]) == (413, "too_large")


async def test_bodies_of_one_caller_are_bounded_together(tmp_path: Path) -> None:
    part = 8 << 20
    count = limits.BODIES_BYTES_PER_CALLER // part
    async with opened(tmp_path, body_bytes_max=16 << 20) as desk, wires(desk, count) as sent:
        for wire in sent:
            wire.send(f"POST /submit-task HTTP/1.1\r\nHost: x\r\nContent-Length: {part + 1}\r\n\r\n")
            wire.send("x" * part)
        async with asyncio.timeout(20):
            while (await desk.json("POST", "/submit-task", {"name": "f"}))[0] != 429:
                await asyncio.sleep(0.05)
        # Another caller has a share of its own.
        assert (await desk.packed("POST", "/submit-task", {"name": "f", "args": [b"x" * part]}))[0] == 200
        for wire in sent:
            wire.writer.close()
        async with asyncio.timeout(10):
            while (await desk.json("POST", "/submit-task", {"name": "f", "args": ["x" * part]}))[0] != 200:
                await asyncio.sleep(0.05)


BOMBS = {
    "many lists": b"\xdd" + (16).to_bytes(4, "big") + (b"\xdc\xff\xff" + b"\x90" * 65535) * 16,
    "many maps": b"\xdd" + (16).to_bytes(4, "big") + (b"\xdc\xff\xff" + b"\x80" * 65535) * 16,
}


@pytest.mark.parametrize("name", BOMBS)
async def test_a_body_of_too_many_parts_is_malformed(tmp_path: Path, name: str) -> None:
    async with opened(tmp_path, body_bytes_max=16 << 20) as desk:
        for body in (b"\x82\xa4name\xa1f\xa4args" + BOMBS[name], b"\x82\xa4name\xa1f\xa4args\x91" + BOMBS[name]):
            async with desk.tcp.post("/submit-task", data=io.BytesIO(body)) as answer:
                assert answer.status == 400
                assert f"more than {limits.PARTS_MAX} lists" in (await answer.json())["message"]
        payload = b"\x92\x91" + BOMBS[name] + b"\x80"
        status, refused = await desk.packed("POST", "/submit-task", {"name": "f", "payload": payload})
        assert (status, refused["code"]) == (400, "malformed")


async def test_a_small_body_can_not_mean_any_number_of_bytes(tmp_path: Path) -> None:
    body = {"name": "f", "args": [b"x" * 90_000], "count": 1000}
    async with opened(tmp_path) as desk:
        status, refused = await desk.packed("POST", "/submit-task", body)
        assert (status, refused["code"]) == (413, "too_large")
        assert desk.service.specs == {}


async def test_others_are_served_while_a_small_body_that_means_many_tasks_is_read(tmp_path: Path) -> None:
    class Last(DictService):
        """Takes all at once."""

        async def call(self, request: Request, *, local: bool) -> Answer:
            self.taken = len(request.tasks) if isinstance(request, ask.Submit) else 0
            return ask.Submitted(ids=(), copies=1, majority=True, queued=False)

    service = Last()
    async with opened(tmp_path, service) as desk, asyncio.TaskGroup() as group:
        body = {"tasks": [{"name": "f", "count": limits.BATCH_TASKS_MAX // 2}] * 2}
        asked = group.create_task(desk.json("POST", "/submit-task", body))
        turns = 0
        while not asked.done():
            await asyncio.sleep(0.005)
            turns += 1
        assert asked.result()[0] == 200
        assert service.taken == limits.BATCH_TASKS_MAX
        # At once, this takes a turn or two of the loop, and each of them most of a second.
        assert turns > 20


async def test_others_are_served_while_large_bodies_are_read(tmp_path: Path) -> None:
    numbers = json.dumps({"name": "f", "args": [[1] * 2_000_000]})
    async with opened(tmp_path, body_bytes_max=16 << 20) as desk, asyncio.TaskGroup() as group:
        large = [group.create_task(post(desk, numbers)) for _ in range(3)]
        slowest_s, count = 0.0, 0
        while not all(task.done() for task in large):
            began_s = time.monotonic()
            assert (await desk.json("GET", "/health", unix=True))[0] == 200
            slowest_s, count = max(slowest_s, time.monotonic() - began_s), count + 1
            await asyncio.sleep(0.005)
        assert [task.result() for task in large] == [200] * 3
        assert count > 5
        # A lease ends after 1.75 s.
        assert slowest_s < 1.0


async def post(desk: Desk, body: str) -> int:
    data = io.BytesIO(body.encode())
    async with desk.tcp.post("/submit-task", data=data, headers={"Content-Type": "application/json"}) as answer:
        return answer.status


# -- long polls ----------------------------------------------------------------------------------------------------


async def test_long_polls_of_one_caller_are_bounded_and_others_have_their_own(tmp_path: Path) -> None:
    service = Holding()
    service.views[TASK] = reports.TaskView(id=TASK, name="f", state="done", attempt=1)
    async with asyncio.timeout(30), opened(tmp_path, service) as desk, AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(limit=0)
        many = await stack.enter_async_context(
            aiohttp.ClientSession(f"http://127.0.0.1:{desk.server.port}", connector=connector)
        )

        async def poll() -> int:
            async with many.get(f"/task/{TASK}?wait=60") as answer:
                return answer.status

        async with asyncio.TaskGroup() as group:
            polls = [group.create_task(poll()) for _ in range(limits.WAITS_PER_CALLER)]
            await until(lambda: service.waiting == limits.WAITS_PER_CALLER)
            async with many.get(f"/task/{TASK}?wait=60") as refused:
                assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
                body = await refused.json()
                assert (body["code"], body["retryable"]) == ("too_many_waits", True)
            # What does not wait is answered, and who calls over the Unix socket has a share of its own.
            assert (await desk.json("GET", f"/task/{TASK}"))[0] == 200
            other = group.create_task(desk.json("GET", f"/task/{TASK}?wait=60", unix=True))
            await until(lambda: service.waiting == limits.WAITS_PER_CALLER + 1)
            service.go.set()
        assert {task.result() for task in polls} == {200}
        assert other.result()[0] == 200
        async with many.get(f"/task/{TASK}?wait=60") as again:
            assert again.status == 200


async def test_the_tasks_that_are_waited_for_are_bounded_together(tmp_path: Path) -> None:
    service = Holding()
    ids = [f"{number:032x}" for number in range(limits.WAIT_IDS_MAX)]
    body = {"ids": ids, "wait_s": 60.0}
    most = limits.WAITED_IDS_PER_CALLER // limits.WAIT_IDS_MAX
    async with (
        asyncio.timeout(30),
        opened(tmp_path, service, body_bytes_max=16 << 20) as desk,
        asyncio.TaskGroup() as group,
    ):
        waits = [group.create_task(desk.packed("POST", "/wait", body)) for _ in range(most)]
        await until(lambda: service.waiting == most)
        status, refused = await desk.packed("POST", "/wait", body)
        assert (status, refused["code"]) == (429, "too_many_waits")
        service.go.set()
    assert [wait.result()[0] for wait in waits] == [200] * most


def test_a_share_is_each_callers_and_alls() -> None:
    share = Share(10, 6)
    assert share.take("a", 6)
    assert not share.take("a")
    assert share.take("b", 4)
    assert not share.take("c")
    share.give("a", 6)
    assert share.take("c", 6)
    assert (share.of("a"), share.of("b"), share.of("c")) == (0, 4, 6)


def test_a_share_is_counted_for_a_name_where_there_is_one_and_for_a_host_else() -> None:
    node, credential = Subject(Role.NODE, "b" * 32), Subject(Role.SUBMIT, "laptop")
    assert account(node, "10.0.0.1") == account(node, "10.0.0.2") != account(credential, "10.0.0.1")
    assert account(HOLDER, "10.0.0.1") != account(HOLDER, "10.0.0.2")
    assert account(HOLDER, "") == account(None, "")


def test_more_long_polls_than_a_link_carries_are_never_forwarded() -> None:
    assert limits.WAITS_MAX < limits.IN_FLIGHT_MAX
    assert isinstance(ask.WaitQuery(ids=()).wait_s, float)
