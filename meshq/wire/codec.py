"""Messages and bytes, with a check of everything that comes in.

A message between nodes is the msgpack array `[class name, {field: value}]`; a request of a client or worker that is
forwarded, and its answer, is the map alone. A field that this version doesn't know is ignored, so that nodes of two
versions understand each other; one that is missing, of the wrong type or out of its range is refused by name.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Final, TypeVar

import msgspec

from meshq.core import limits
from meshq.core.messages import PEER_MESSAGES
from meshq.core.requests import ANSWER_TO
from meshq.errors import Malformed

T = TypeVar("T")

MESSAGES: Final[Mapping[str, type]] = {cls.__name__: cls for cls in PEER_MESSAGES}
REQUESTS: Final[Mapping[str, type]] = {cls.__name__: cls for cls in ANSWER_TO}
ANSWERS: Final[Mapping[str, type]] = {cls.__name__: cls for cls in ANSWER_TO.values()}

# What msgspec raises over what it can't read: of bad UTF-8 and lone surrogates in names Python's own error, too.
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
# SQLite's integers; msgpack's go further.
_INT_MAX: Final = (1 << 63) - 1
_SHOWN_BITS_MAX: Final = 200
_REASON_CHARS_MAX: Final = 400
# From and to, both included, by the name of a field, in whatever message it stands. Others: an integer is 0 or
# more, a float 0 or more and finite.
RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "epoch": (0, limits.EPOCH_MAX - 1),
    "handover_epoch": (0, limits.EPOCH_MAX - 1),
    "priority": (-limits.PRIORITY_MAX, limits.PRIORITY_MAX),
    "retries": (0, limits.RETRIES_MAX),
    "max_running": (0, limits.RUNNING_MAX),
    "backoff_s": (0, limits.TIMEOUT_S_MAX),
    "timeout_s": (0.001, limits.TIMEOUT_S_MAX),
    "wait_s": (0, limits.WAIT_S_MAX),
    "limit": (1, limits.PAGE_TASKS_MAX),
    "delay_s": (0, limits.TIMEOUT_S_MAX),
    "keep_s": (0, limits.KEEP_S_MAX),
    "count": (1, limits.BATCH_TASKS_MAX),
    "attempt": (0, limits.ATTEMPT_MAX),
    "not_before_ms": (0, limits.TIME_MS_MAX),
}
# The longest text, tuple or map, by message and field; `_LONGEST` has those of all others.
LENGTHS_MAX: Final[Mapping[tuple[str, str], int]] = {
    ("Get", "node"): limits.ID_CHARS_MAX,
    ("Get", "boot"): limits.ID_CHARS_MAX,
    ("Heartbeat", "node"): limits.ID_CHARS_MAX,
    ("Heartbeat", "boot"): limits.ID_CHARS_MAX,
    ("SubmitResult", "node"): limits.ID_CHARS_MAX,
    ("SubmitResult", "boot"): limits.ID_CHARS_MAX,
    ("TaskSpec", "id"): limits.ID_CHARS_MAX,
    ("TaskSpec", "retry_of"): limits.ID_CHARS_MAX,
    ("Hello", "addresses"): limits.HINTS_MAX,
    ("Hello", "peers"): limits.HINTS_MAX,
    ("Hello", "hears"): limits.ROSTER_MAX,
    ("Hello", "dissolved"): limits.ROSTER_MAX,
    ("Roster", "members"): limits.ROSTER_MAX,
    ("Roster", "absorbed"): limits.ROSTER_MAX,
    ("VoteAnswer", "vector"): limits.WRITERS_MAX,
    ("Pull", "vector"): limits.WRITERS_MAX,
    ("Rows", "vector"): limits.WRITERS_MAX,
    ("Rows", "committed"): limits.WRITERS_MAX,
    ("Rows", "dropped"): limits.WRITERS_MAX,
    ("PeerHint", "addresses"): limits.HINTS_MAX,
    ("TaskSpec", "name"): limits.NAME_CHARS_MAX,
    ("TaskSpec", "key"): limits.KEY_CHARS_MAX,
    ("TaskSpec", "batch"): limits.KEY_CHARS_MAX,
    ("TaskSpec", "backoff"): limits.WORD_CHARS_MAX,
    ("TasksQuery", "batch"): limits.KEY_CHARS_MAX,
    ("CancelBatch", "batch"): limits.KEY_CHARS_MAX,
    ("RetryFailed", "batch"): limits.KEY_CHARS_MAX,
    ("Changed", "ids"): limits.BATCH_TASKS_MAX,
    ("Submit", "tasks"): limits.BATCH_TASKS_MAX,
    ("Submitted", "ids"): limits.BATCH_TASKS_MAX,
    ("Get", "holds"): limits.CLAIMS_MAX,
    ("Get", "names"): limits.TASK_NAMES_MAX,
    ("Heartbeat", "tasks"): limits.TASK_NAMES_MAX,
    ("Hello", "name"): limits.NAME_CHARS_MAX,
    ("Heartbeat", "name"): limits.NAME_CHARS_MAX,
    ("Refused", "code"): limits.WORD_CHARS_MAX,
    ("VoteAnswer", "reason"): limits.WORD_CHARS_MAX,
    ("RenewAnswer", "reason"): limits.WORD_CHARS_MAX,
    ("TaskInfo", "params"): limits.PARAMS_MAX,
    ("Param", "choices"): limits.PARAMS_MAX,
    ("Param", "default"): limits.NAME_CHARS_MAX,
    ("TaskSpec", "unset"): limits.PARAMS_MAX,
    ("RunProgress", "note"): limits.NOTE_CHARS_MAX,
    ("Heartbeat", "progress"): limits.CLAIMS_MAX,
    ("Job", "checkpoint"): limits.CHECKPOINT_BYTES_MAX,
    ("LogHere", "id"): limits.ID_CHARS_MAX,
    ("Log", "text"): limits.LOG_BYTES_MAX,
    ("Names", "names"): limits.TASK_NAMES_MAX,
    ("Drain", "node"): limits.NAME_CHARS_MAX,
    ("Got", "jobs"): limits.JOBS_PER_GET_MAX,
    ("Heartbeat", "running"): limits.CLAIMS_MAX,
    ("Outcome", "error"): limits.ERROR_BYTES_MAX,
    ("Outcome", "checkpoint"): limits.CHECKPOINT_BYTES_MAX,
    ("SubmitResult", "outcomes"): limits.OUTCOMES_MAX,
    ("WaitQuery", "ids"): limits.WAIT_IDS_MAX,
    ("Forget", "node"): limits.NAME_CHARS_MAX,
    **{
        (name, "owner"): limits.CREDENTIAL_NAME_CHARS_MAX
        for name in (
            "Call",
            "TaskSpec",
            "TaskQuery",
            "WaitQuery",
            "TasksQuery",
            "Cancel",
            "CancelBatch",
            "Retry",
            "RetryFailed",
            "TaskStoryQuery",
            "LogQuery",
        )
    },
    **{
        (name, "name"): limits.CREDENTIAL_NAME_CHARS_MAX
        for name in ("CredentialAdd", "CredentialRevoke", "CredentialsQuery")
    },
}


# Texts that must not be empty.
FILLED: Final = frozenset({
    ("Get", "node"), ("Get", "boot"), ("Heartbeat", "node"), ("Heartbeat", "boot"), ("SubmitResult", "node"),
    ("SubmitResult", "boot"), ("TaskSpec", "id"), ("TaskSpec", "retry_of"),
})  # fmt: skip


def encode(message: Any) -> bytes:
    """A message between nodes as bytes."""
    return msgspec.msgpack.encode((type(message).__name__, message))


def decode(data: bytes, allowed: Mapping[str, type] = MESSAGES) -> Any:
    """The message that the bytes hold.

    Args:
        data: What `encode` made, of this version or another.
        allowed: The classes that may come, by name.

    Raises:
        Malformed: No message, one that this version doesn't know, or one whose fields are wrong; it names them.
    """
    try:
        name, fields = _envelope().decode(data)
    except UNREADABLE as error:
        raise Malformed(f"this is no message: {error}") from error
    return decode_body(name, bytes(fields), allowed)


def encode_body(body: Any) -> bytes:
    """A request or an answer as the map of its fields."""
    return msgspec.msgpack.encode(body)


def decode_body(name: str, data: bytes, allowed: Mapping[str, type]) -> Any:
    """The request or answer of this class.

    Args:
        name: Its class's name.
        data: What `encode_body` made.
        allowed: The classes that may come, by name: `REQUESTS` or `ANSWERS`.

    Raises:
        Malformed: As for `decode`.
    """
    cls = allowed.get(name)
    if cls is None:
        raise Malformed(f"{name[:50]!r} is no message that this version of meshq knows")
    try:
        message = _decoder(cls).decode(data)
    except UNREADABLE as error:
        raise Malformed(f"{name}: {explained(error)}") from error
    check(message)
    return message


def convert(fields: Any, cls: type[T]) -> T:
    """A message out of a map of plain objects, checked like one that came in.

    Raises:
        Malformed: A field is missing or wrong; it names it.
    """
    try:
        message = msgspec.convert(fields, cls)
    except UNREADABLE as error:
        raise Malformed(explained(error)) from error
    check(message)
    return message


def check(message: Any, where: str | None = None) -> None:
    """Whether all that a type can't say holds: ranges of numbers, lengths of texts and tuples.

    Args:
        message: Any message, request or answer.
        where: What stands before a field's name in the error; the class's name by default.

    Raises:
        Malformed: It names the first field that is wrong, and what is allowed.
    """
    for path, reason in _faults(message, ""):
        raise Malformed(f"{f'{type(message).__name__}: ' if where is None else where}{path}: {reason}")


def explained(error: Exception) -> str:
    """msgspec's error as `field: what is wrong`."""
    text, _, path = str(error).partition(" - at `$")
    field = re.sub(r"^\.", "", path.rstrip("`"))
    text = text[:1].lower() + text[1:]
    # It repeats what was sent: the name of a field that is not known may be as long as a body.
    return (f"{field}: {text}" if field else text)[:_REASON_CHARS_MAX]


