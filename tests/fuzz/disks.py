"""The parsers of what stands on a disk: the configuration, the key, the promise, the outbox, and rows that were pulled.

Each run leaves nothing behind but the database in memory that it began with.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import click
import msgspec

from meshq import config
from meshq.cli import items
from meshq.core.events import Promise
from meshq.core.keys import Key
from meshq.core.messages import Rows
from meshq.core.reports import MergeReport
from meshq.core.requests import Outcome, TaskSpec, TasksQuery
from meshq.core.task import COLUMNS, State, Task
from meshq.errors import ConfigError, Unencodable
from meshq.store import credentials, feed, keyfile, queue, reads, rows, stories
from meshq.store.clashes import clashes
from meshq.store.database import Database
from meshq.store.feed import Pen
from meshq.store.inline import InlineDatabase, memory_connection
from meshq.store.outbox import Outbox
from meshq.store.promise import PromiseStore
from meshq.store.schema import OUTBOX, PROMISE
from meshq.wire import codec, values

TASK = "0" * 31 + "1"
WORDS_CHARS_MAX = 2000
STORY = b"\x1esubmit\x1f5\x1f\x1fa client"


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def _done(work: Coroutine[Any, Any, None]) -> None:
    _loop().run_until_complete(work)


@cache
def _folder() -> Path:
    # libFuzzer ends the process without a word to Python: whoever started it removes what is here.
    return Path(tempfile.mkdtemp(prefix="disks-"))


@cache
def _queue() -> sqlite3.Connection:
    """A database that holds one finished task, so that what comes in may contradict it."""
    conn = memory_connection()
    task = Task(id=TASK, name="echo", state=State.DONE, rank=1, majority=1, epoch=1, version=2, payload=b"\x92\x90\x80")
    feed.write_tasks(conn, Pen("a", 1, True), [task])
    return conn


# -- the parsers -----------------------------------------------------------------------------------------


def settings(data: bytes) -> None:
    """A configuration."""
    path = _folder() / "meshq.toml"
    path.write_bytes(data)
    with suppress(ConfigError):  # who wrote it may be told all of it, whatever its length
        assert config.load(path) == config.load(path)


def key_file(data: bytes) -> None:
    """The file with the node's keys; what was read is written again as the same."""
    folder = _folder()
    path = folder / keyfile.KEY_FILE
    path.touch(0o600)
    path.write_bytes(data)
    held = keyfile.read(folder)
    keyfile.write(folder, held)
    assert keyfile.read(folder).keys == held.keys


def promise(data: bytes) -> None:
    """The database with the node's promise, of which any byte may be another."""
    path = _folder() / "promise.db"
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    path.write_bytes(data)
    _done(_promise(path))


async def _promise(path: Path) -> None:
    store = PromiseStore(await Database.open(path, schema=PROMISE, readers=0))
    try:
        found = await store.load()
        await store.save(found)
        assert await store.load() == found
    finally:
        await store.close()


def outbox(data: bytes) -> None:
    """An entry of the outbox: it is given out, or set aside."""
    _done(_outbox(data))


async def _outbox(data: bytes) -> None:
    conn = memory_connection(OUTBOX)
    with closing(conn):
        kinds = ("result", "kept", "submit")
        for entry, kind in enumerate(kinds, 1):
            conn.execute("INSERT INTO entries VALUES (?, ?, 1, 'boot', ?, ?, '')", (entry, kind, TASK, data))
        box = Outbox(InlineDatabase(conn), lambda: 1)
        await box.find(TASK, owner="bob")
        await box.submit_views([TASK])
        read = len(await box.results(10)) + len(await box.submits(10))
        assert read + await box.garbage() == len(kinds)
        assert await box.set_aside_garbage() == 0


def pulled(data: bytes) -> None:
    """The parts of a pull: they are merged, and all that they brought is shown as it is to people."""
    conn = _queue()
    try:
        messages = msgspec.msgpack.decode(data, type=list[Rows])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return
    conn.execute("BEGIN")
    try:
        for message in messages[:4]:
            codec.check(message)
            feed.apply(conn, message, None)
        _show(conn)
        pen = Pen("b", feed.top_epoch(conn) + 1, True)
        feed.restamp(conn, pen, first=True)
        _show(conn)
        _hand_out(conn, pen)
    finally:
        conn.execute("ROLLBACK")


def _show(conn: sqlite3.Connection) -> None:
    listed = reads.page(conn, TasksQuery()).tasks
    reads.views(conn, [view.id for view in listed], with_result=True)
    for view in listed:
        task = reads.get(conn, view.id)
        assert task is not None
        stories.read(task.story)
        clashes(conn, view.id)
        reads.payload_of(conn, task)
    reads.reports(conn)
    credentials.every(conn)
    credentials.find(conn, "bob")
    # Whatever was taken from one node, another one takes from this.
    for frame in feed.rows_beyond(conn, {}, 1 << 20):
        rows.unpack_frame(frame)


