"""What a pool and its children say to each other: msgpack arrays, each after its length in four bytes.

| from | message | meaning |
|---|---|---|
| pool | `load`, modules, result_bytes_max, allow, memory_bytes_max | the first one: import these |
| child | `ready`, task infos | they are imported |
| child | `broken`, text | they are not, and why |
| pool | `run`, [[name, payload, id, attempt, timeout_s, checkpoint], …] | run these in order |
| pool | `urge` | hand in what is finished, give back what is not begun |
| pool | `stop` | the same, and tell what runs that it is to end |
| child | `progress`, index, done, total, note | how far this job of the frame is |
| child | `checkpoint`, index, bytes | what the next run of this job's task shall have |
| child | `outcomes`, [[index, code, bytes, run_s], …] | how jobs of the frame ended |
| child | `recalled`, index | the jobs from this one on will not be begun |

Beside them a child keeps its marks in shared memory: what it runs when it dies can't be told in a message.
"""

from __future__ import annotations

import struct
from typing import Any

import msgpack

from meshq.core.limits import FRAME_BYTES_MAX
from meshq.errors import Malformed

LOAD, READY, BROKEN, RUN, URGE, STOP, PROGRESS, CHECKPOINT, OUTCOMES, RECALLED = (
    "load", "ready", "broken", "run", "urge", "stop", "progress", "checkpoint", "outcomes", "recalled",
)  # fmt: skip

DONE, FAILED, FAILED_FINALLY, STOPPED = range(4)

# How a child ends that ran out of the memory that it may take: what it had is in pieces, and the next task needs it.
SPENT = 86

# The marks: jobs of the frame that were begun, those that ended, and the number of the frame they belong to.
BEGUN, ENDED, FRAME = range(3)
MARKS_BYTES = 24

LENGTH = struct.Struct(">I")


def encode(*message: Any) -> bytes:
    """One message with its length."""
    body: bytes = msgpack.packb(message)
    return LENGTH.pack(len(body)) + body


def decode(body: bytes) -> list[Any]:
    """A message without its length.

    Raises:
        Malformed: It is none.
    """
    try:
        message = msgpack.unpackb(body)
    except (ValueError, TypeError) as error:
        raise Malformed(f"a frame that is no msgpack: {error}") from error
    if not isinstance(message, list) or not message:
        raise Malformed("a frame that is no message")
    return message


class Splitter:
    """Cuts a stream into messages."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[list[Any]]:
        """The messages that are whole with these bytes.

        Raises:
            Malformed: Something that is no message, or is longer than any may be.
        """
        rest = self._rest
        rest += data
        messages, start = [], 0
        while len(rest) - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(rest, start)
            if length > FRAME_BYTES_MAX:
                raise Malformed(f"a frame of {length} bytes")
            end = start + LENGTH.size + length
            if len(rest) < end:
                break
            messages.append(decode(bytes(rest[start + LENGTH.size : end])))
            start = end
        del rest[:start]
        return messages
