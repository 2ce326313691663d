"""Rows between the database and the wire: how they are packed, and checked when they come in.

A packed row is a list of its kind and its columns, in the order of the table. Columns may be added at the end, with a
default for rows of a node that does not know them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from meshq.core import limits
from meshq.core.membership import Roster
from meshq.core.messages import Rows
from meshq.core.task import RANK, STORY_BYTES_MAX, Backoff, State, plain_order_ms
from meshq.errors import CorruptDatabase, Malformed
from meshq.store.files import QUEUE_FILE

_Id = Annotated[str, Meta(min_length=1, max_length=64)]
_Whole = Annotated[int, Meta(ge=-(1 << 62), le=1 << 62)]
_Count = Annotated[int, Meta(ge=0, le=1 << 62)]
_Seq = Annotated[int, Meta(ge=1, le=1 << 62)]
_Epoch = Annotated[int, Meta(ge=0, lt=limits.EPOCH_MAX)]
_Ref = Annotated[str, Meta(min_length=1, max_length=256)]
_Seconds = Annotated[float, Meta(ge=0)]


class TaskRow(msgspec.Struct, array_like=True, tag="task", frozen=True):
    """A row of `tasks`, in the order of core.task.COLUMNS."""

    id: _Id
    rank: Annotated[int, Meta(ge=0, le=2)]
    majority: Annotated[int, Meta(ge=0, le=1)]
    epoch: _Epoch
    version: _Count
    writer: _Id
    seq: _Seq
    state: Literal["pending", "running", "done", "failed", "cancelled", "purged"]
    name: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]
    payload: bytes | None
    payload_ref: _Ref | None
    priority: _Whole
    not_before_ms: _Whole
    timeout_s: float | None
    retries: _Count
    backoff_s: _Seconds
    key: Annotated[str, Meta(max_length=limits.KEY_CHARS_MAX)] | None
    retry_of: _Id | None
    batch: Annotated[str, Meta(max_length=200)] | None
    attempt: _Count
    failures: _Count
    crashes: _Count
    losses: _Count
    worker: _Id | None
    result: bytes | None
    result_ref: _Ref | None
    error: bytes | None
    submitted_ms: _Whole
    started_ms: _Whole | None
    finished_ms: _Whole | None
    story: Annotated[bytes, Meta(max_length=4 * STORY_BYTES_MAX)] = b""
    owner: Annotated[str, Meta(max_length=limits.CREDENTIAL_NAME_CHARS_MAX)] = ""
    backoff: Annotated[str, Meta(max_length=limits.WORD_CHARS_MAX)] = Backoff.EXPONENTIAL.value
    max_running: _Count = 0
    keep_s: _Seconds | None = None
    order_ms: _Whole | None = None


class PayloadRow(msgspec.Struct, array_like=True, tag="payload", frozen=True):
    """A row of `payloads`."""

    ref: _Ref
    epoch: _Epoch
    version: _Count
    writer: _Id
    seq: _Seq
    body: bytes


class RosterRow(msgspec.Struct, array_like=True, tag="roster", frozen=True):
    """The row of `roster`."""

    genesis: Annotated[str, Meta(max_length=64)]
    members: bytes
    recovery: _Count
    epoch: _Epoch
    version: _Count
    writer: _Id
    seq: _Seq
    absorbed: bytes = b"\x90"
    into_genesis: Annotated[str, Meta(max_length=64)] = ""


@dataclass(slots=True)
class Unpacked:
    """The rows of one frame by table, as tuples of columns."""

    tasks: list[tuple[Any, ...]] = field(default_factory=list)
    payloads: list[tuple[Any, ...]] = field(default_factory=list)
    roster: list[tuple[Any, ...]] = field(default_factory=list)
    epoch: int = 0


# But for the lists, which are unpacked, and judged by that.
_ROSTER_KINDS: dict[str, type] = {
    "genesis": str, "recovery": int, "epoch": int, "version": int, "writer": str, "seq": int, "into_genesis": str,
}  # fmt: skip
_NAMES = {kind.__struct_config__.tag: kind.__struct_fields__ for kind in (TaskRow, PayloadRow, RosterRow)}
_members_decoder = msgspec.msgpack.Decoder(tuple[_Id, ...])
_rows_decoder = msgspec.msgpack.Decoder(list[TaskRow | PayloadRow | RosterRow])
pack = msgspec.msgpack.Encoder().encode
# What msgspec raises over bytes that it can't read: of bad UTF-8 in names Python's own error, too.
REASON_CHARS_MAX = 400
UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)


def pack_members(members: tuple[str, ...]) -> bytes:
    """The roster's members, or the clusters that it absorbed, as they are stored."""
    return pack(members)