def _hand_out(conn: sqlite3.Connection, pen: Pen) -> None:
    """Whatever stands in the rows, work is handed out by them, and what failed is looked for."""
    names = [name for (name,) in conn.execute("SELECT DISTINCT name FROM tasks").fetchall()]
    shown = feed.read_vector(conn)
    given = queue.claim(conn, pen, "w", names, queue.Budget(100), shown=shown, now_ms=1 << 40, limit=100)
    assert all(each.task.state == State.RUNNING for each in given)
    queue.retry_specs(conn, None, "", lambda: "f" * 32, "", 1 << 20)


def over(data: bytes) -> None:
    """The lines of a file, each the argument of a task; a bad one is named in a few words."""
    path = _folder() / "over.txt"
    path.write_bytes(data)
    try:
        found = items.read(str(path))
    except click.UsageError as error:
        assert len(error.message) < WORDS_CHARS_MAX
        return
    assert len(found) == len(found.lines)
    for item in found:
        try:
            values.pack_arguments([item], {})
        except Unencodable:
            continue


PARSERS: dict[str, Callable[[bytes], None]] = {
    "over": over,
    "config": settings, "keyfile": key_file, "promise": promise, "outbox": outbox, "pulled": pulled,
}  # fmt: skip


# -- good inputs -----------------------------------------------------------------------------------------


def seeds(name: str) -> Iterator[bytes]:
    """Inputs of which a run begins: good ones."""
    match name:
        case "config":
            yield b'cluster = "home"\nport = 7373\nseeds = ["a:1"]\nlease_s = 2.5\nmdns = true\nreplica = "never"\n'
            yield b'name = "\\u00f8"\nallow = ["x.*"]\nchild_env = ["LANG"]\nslots = -1 # all\n'
        case "over":
            yield b'1\n-2.5\nplain words\n"a text"\n[1, {"a": null}]\n\n{"$bytes": "AAE="}\r\nlast'
        case "keyfile":
            first, second = Key(bytes(20)), Key(bytes(range(20)))
            yield f"{first.text}\n".encode()
            yield f"{first.text}\n{second.text}\ndropped {first.name}\n".encode()
        case "promise":
            yield _promise_file()
        case "outbox":
            yield rows.pack(Outcome(task=TASK, epoch=1, attempt=1, kind="done", result=b"\xc0", run_s=0.5))
            yield rows.pack(TaskSpec(id=TASK, name="echo", payload=b"\x92\x90\x80", key="k", owner="bob", keep_s=0.0))
            yield rows.pack(Outcome(task=TASK, epoch=1, attempt=1, kind="kept", checkpoint=b"half"))
        case _:
            yield from _pulls()


def _promise_file() -> bytes:
    path = _folder() / "good.db"

    async def make() -> None:
        store = PromiseStore(await Database.open(path, schema=PROMISE, readers=0))
        await store.save(Promise(3, "a", 2.5))
        await store.close()

    _done(make())
    return path.read_bytes()


def _pulls() -> Iterator[bytes]:
    task = Task(id=TASK, name="echo", writer="b", seq=1, epoch=1, payload=b"\x90", submitted_ms=1, story=STORY)
    done = replace(task, state=State.DONE, rank=1, version=3, seq=2, result=b"\xc0", worker="b", epoch=2)
    waits = replace(task, id="3" * 32, seq=8, priority=2, max_running=1, keep_s=0.5, order_ms=-5, not_before_ms=7)
    members, large = rows.pack_members(("a", "b")), rows.pack("x" * 100)
    report = rows.pack(MergeReport(at_ms=2, node="b", merged=3, twice=2, differed=1, held=0))
    packed = [
        *(rows.pack(("task", *attrgetter(*COLUMNS)(each))) for each in (task, replace(done, id="2" * 32), done, waits)),
        *(rows.pack(("payload", ref, 1, 1, "b", number, body)) for number, (ref, body) in enumerate((
            (f"{TASK}/args", large), (f"{waits.id}/checkpoint", b"half"), ("merge/x", report),
            ("credential/bob", rows.pack({"at_ms": 1})),
            ("credential/bob/revoked", rows.pack({"at_ms": 1})), (f"{TASK}/clash/1", rows.pack(
                ("done", "b", 1, b"\xc0", None, None, 1, 2))),
        ), 10)),
        rows.pack(("roster", "g", members, 0, 1, 1, "b", 20, members, "")),
    ]  # fmt: skip
    last = Rows(rows=rows.pack_frame(packed), last=True, vector={"b": 20}, committed={"b": 5}, dropped={"c": 1})
    first = Rows(rows=rows.pack_frame([]), last=False, vector={"b": 20}, committed={}, full=True)
    yield rows.pack([last])
    yield rows.pack([first, replace(last, full=True)])
    for part in packed:
        yield rows.pack([replace(last, rows=rows.pack_frame([part]))])
