"""The list of credentials in a database, and what becomes of it where databases meet."""

from __future__ import annotations

import pytest

from meshq.core.limits import CREDENTIALS_MAX
from meshq.core.membership import Roster
from meshq.core.reports import CredentialView
from meshq.core.task import Task
from meshq.errors import Conflict, NotFound
from meshq.store import clusters, credentials, feed, purge, vectors
from meshq.store.database import Connection
from meshq.store.feed import Pen
from meshq.store.inline import memory_connection

A, Z = Pen("a", 3, True), Pen("z", 1, True)
BOB = CredentialView(name="bob", issued_ms=10)
BOB_GONE = CredentialView(name="bob", issued_ms=10, revoked_ms=20)


@pytest.fixture
def conn() -> Connection:
    return memory_connection()


def pull(source: Connection, target: Connection, pen: Pen | None = None, version: int = 2) -> None:
    for rows in list(feed.rows_beyond(source, feed.read_vector(target), 1 << 20, version)):
        feed.apply(target, rows, pen)


def test_a_name_is_given_once_and_revoked_for_good(conn: Connection) -> None:
    assert credentials.find(conn, "bob") is None
    credentials.add(conn, A, "bob", 10)
    assert credentials.find(conn, "bob") == BOB
    with pytest.raises(Conflict, match="the name bob was given before, and none is given twice"):
        credentials.add(conn, A, "bob", 11)
    credentials.revoke(conn, A, "bob", 20)
    assert credentials.find(conn, "bob") == BOB_GONE
    seq = feed.read_seq(conn, "a")
    credentials.revoke(conn, A, "bob", 30)
    assert (credentials.find(conn, "bob"), feed.read_seq(conn, "a")) == (BOB_GONE, seq)
    with pytest.raises(Conflict, match="given before and revoked"):
        credentials.add(conn, A, "bob", 40)
    with pytest.raises(NotFound, match="no credential is called eve"):
        credentials.revoke(conn, A, "eve", 40)


def test_the_list_is_by_name_and_holds_nothing_else(conn: Connection) -> None:
    for name in ("bob", "bo", "bob.revoked", "Bob"):
        credentials.add(conn, A, name, 10)
    feed.write_payload(conn, A, "credentia/x", b"")
    feed.write_payload(conn, A, "credential0", b"")
    credentials.revoke(conn, A, "bob", 20)
    assert [view.name for view in credentials.every(conn)] == ["Bob", "bo", "bob", "bob.revoked"]
    assert [view for view in credentials.every(conn) if view.revoked_ms is not None] == [BOB_GONE]


def test_there_is_an_end_to_it(conn: Connection) -> None:
    for number in range(CREDENTIALS_MAX):
        credentials.add(conn, A, f"n{number}", 1)
        credentials.revoke(conn, A, f"n{number}", 1)
    with pytest.raises(Conflict, match=f"{CREDENTIALS_MAX} credentials were issued"):
        credentials.add(conn, A, "one-more", 1)


def test_a_row_that_cannot_be_read_still_means_what_it_is_called(conn: Connection) -> None:
    feed.write_payload(conn, A, "credential/bob", b"\xc1")
    assert credentials.find(conn, "bob") == CredentialView(name="bob", issued_ms=0)
    feed.write_payload(conn, A, "credential/bob/revoked", b"\xc1")
    assert credentials.find(conn, "bob") == CredentialView(name="bob", issued_ms=0, revoked_ms=0)
    feed.write_payload(conn, A, "credential/eve/revoked", b"\xc1")
    assert [view.revoked_ms for view in credentials.every(conn)] == [0, 0]


@pytest.mark.parametrize("version", [1, 2])
def test_it_is_copied_to_nodes_of_each_version(conn: Connection, version: int) -> None:
    credentials.add(conn, A, "bob", 10)
    other = memory_connection()
    pull(conn, other, version=version)
    assert credentials.every(other) == (BOB,)
    credentials.revoke(conn, A, "bob", 20)
    pull(conn, other, version=version)
    assert credentials.every(other) == (BOB_GONE,)


@pytest.mark.parametrize("revoked_in", ["ends", "goes on"])
def test_where_two_clusters_become_one_a_name_revoked_in_either_is_revoked(conn: Connection, revoked_in: str) -> None:
    older = memory_connection()
    for copy, pen, genesis in ((conn, A, "younger"), (older, Z, "older")):
        feed.write_roster(copy, pen, Roster(genesis=genesis, members=(pen.node,)))
        credentials.add(copy, pen, "bob", 10)
        if (revoked_in == "ends") is (copy is conn):
            credentials.revoke(copy, pen, "bob", 20)
    credentials.add(conn, A, "eve", 30)
    clusters.dissolve(conn, "older", "a")
    assert credentials.find(conn, "eve") == CredentialView(name="eve", issued_ms=30)
    pull(conn, older, Z)
    pull(older, conn)
    assert credentials.every(older) == credentials.every(conn) == (
        BOB_GONE, CredentialView(name="eve", issued_ms=30),
    )  # fmt: skip


def test_a_leader_that_stamps_it_anew_leaves_it_as_it_is(conn: Connection) -> None:
    credentials.add(conn, A, "bob", 10)
    credentials.revoke(conn, A, "bob", 20)
    feed.restamp(conn, Pen("b", 4, True), first=True)
    assert credentials.every(conn) == (BOB_GONE,)


def test_purging_and_full_copies_leave_it_alone(conn: Connection) -> None:
    feed.write_tasks(conn, A, [Task(id="old", name="n", rank=1, state="done", version=2, finished_ms=1)])
    credentials.add(conn, A, "bob", 10)
    feed.merge_committed(conn, {"a": feed.read_seq(conn, "a")})
    assert purge.purge(conn, A, 2, committed={"a": 9}, limit=9, now_ms=3) == ("old",)
    feed.merge_committed(conn, {"a": feed.read_seq(conn, "a")})
    vectors.merge_vector(conn, {"a": feed.read_seq(conn, "a")})
    assert purge.drop_tombstones(conn, A, 10, committed=feed.read_committed(conn)) == 1
    slept = memory_connection()
    credentials.add(slept, Z, "eve", 5)
    for rows in list(feed.rows_beyond(conn, feed.read_vector(slept), 1 << 20)):
        assert rows.full
        feed.apply(slept, rows, None)
    assert credentials.every(conn) == (BOB,)
    assert [view.name for view in credentials.every(slept)] == ["bob", "eve"]
