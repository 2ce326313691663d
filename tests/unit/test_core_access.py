"""What the bearer of a credential may ask for, and how its requests are confined to its own tasks."""

from __future__ import annotations

import dataclasses

import pytest

from meshq.core import access
from meshq.core import requests as ask
from meshq.core.messages import Hello
from meshq.core.reports import CredentialView
from meshq.errors import Forbidden, Malformed

ID = "a" * 32
# All requests that there are. One that is new has to be put on one side or the other, here too.
ALLOWED = {
    ask.Submit, ask.TaskQuery, ask.WaitQuery, ask.TasksQuery, ask.Cancel, ask.Retry, ask.TaskStoryQuery,
    ask.HealthQuery, ask.CancelBatch, ask.RetryFailed, ask.LogQuery, ask.NamesQuery,
}  # fmt: skip
FORBIDDEN = {
    ask.Get, ask.Heartbeat, ask.SubmitResult, ask.StatusQuery, ask.StatsQuery, ask.Stop, ask.Recover, ask.ChangeKey,
    ask.Forget, ask.ClusterStoryQuery, ask.CredentialAdd, ask.CredentialRevoke, ask.CredentialsQuery,
    ask.LogHere, ask.Drain,
}  # fmt: skip
QUERIES: list[ask.Request] = [
    ask.TaskQuery(id=ID, wait_s=3.0, owner="eve"), ask.WaitQuery(ids=(ID,), wait_s=3.0, owner="eve"),
    ask.TasksQuery(state="done", limit=7, owner="eve"), ask.Cancel(id=ID, owner="eve"), ask.Retry(id=ID, owner="eve"),
    ask.TaskStoryQuery(id=ID, owner="eve"), ask.CancelBatch(batch="b", owner="eve"),
    ask.RetryFailed(batch="b", owner="eve"), ask.LogQuery(id=ID, after=7, owner="eve"),
]  # fmt: skip


def spec(owner: str) -> ask.TaskSpec:
    return ask.TaskSpec(id=ID, name="n", payload=b"", owner=owner)


def test_every_request_is_allowed_or_forbidden() -> None:
    assert set(ask.ANSWER_TO) == ALLOWED | FORBIDDEN
    for kind in ALLOWED:
        access.check(kind, "bob")
    for kind in (*FORBIDDEN, Hello):
        access.check(kind, "")
        with pytest.raises(Forbidden, match="the credential bob is for submitting tasks"):
            access.check(kind, "bob")


@pytest.mark.parametrize("request_", QUERIES, ids=lambda request: type(request).__name__)
@pytest.mark.parametrize("owner", ["bob", ""])
def test_a_query_is_about_the_callers_own_tasks_whatever_it_says(request_: ask.Request, owner: str) -> None:
    found = access.narrowed(request_, owner)
    assert access.bearer(found) == owner
    assert access.narrowed(found, "eve") == request_


def test_what_is_submitted_belongs_to_who_submits_it() -> None:
    found = access.narrowed(ask.Submit(tasks=(spec("bob"), spec("eve"), spec("")), late=True), "bob")
    # Only a node delivers late: nobody's task fails in place of being refused because its sender says so.
    assert found == ask.Submit(tasks=(spec("bob"),) * 3)
    assert access.bearer(found) == "bob"
    assert access.narrowed(found, "") == ask.Submit(tasks=(spec(""),) * 3)


def test_the_tasks_of_a_credential_go_before_no_others() -> None:
    urgent = ask.Submit(tasks=(spec(""), dataclasses.replace(spec(""), priority=1)))
    assert access.narrowed(urgent, "") == urgent
    with pytest.raises(Forbidden, match="their priority is 0 at most"):
        access.narrowed(urgent, "bob")


def test_every_request_that_has_an_owner_is_narrowed() -> None:
    owned = {kind for kind in ask.ANSWER_TO if any(field.name == "owner" for field in dataclasses.fields(kind))}
    assert owned == {type(request) for request in QUERIES}
    assert owned | {ask.Submit, ask.HealthQuery, ask.NamesQuery} == ALLOWED


def test_what_an_outbox_delivers_is_its_nodes() -> None:
    assert access.bearer(ask.Submit(tasks=(spec("bob"),), late=True)) == ""
    assert access.bearer(ask.Submit(tasks=())) == ""
    assert access.bearer(ask.StatusQuery()) == ""


def test_only_what_is_on_the_list_and_not_revoked_is_valid() -> None:
    access.check_listed("bob", CredentialView(name="bob", issued_ms=1))
    with pytest.raises(Forbidden, match="has issued no credential bob"):
        access.check_listed("bob", None)
    with pytest.raises(Forbidden, match="the credential bob was revoked"):
        access.check_listed("bob", CredentialView(name="bob", issued_ms=1, revoked_ms=0))


@pytest.mark.parametrize("name", ["b", "Bob.2_x-y", "0" * 64])
def test_a_name(name: str) -> None:
    assert access.check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "_", "a b", "a/b", "ä", "a\n", "٣", "0" * 65])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(Malformed, match="is no name of a credential: it has 1 to 64"):
        access.check_name(name)
