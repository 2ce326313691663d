"""Strangers on the network of a cluster: what they try, what they are answered, and that it leaves no trace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from meshq.core import ids
from meshq.core.keys import Key
from meshq.core.messages import PROTOCOL_VERSION
from meshq.store import keyfile
from meshq.wire import security
from tests.cluster import outside
from tests.cluster.conftest import MakeCluster
from tests.cluster.crowd import Bystanders
from tests.cluster.daemon import KEY, Cluster
from tests.cluster.load import wait_whole
from tests.cluster.outside import CLEAR, NOBODY, PORT, Endpoints, Row, Show, Strangers, made

OTHER_KEY = Key(bytes(range(20)))
NOBODYS_ID = ids.uuid7(1, 1)
FORBIDDEN, NOT_FOUND, OK = "403 forbidden", "404 not_found", "200"
# For the machine's own user, over its Unix socket.
LOCAL = ("/stop", "/leave", "/recover", "/key/rotate")
WORKERS = ("/get-task", "/heartbeat", "/submit-result")
# What somebody with a credential is answered who asks for others' tasks; all else is forbidden.
TO_A_CREDENTIAL = {"/health": OK, "/names": OK, "/retry-failed": OK, "/tasks": OK, "/wait": OK}
RELAY_PORT = 7400


@pytest.fixture
def strangers(cluster: MakeCluster, tmp_path: Path) -> Strangers:
    """Three daemons that are one cluster, and a machine beside them."""
    three = cluster(3, spare=1)
    wait_whole(three)
    return Strangers(three, tmp_path)


def endpoints(three: Cluster) -> Endpoints:
    """All paths, to ask for a task that waits, one that is done, and in the name of the third node."""
    first = three.daemons[0]
    submitted = first.call(
        "POST", "/submit-task", {"name": "echo", "args": ["mine"], "delay_s": 86400, "batch": "others"}
    )
    done = first.ask("submit", "echo", "mine")["ids"][0]
    three.wait_done(first, 1, 30)
    return Endpoints(submitted.body["ids"][0], done, three.ids[2])


def only_nothing(rows: Sequence[Row]) -> None:
    """Not one byte came back but what TLS says to whoever proves nothing."""
    assert {(row["status"], row["came"]) for row in rows} == {(None, 0)}


def steady(three: Cluster, before: dict[str, object]) -> None:
    """The leadership is the same as it was."""
    for daemon in three.daemons[: len(three.ids)]:
        now = daemon.look()
        assert (now["leader"], now["epoch"]) == (before["leader"], before["epoch"])


def genesis(three: Cluster) -> str:
    """The cluster's own id, which a stranger does not know."""
    rows = outside.dump(three.daemons[0])["queue.db:roster"]
    return str(rows[0][1])


def test_without_the_key_nothing_comes_back_and_nothing_changes(strangers: Strangers) -> None:
    three = strangers.cluster
    calls = endpoints(three).all()
    credential = security.Credential(
        "bob", security.passport([OTHER_KEY], security.Subject(security.Role.SUBMIT, "bob"))
    )
    three.daemons[0].ask("key issue", "--submit-only", "bob")
    before, status = outside.when_quiet(three), three.daemons[0].look()

    kinds: dict[str, Show] = {
        "in clear": CLEAR,
        "TLS, and no certificate": NOBODY,
        "a certificate of another key": made(OTHER_KEY),
        "a node's certificate of another key": made(OTHER_KEY, "node", three.ids[0]),
        "a credential of another key": {"as": "credential", "text": credential.text},
    }
    for who, show in kinds.items():
        rows = strangers.ask(show, calls)
        outside.show_table(who, rows)
        only_nothing(rows)
    assert not outside.changed(before, three)
    steady(three, status)
    # It is the key that they lack.
    rows = strangers.ask(made(KEY), [("GET", "/status", None)])
    assert {outside.outcome(row) for row in rows} == {OK}


