"""A task's story, as its row holds it: read for people, completed when it is written, and kept short."""

from __future__ import annotations

from meshq.core.reports import Change
from meshq.core.task import ENTRY, FIELD, STORY_BYTES_MAX, WRITTEN

LEFT_OUT = "..."  # the move of the entry that stands for those left out
_ENTRY, _FIELD, _WRITTEN = ENTRY.encode(), FIELD.encode(), WRITTEN.encode()
_KEPT_BYTES = STORY_BYTES_MAX * 3 // 4  # so that not every further move has to cut


def stamp(epoch: int, node: str) -> bytes:
    """What completes the entries of the moves that are written now."""
    return f"{FIELD}{epoch}{FIELD}{node}{WRITTEN}".encode()


def completed(story: bytes, stamp: bytes) -> bytes:
    """The story as it is written: its newest entries get the stamp, and it is cut where it got too long."""
    if not story or story.endswith(_WRITTEN):
        return story
    story += stamp
    return story if len(story) <= STORY_BYTES_MAX else _cut(story)


def _cut(story: bytes) -> bytes:
    """The first entry, one that counts those left out, and the newest ones."""
    # Entries that share a stamp, as those of two moves written at once, stay together.
    first, *rest = story.split(_WRITTEN)[:-1]
    left_out = 0
    if rest and rest[0].startswith(_ENTRY + LEFT_OUT.encode() + _FIELD):
        left_out = int(read(rest.pop(0) + _WRITTEN)[0].cause.split()[0])
    size, kept = len(first), len(rest)
    while kept and size + len(rest[kept - 1]) <= _KEPT_BYTES:
        kept -= 1
        size += len(rest[kept]) + 1
    left_out += sum(group.count(_ENTRY) for group in rest[:kept])
    gap = f"{ENTRY}{LEFT_OUT}{FIELD}0{FIELD}{FIELD}{left_out} changes left out{FIELD}0{FIELD}".encode()
    return b"".join(group + _WRITTEN for group in (first, gap, *rest[kept:]))


def read(story: bytes) -> tuple[Change, ...]:
    """The changes of a task, oldest first; what can't be read is left out.

    Where entries were left out, a change stands for them whose move is LEFT_OUT.
    """
    changes: list[Change] = []
    for group in story.split(_WRITTEN):
        entries = [entry.decode("utf-8", "replace").split(FIELD) for entry in group.split(_ENTRY) if entry]
        if not entries or len(entries[-1]) != 6 or not _is_whole(entries[-1][4]):
            continue
        epoch, node = entries[-1][4:]
        changes += [
            Change(
                at_ms=int(fields[1]), move=fields[0], epoch=int(epoch), node=node, worker=fields[2] or None,
                cause=fields[3],
            )
            for fields in entries
            if len(fields) >= 4 and _is_whole(fields[1])
        ]  # fmt: skip
    return tuple(changes)


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19
