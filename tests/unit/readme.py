"""What the tests of the README share: its blocks, and how what a command prints is compared with what stands there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
_ID = re.compile(r"\b(?:[0-9a-f]{32}|[0-9a-f]{8})\b")
_LONG_ID = re.compile(r"\b[0-9a-f]{32}\b")
# One node here may stand for several there.
_OF_NODES = re.compile(r'"(?:node|worker|leader|boot)": "[0-9a-f]{32}"')
# What is another each time.
_CHANGES = (
    (re.compile(r'"(pid|uptime_s|clock_s)": [\d.]+'), r'"\1": N'),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]"), ""),
    (re.compile(r"\d\d:\d\d:\d\d(?:,\d{3})?"), "TIME"),
    (re.compile(r"\b\d{13}\b"), "MS"),
    (re.compile(r"\b\d+(?:\.\d+)? ?s\b"), "SECONDS"),
    (re.compile(r"on \d+ disks?"), "on DISKS"),
    (re.compile(r'"copies": \d+'), '"copies": N'),
    (re.compile(r"map-[0-9a-f]{12}"), "BATCH"),
    (re.compile(r'"counters": \{[^}]*\}'), '"counters": {}'),
    (re.compile(r"on (?:all \d+ machines|gamma)$", re.MULTILINE), "on MACHINES"),
    # One node leads here, and shows what a replica showed.
    (re.compile(r'"role": "\w+"'), '"role": ROLE'),
)
_BLANKS = re.compile(r"[ \t]+")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of the README, the section that it stands in, and the nearest title above it."""

    section: str
    title: str
    kind: str
    text: str


def blocks() -> list[Block]:
    """All of them, in order."""
    found: list[Block] = []
    section, title, kind, lines = "", "", "", list[str]()
    for line in README.splitlines():
        if not kind and line.startswith("## "):
            section = title = line.removeprefix("## ")
        elif not kind and line.startswith("### "):
            title = line.removeprefix("### ")
        elif not kind and line.startswith("```"):
            kind = line.removeprefix("```")
        elif line == "```":
            found.append(Block(section, title, kind, "\n".join(lines) + "\n"))
            kind, lines = "", []
        elif kind:
            lines.append(line)
    assert not kind, "the last block has no end"
    return found


def commands(console: str) -> list[tuple[str, str]]:
    """The commands of a transcript, each with all that it printed."""
    entries = re.split(r"^(?=\w*\$ )", console, flags=re.MULTILINE)
    parts = [entry.partition("\n") for entry in entries if entry]
    return [(line.partition("$ ")[2], printed) for line, _, printed in parts]


def plain(printed: str) -> str:
    """What a command printed, without what is another each time."""
    for pattern, word in _CHANGES:
        printed = pattern.sub(word, printed)
    lines = (_BLANKS.sub(" ", line).rstrip() for line in _ID.sub("ID", printed).splitlines())
    return "\n".join(lines)


class Ids:
    """Which ids of a transcript stand for which of those that it has when it is run again."""

    def __init__(self) -> None:
        self._real: dict[str, str] = {}
        self._shown: dict[str, str] = {}

    def meet(self, shown: str, real: str) -> None:
        """Learns from what stands there and what was printed instead; one id there is one id here."""
        old, new = (_LONG_ID.findall(_OF_NODES.sub("", text)) for text in (shown, real))
        for left, right in zip(old, new, strict=False):
            known, taken = self._real.setdefault(left, right), self._shown.setdefault(right, left)
            assert (known, taken) == (right, left), f"{left} stood for {known}, and {right} for {taken}"
            self._real[left[-8:]] = right[-8:]

    def put_in(self, command: str) -> str:
        """The command, with the ids that it has this time."""
        return _ID.sub(lambda found: self._real.get(found[0], found[0]), command)