def test_a_certificate_of_one_node_opens_nothing_in_the_name_of_another(strangers: Strangers) -> None:
    three = strangers.cluster
    calls = [call for call in endpoints(three).all() if call[1] in (*LOCAL, *WORKERS)]
    assert len(calls) == len(LOCAL) + len(WORKERS)
    before, status = outside.when_quiet(three), three.daemons[0].look()

    show = made(KEY, "node", NOBODYS_ID)
    rows = strangers.ask(show, calls)
    outside.show_table("a holder of the key with another node's certificate, as the third node", rows)
    assert {outside.outcome(row) for row in rows} == {FORBIDDEN}

    cluster_hash = ids.cluster_hash("meshq")
    for node in (three.ids[2], three.ids[0], ids.uuid7(2, 2)):
        for shown in (show, made(KEY), made(OTHER_KEY, "node", node), NOBODY):
            links = strangers.do(
                "greet", show=shown, at=strangers.at, node=node, cluster=cluster_hash, genesis=genesis(three)
            )
            outside.show_links(f"{shown.get('role', shown['as'])} greets as …{ids.short(node)}", links)
            assert [link["came"] for link in links] == [[]] * 6
    assert not outside.changed(before, three)
    steady(three, status)

    # The same, as itself, is heard: so it is for the name alone that it was not.
    links = strangers.do(
        "greet", show=show, at=strangers.at, node=NOBODYS_ID, cluster=cluster_hash, genesis=genesis(three), say=False
    )
    outside.show_links("the same, as itself", links)
    assert all("Greeting" in link["came"][0] for link in links)


def test_a_credential_opens_its_own_tasks_only_and_nothing_once_it_is_revoked(strangers: Strangers) -> None:
    three = strangers.cluster
    first = three.daemons[0]
    # To submit is its right; all else is about tasks of others.
    calls = [call for call in endpoints(three).all() if call[1] != "/submit-task"]
    bob, gone = (first.ask("key issue", "--submit-only", name)["credential"] for name in ("bob", "gone"))
    first.ask("key revoke", "gone")
    before, status = outside.when_quiet(three), first.look()

    rows = strangers.ask({"as": "credential", "text": bob}, calls)
    outside.show_table("a credential, about tasks that are not its own", rows)
    for row in rows:
        about_task = row["path"].startswith(("/task/", "/batch/"))
        expected = NOT_FOUND if about_task else TO_A_CREDENTIAL.get(row["path"], FORBIDDEN)
        assert outside.outcome(row).startswith(expected.split()[0]), row
        if row["path"] in ("/tasks", "/wait") and row["method"] != "HEAD":
            assert row["told"]["tasks"] == [], row

    rows = strangers.ask({"as": "credential", "text": gone}, [*calls, ("POST", "/submit-task", {"name": "echo"})])
    outside.show_table("a credential that was revoked", rows)
    assert all(row["status"] == 403 for row in rows)
    assert not outside.changed(before, three)
    steady(three, status)


def test_an_old_key_opens_nothing_more(strangers: Strangers, tmp_path: Path) -> None:
    three = strangers.cluster
    first = three.daemons[0]
    calls = endpoints(three).all()
    early = first.ask("key issue", "--submit-only", "early")["credential"]
    gate, status = tmp_path / "gate", first.look()
    plain = [("GET", "/status", None), *(call for call in calls if call[0] != "HEAD" and "/peer" not in call[1])]
    with strangers.busy("hold", show=made(KEY), at=strangers.at, calls=plain, gate=str(gate)) as holder:
        assert {row["status"] for row in strangers.told(holder, "before", 3)} == {200}
        change_key(three)
        before = outside.when_quiet(three)
        gate.touch()
        strangers.told(holder, "over", timeout_s=60)
        rows = strangers.told(holder, "answer")
    outside.show_table("on a connection that was opened with the old key when it was valid", rows)
    assert {outside.outcome(row) for row in rows} == {FORBIDDEN}

    for who, show in {
        "the old key": made(KEY),
        "a node's certificate of the old key": made(KEY, "node", three.ids[1]),
        "a credential of the old key": {"as": "credential", "text": early},
    }.items():
        rows = strangers.ask(show, calls)
        outside.show_table(who, rows)
        only_nothing(rows)
    assert not outside.changed(before, three)
    steady(three, status)


