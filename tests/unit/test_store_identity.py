"""Whose a data directory is, and how a copy is told from the node."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from meshq.core.ids import uuid7
from meshq.errors import DiskFailed, StoreError
from meshq.store import identity
from meshq.store.identity import Noted
from meshq.store.inline import memory_connection

A, B = uuid7(1, 1), uuid7(2, 2)
HERE = Noted(node=A, inode="7", machine="m1", formerly="")

# -- the file --------------------------------------------------------------------------------------------


def test_an_id_is_kept(tmp_path: Path) -> None:
    assert identity.read_id(tmp_path) is None
    for node in (A, B):
        identity.write_id(tmp_path, node)
        assert identity.read_id(tmp_path) == node
    assert [path.name for path in tmp_path.iterdir()] == [identity.ID_FILE]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\x00", A.encode() * 2])
def test_garbage_instead_of_an_id_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / identity.ID_FILE
    path.write_bytes(content)
    with pytest.raises(StoreError, match="node-id: holds no node id"):
        identity.read_id(tmp_path)
    assert path.read_bytes() == content


def test_a_folder_in_which_no_id_can_be_kept_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiskFailed, match=r"missing/node-id: can't be written"):
        identity.write_id(tmp_path / "missing", A)
    (tmp_path / identity.ID_FILE).mkdir()
    with pytest.raises(DiskFailed, match="node-id: can't be read"):
        identity.read_id(tmp_path)


# -- what the database notes -----------------------------------------------------------------------------


def test_what_is_noted_is_read() -> None:
    conn = memory_connection()
    assert identity.read_noted(conn) == Noted()
    for noted in (HERE, replace(HERE, node=B, formerly=A)):
        identity.write_noted(conn, noted)
        assert identity.read_noted(conn) == noted


def test_a_stop_that_was_none_leaves_its_mark() -> None:
    conn = memory_connection()
    assert not identity.read_running(conn)
    for _ in range(2):
        identity.write_running(conn, running=True)
        assert identity.read_running(conn)
    identity.write_running(conn, running=False)
    assert not identity.read_running(conn)


def test_a_copy_lies_elsewhere_and_a_file_that_was_moved_does_not(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    path.write_text("rows")
    before = identity.whereabouts(path)
    assert before.inode and before.node == ""
    path.rename(tmp_path / "moved.db")
    assert identity.whereabouts(tmp_path / "moved.db") == before
    shutil.copy(tmp_path / "moved.db", path)
    assert identity.whereabouts(path) != before


def test_a_machine_is_told_by_the_first_file_that_says_something(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert identity.machine_id((one, two)) == ""
    two.write_text("abc\n")
    found = identity.machine_id((one, two))
    assert found and "abc" not in found
    one.write_text("\n")
    assert identity.machine_id((one, two)) == found
    one.write_text("abd\n")
    assert identity.machine_id((one, two)) not in ("", found)


@pytest.mark.parametrize(
    ("noted", "why"),
    [
        (HERE, ""),
        (Noted(), ""),
        (replace(HERE, formerly=B), ""),
        (replace(HERE, machine=""), ""),
        (replace(HERE, inode="8"), "copied or restored"),
        (replace(HERE, machine="m2"), "another machine"),
        (replace(HERE, node=B), "another node"),
        (replace(HERE, node=""), "another node"),
    ],
)
def test_a_copy_is_not_the_node(noted: Noted, why: str) -> None:
    found = identity.why_not_the_node(noted, HERE)
    assert why in found and bool(why) == bool(found)


def test_a_machine_without_an_id_may_have_been_the_same() -> None:
    assert identity.why_not_the_node(HERE, replace(HERE, machine="")) == ""
