"""PROTOCOL.md says what the code does: its tables and numbers are compared with it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import meshq
from meshq.config import Config
from meshq.core import limits, requests
from meshq.core.events import Role
from meshq.core.messages import PEER_MESSAGES
from meshq.core.task import TRANSITIONS
from tests.sim.checks import Checker

PACKAGE = Path(meshq.__file__).parent
TEXT = (PACKAGE / "core" / "PROTOCOL.md").read_text("utf-8")
DEFAULTS = {name: getattr(Config(), name) for name in Config.__struct_fields__}
# Names of counters: literally, or the beginning of names that end in a reason.
COUNTED = re.compile(r"""(?:\badd|_count|_?on_event|_event)\(\s*"([a-z_]+)"|counters\["([a-z_]+)"\]""")


def section(title: str) -> str:
    """The text under a heading."""
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {title}"
    return found[1]


def tables(text: str) -> list[list[list[str]]]:
    """All tables: their rows of cells, the head left out."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    rows = [[[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()] for block in blocks]
    return [table[2:] for table in rows]


def sources() -> dict[str, str]:
    """The package's modules."""
    return {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}


def test_the_table_of_moves_is_the_codes() -> None:
    (told,) = tables(section("Tasks"))
    assert told == [[before.value, move.value, after.value] for (before, move), after in TRANSITIONS.items()]


def test_every_message_is_told() -> None:
    told = {row[0].strip("`") for row in tables(section("Messages between nodes"))[0]}
    answers = {"VoteAnswer", "RenewAnswer", "Done", "Rows", "CallAnswer", "Refused"}
    assert told | answers == {message.__name__ for message in PEER_MESSAGES}
    assert {row[0].strip("`") for row in tables(section("Requests of clients and workers"))[0]} == {
        request.__name__ for request in requests.ANSWER_TO
    }
    for message in (*PEER_MESSAGES, *requests.ANSWER_TO, *requests.ANSWER_TO.values()):
        assert f"`{message.__name__}" in TEXT, message.__name__


@pytest.mark.parametrize("message", [*PEER_MESSAGES, *requests.ANSWER_TO], ids=lambda message: str(message.__name__))
def test_fields_that_are_told_exist(message: type) -> None:
    rows = [*tables(section("Messages between nodes"))[0], *tables(section("Requests of clients and workers"))[0]]
    known = {field.name for field in dataclasses.fields(message)}
    for row in rows:
        if row[0] == f"`{message.__name__}`":
            cell = row[3] if message in PEER_MESSAGES else row[2]
            assert set(re.findall(r"[a-z]+_[a-z_]+", cell)) <= known


def test_the_states_of_the_lease_are_the_codes() -> None:
    assert [row[0] for row in tables(section("The lease"))[0]] == [role.value for role in Role]


def test_the_timers_of_the_lease_are_the_defaults() -> None:
    timers = tables(section("The lease"))[1]
    assert {row[0].strip("`"): float(row[1]) for row in timers} == {
        name: DEFAULTS[name] for name in ("heartbeat_s", "lease_s", "lease_margin", "stand_step_s", "alive_s")
    }


def test_other_settings_that_are_told_have_these_defaults() -> None:
    told = re.findall(r"`([a-z_]+)` \((\d+(?:\.\d+)?)(?: ([a-z]+))?\)", TEXT)
    assert len(told) >= 10
    for name, number, unit in told:
        assert float(number) * (86400 if unit == "days" else 1) == DEFAULTS[name], name


def test_settings_that_are_named_exist() -> None:
    durations = re.findall(r"`([a-z]+(?:_[a-z]+)*_(?:s|max|margin))`", TEXT)
    fields = {field.name for message in (*PEER_MESSAGES, *requests.ANSWER_TO) for field in dataclasses.fields(message)}
    fields |= {field.name for field in dataclasses.fields(requests.TaskSpec)}
    assert set(durations) <= DEFAULTS.keys() | fields


def test_the_limits_are_the_codes() -> None:
    (told,) = tables(section("Limits"))
    assert {row[0].strip("`"): float(row[1]) for row in told} == {
        name: value for name, value in vars(limits).items() if name.isupper()
    }


def test_every_reason_of_a_refused_vote_or_renewal_is_told() -> None:
    reasons = re.findall(r'return "([a-z_]+)"', sources()["core/voter.py"])
    assert reasons == [row[0].strip("`") for row in tables(section("The lease"))[2]]
    for reason in re.findall(r'reason = "([a-z_]+)"', sources()["core/lease.py"]):
        assert f"`{reason}`" in section("The lease")


def test_every_refusal_and_drop_is_named() -> None:
    named = set(re.findall(r"`([a-z_]+)`", section("Names of refusals and drops")))
    counted = {name for text in sources().values() for found in COUNTED.findall(text) for name in found if name}
    counted |= set(re.findall(r'"(link_[a-z_]+)"', sources()["wire/handshake.py"]))
    assert len(counted) > 50
    assert counted <= named


def test_who_looks_at_an_invariant_is_there() -> None:
    looks = section("Invariants")
    for name in re.findall(r"\b(look\w*|on_view|is_settled)`", looks):
        assert hasattr(Checker, name), name
    tests = Path(__file__).parent
    for name in re.findall(r"(test_core_\w+\.py)", looks):
        assert (tests / name).exists()