def change_key(three: Cluster) -> None:
    """Changes the key, from beginning to end, on all machines."""
    first = three.daemons[0]
    running = three.daemons[: len(three.ids)]
    following = first.ask("key rotate")["next"]
    assert following != KEY.text
    three.wait_until(
        lambda: all(len(keyfile.read(daemon.data_dir).keys) == 2 for daemon in running), 20, "all have both keys"
    )
    first.ask("key finish")
    three.wait_until(
        lambda: all([key.text for key in keyfile.read(daemon.data_dir).keys] == [following] for daemon in running),
        20, "all have the new key alone",
    )  # fmt: skip
    wait_whole(three)


def test_a_recorded_request_is_worth_nothing(strangers: Strangers) -> None:
    three = strangers.cluster
    at = strangers.at[0]
    with strangers.busy("relay", port=RELAY_PORT, to=at) as relay:
        strangers.told(relay, "listens")
        body = {"name": "echo", "args": ["recorded"]}
        through = (three.net.address(strangers.index), RELAY_PORT)
        rows = strangers.do("ask", show=made(KEY), at=[through], calls=[("POST", "/submit-task", body)])
        assert outside.outcome(rows[0]) == OK
        strangers.told(relay, "ended")
        said = [row["data"] for row in strangers.told(relay, "said") if row["call"] == 0]
    three.wait_done(three.daemons[0], 1, 30)
    before, status = outside.when_quiet(three), three.daemons[0].look()

    # A hello is like any other's, and is answered; then comes what was sealed with keys of the other connection.
    hello = strangers.do("replay", at=[at], said=said[:1], in_turn=True)[0]["records"]
    print(f"\nits hello alone: {hello}")
    for in_turn in (True, False):
        for row in strangers.do("replay", at=strangers.at, said=said, in_turn=in_turn):
            print(f"all its {len(said)} parts {'in turn' if in_turn else 'at once'}: {json.dumps(row)}")
            assert row["records"] == hello[: len(row["records"])], row
    assert not outside.changed(before, three)
    steady(three, status)
    assert three.daemons[0].ask("status")["tasks"]["done"] == 1


def test_an_announcement_tells_nothing_but_where_a_node_is(cluster: MakeCluster, tmp_path: Path) -> None:
    one = cluster(1, spare=1)
    node = one.wait_leader(one.daemons[0], one.ids[0])["node"]
    boot = one.daemons[0].call("GET", "/stats").body["boot"]
    strangers = Strangers(one, tmp_path)
    with strangers.busy("listen", node=node) as ear:
        assert strangers.told(ear, "resolved")[0]["found"]
        records = strangers.told(ear, "record")
    text = {"c": security.cluster_hash(KEY, "meshq"), "b": boot, "p": str(PORT), "v": str(PROTOCOL_VERSION)}
    names = {"_meshq._tcp.local.", f"{node}._meshq._tcp.local.", f"{node}.local."}
    print()
    for record in records:
        print(json.dumps(record))
        told = {key: value for key, value in record.items() if key not in ("event", "kind")}
        assert told.pop("text", text) == text
        assert told.pop("port", PORT) == PORT
        assert told.pop("address", one.net.addresses(0)[0]) in one.net.addresses(0)
        assert set(told.values()) <= names
    assert any("text" in record for record in records)
    assert any("address" in record for record in records)


def test_a_crowd_keeps_nobody_from_work(cluster: MakeCluster, tmp_path: Path) -> None:
    three = cluster(3, spare=1)
    wait_whole(three)
    _, second, third = three.daemons[:3]
    status = third.look()
    with Bystanders(three, 3, tmp_path, idle=200, slow=20, again_s=0.2) as crowd:
        assert len(second.ask("submit", "primes", "30000", "algorithm=trial_division", "--count", "300")["ids"]) == 300
        three.wait_done(third, 300, 120)
        # Those who were there when it began have been sent away, and are there again.
        three.wait_until(lambda: crowd.now()["connections"] > 220, 30, "some have called again")
        assert third.look()["tasks"]["done"] == 300
    steady(three, status)