def out_of_range(name: str, value: float) -> str | None:
    """What is wrong with a number of this name; None where nothing is."""
    default = (0, _INT_MAX) if isinstance(value, int) else (0, math.inf)
    low, high = RANGES.get(name, default)
    if low <= value <= high and value != math.inf:
        return None
    if isinstance(value, int):
        return f"must be from {low} to {high}, not {_shown(value)}"
    span = f"from {low:g} to {high:.15g}" if high < math.inf else f"finite and at least {low:g}"
    return f"must be {span}, not {value:.20g}"


def _shown(value: int) -> str:
    """An integer for people; Python refuses to write the digits of very long ones, and nobody would read them."""
    bits = value.bit_length()
    return str(value) if bits <= _SHOWN_BITS_MAX else f"an integer of {bits} bits"


def _faults(message: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """The fields that are wrong, each with the reason."""
    cls: Any = type(message)
    for name, longest in _fields(cls):
        value = getattr(message, name)
        kind = type(value)
        if kind is int or kind is float:
            reason = out_of_range(name, value)
            if reason is not None:
                yield prefix + name, reason
        elif kind in _SIZED:
            if len(value) > longest.get(kind, limits.FRAME_BYTES_MAX):
                yield prefix + name, f"has {len(value)} {_SIZED[kind]}; at most {longest[kind]} are allowed"
            elif not value and (cls.__name__, name) in FILLED:
                yield prefix + name, "must not be empty"
            elif kind is dict:
                yield from _map_faults(value, prefix + name)
            elif kind is tuple and value and dataclasses.is_dataclass(value[0]):
                for index, part in enumerate(value):
                    yield from _faults(part, f"{prefix}{name}[{index}].")
            elif kind is tuple:
                yield from _word_faults(value, prefix + name)
        elif dataclasses.is_dataclass(value):
            yield from _faults(value, f"{prefix}{name}.")


_SIZED: Final[Mapping[type, str]] = {str: "characters", bytes: "bytes", tuple: "entries", dict: "entries"}


def _map_faults(values: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    yield from _word_faults(values, path)
    for key, value in values.items():
        if type(value) is int and not 0 <= value <= _INT_MAX:
            yield f"{path}[{key[:40]!r}]", f"must be from 0 to {_INT_MAX}, not {_shown(value)}"
        elif type(value) is str:
            yield from _word_faults((value,), f"{path}[{key[:40]!r}]")
        elif dataclasses.is_dataclass(value):
            yield from _faults(value, f"{path}[{key[:40]!r}].")


def _word_faults(words: Iterable[Any], path: str) -> Iterator[tuple[str, str]]:
    """The words of a list, or the keys of a map, that are too long."""
    for word in words:
        if type(word) is str and len(word) > limits.ITEM_CHARS_MAX:
            yield path, f"{word[:40]!r}… has {len(word)} characters; at most {limits.ITEM_CHARS_MAX} are allowed"


# Of these types there is nothing to check beyond the type, unless the field has a cap.
_FREE: Final = frozenset({"bytes", "bytes | None", "bool"})
_LONGEST: Final[Mapping[type, int]] = {
    str: limits.TEXT_CHARS_MAX, tuple: limits.ENTRIES_MAX, dict: limits.ENTRIES_MAX,
}  # fmt: skip


@cache
def _fields(cls: Any) -> tuple[tuple[str, Mapping[type, int]], ...]:
    """The fields that need a look, each with the longest value of each type."""
    return tuple(
        (field.name, dict.fromkeys(_SIZED, own) if (own := LENGTHS_MAX.get((cls.__name__, field.name))) else _LONGEST)
        for field in dataclasses.fields(cls)
        if field.type not in _FREE or (cls.__name__, field.name) in LENGTHS_MAX
    )


@cache
def _decoder(cls: type) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(cls)


@cache
def _envelope() -> msgspec.msgpack.Decoder[tuple[str, msgspec.Raw]]:
    return msgspec.msgpack.Decoder(tuple[str, msgspec.Raw])
