"""What `meshq map` goes over: a range of numbers, or the lines of a file."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from meshq.errors import Malformed
from meshq.wire import values

STDIN = "-"
_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})", re.ASCII)
# How a line begins that is meant to be JSON.
_JSON = ("{", "[", '"')


@dataclass(frozen=True, slots=True)
class Items:
    """The items.

    Args:
        source: Where they are from, for people.
        of: The items themselves.
        lines: The number of the line of each; none for a range.
    """

    source: str
    of: Sequence[Any]
    lines: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.of)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.of)

    def where(self, line: int) -> str:
        """How a line of it is called."""
        return f"{self.source}, line {line}"


def read(text: str) -> Items:
    """The items that are meant: `1..1000`, a file, or `-` for stdin. All of a file is read before this returns.

    Raises:
        click.UsageError: There is no such file, a line of it is bad, or there is nothing in it.
    """
    found = _RANGE.fullmatch(text)
    if found is not None and not Path(text).exists():
        first, last = int(found[1]), int(found[2])
        if last < first:
            raise click.UsageError(f"--over {text}: a range goes up, so its end must be at least {first}")
        return Items(text, range(first, last + 1))
    source = "stdin" if text == STDIN else text
    numbers, items = [], []
    for number, line in enumerate(_content(text).split(b"\n"), 1):
        if line.strip():
            numbers.append(number)
            items.append(_item(line, f"{source}, line {number}"))
    if not items:
        raise click.UsageError(f"--over {text}: there are no items in it")
    return Items(source, items, numbers)


def _content(text: str) -> bytes:
    if text == STDIN:
        return sys.stdin.buffer.read() if sys.stdin is not None else b""
    try:
        return Path(text).expanduser().read_bytes()
    except OSError as error:
        hint = "; a range is written 1..1000" if not Path(text).exists() else ""
        raise click.UsageError(f"--over {text}: can't be read: {error.strerror or error}{hint}") from error


def _item(line: bytes, where: str) -> Any:
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{where}: is no UTF-8; nothing was queued") from error
    try:
        return values.from_json(values.loads(text))
    except Malformed as error:
        if text.startswith(_JSON):
            raise click.UsageError(f"{where}: {_why(error)}; nothing was queued") from error
        return text


def _why(error: Malformed) -> str:
    """Without the place, which is one in the line and not in the file."""
    return error.message.partition(": line 1 ")[0]