def unpack_members(packed: bytes) -> tuple[str, ...]:
    """The opposite of `pack_members`."""
    return _members_decoder.decode(packed)


def check_epoch(epoch: int, what: str) -> None:
    """Raises CorruptDatabase for an epoch in a database that no node ever wrote, nor would take from another."""
    if not 0 <= epoch < limits.EPOCH_MAX:
        raise CorruptDatabase(f"{what} is of epoch {epoch}, not from 0 to {limits.EPOCH_MAX - 1}")


def check_kinds(columns: Mapping[str, Any], kinds: Mapping[str, type], what: str) -> None:
    """Raises CorruptDatabase for a column of a damaged row: SQLite itself takes a value of any kind in any column."""
    for name, kind in kinds.items():
        if type(columns[name]) is not kind:
            raise CorruptDatabase(f"{what} has a {name} that is no {kind.__name__}: {columns[name]!r:.80}")


def roster_of(columns: Mapping[str, Any]) -> Roster:
    """The roster that stands in a database, by its columns; raises CorruptDatabase where that can't be."""
    where = f"{QUEUE_FILE}: is damaged: the roster"
    check_kinds(columns, _ROSTER_KINDS, where)
    check_epoch(columns["epoch"], where)
    try:
        lists = {name: unpack_members(columns[name]) for name in ("members", "absorbed")}
    except UNREADABLE as error:
        raise CorruptDatabase(f"{where} can't be read: {error}") from error
    rest = {name: value for name, value in columns.items() if name != "into_genesis"}
    return Roster(**rest | lists, into=columns["into_genesis"])


def pack_frame(packed_rows: list[bytes]) -> bytes:
    """A list of rows out of rows that are packed already: what goes before them is the list's length."""
    return b"\xdd" + len(packed_rows).to_bytes(4, "big") + b"".join(packed_rows)


def unpack_frame(rows: Rows) -> Unpacked:
    """The rows of a frame, checked.

    Raises:
        Malformed: Something is missing, of the wrong type, out of range or contradicts itself.
    """
    unpacked = Unpacked()
    try:
        for row in _rows_decoder.decode(rows.rows):
            unpacked.epoch = max(unpacked.epoch, row.epoch)
            if isinstance(row, TaskRow):
                if RANK[State(row.state)] != row.rank:
                    raise Malformed(f"task {row.id!r} is {row.state} and of rank {row.rank}")
                unpacked.tasks.append(msgspec.structs.astuple(_ordered(row)))
            elif isinstance(row, PayloadRow):
                unpacked.payloads.append(msgspec.structs.astuple(row))
            else:
                unpack_members(row.members)
                unpack_members(row.absorbed)
                unpacked.roster.append(msgspec.structs.astuple(row))
    except UNREADABLE as error:
        # It repeats what was sent, which may be long.
        raise Malformed(_explained(error, rows.rows)[:REASON_CHARS_MAX]) from error
    for vector in (rows.vector, rows.committed, rows.dropped):
        _check_vector(vector.items())
    return unpacked


def _ordered(row: TaskRow) -> TaskRow:
    """The row with its place in the queue, which one of version 1 does not tell."""
    if row.order_ms is not None:
        return row
    return msgspec.structs.replace(row, order_ms=plain_order_ms(row.submitted_ms, row.priority))


def _explained(error: Exception, frame: bytes) -> str:
    """msgspec's error, with row and column by name where it tells their places."""
    text, _, path = str(error).partition(" - at `$")
    place = re.match(r"\[(\d+)\]\[([1-9]\d*)\]", path)
    try:
        row = msgspec.msgpack.decode(frame)[int(place[1])] if place else None
    except UNREADABLE:
        row = None  # what comes after it is no better
    if place is None or row is None:
        return f"rows: {error}"
    column = _NAMES[row[0]][int(place[2]) - 1]
    return f"{row[0]} {row[1]!r:.80}: {column}: {text[:1].lower()}{text[1:]}"


def _check_vector(entries: Iterable[tuple[object, object]]) -> None:
    for writer, seq in entries:
        if not (isinstance(writer, str) and 0 < len(writer) <= 64 and isinstance(seq, int) and 0 <= seq <= 1 << 62):
            raise Malformed(f"{writer!r:.80}: {seq!r:.40} is no entry of a vector")


def as_json(values: Iterable[str] | Mapping[str, int]) -> str:
    """Values as one parameter of a statement, to be read there by `json_each`."""
    return msgspec.json.encode(values if isinstance(values, Mapping) else list(values)).decode()
