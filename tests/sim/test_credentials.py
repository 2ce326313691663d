"""Credentials in a cluster: lists that lag, nodes without one, forwarding, parts without a majority, outboxes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from meshq.config import Config
from meshq.core import access
from meshq.core import requests as ask
from meshq.core.messages import Call, Pull
from meshq.core.reports import Credentials
from meshq.errors import Conflict, Forbidden, Malformed, NoLeader, NotFound, QueueFull
from meshq.node.node import Node
from meshq.wire import codec
from tests.sim.story import Worker, begin, call, done, leader_known_to, of, raised, running, story, submit
from tests.sim.world import SimWorld


async def asks(world: SimWorld, node: str, owner: str, request: ask.Request) -> Any:
    """What a machine answers who brings this credential, as its port does it."""

    async def at_the_port(found: Node) -> Any:
        await found.gateway.admit(owner, type(request))
        return await found.gateway.call(access.narrowed(request, owner), local=False)

    return await of(begin(world, node, at_the_port))


async def hands_in(world: SimWorld, node: str, owner: str) -> ask.Submitted:
    answer: ask.Submitted = await asks(world, node, owner, ask.Submit(tasks=(world.spec(),)))
    return answer


async def forwards(world: SimWorld, sender: str, to: str, request: ask.Request, owner: str) -> Any:
    """What a machine is answered that forwards a request as this credential's, whatever stands in it."""
    message = Call(request=type(request).__name__, body=codec.encode_body(request), owner=owner)
    return await of(begin(world, sender, lambda _: world.network.hosts[sender].request(to, message, timeout_s=2.0)))


async def names(world: SimWorld, node: str) -> dict[str, bool]:
    """The list as a machine tells it: whether each is revoked."""
    answer: Credentials = await call(world, node, ask.CredentialsQuery())
    return {view.name: view.revoked_ms is not None for view in answer.credentials}


@story(3)
async def test_the_list_is_the_clusters_and_outlives_its_leaders(world: SimWorld) -> None:
    first, second, third = world.nodes
    await call(world, third, ask.CredentialAdd(name="bob"))
    await call(world, second, ask.CredentialAdd(name="eve"))
    await call(world, second, ask.CredentialRevoke(name="eve"))
    with pytest.raises(Conflict, match="the name eve was given before and revoked"):
        await call(world, third, ask.CredentialAdd(name="eve"))
    for wrong in (ask.CredentialAdd(name="a/b"), ask.CredentialRevoke(name="")):
        with pytest.raises(Malformed, match="is no name of a credential"):
            await call(world, second, wrong)
    world.crash(first)
    await world.until("the second leads", lambda: world.reigns(second))
    for node in (second, third):
        assert await names(world, node) == {"bob": False, "eve": True}
        assert (await hands_in(world, node, "bob")).majority
        with pytest.raises(Forbidden, match="the credential eve was revoked"):
            await hands_in(world, node, "eve")


@story(3)
async def test_a_copy_that_lags_lets_nobody_in_who_is_revoked_and_keeps_nobody_out_who_is_new(world: SimWorld) -> None:
    first, _, third = world.nodes
    await call(world, first, ask.CredentialAdd(name="bob"))
    task = (await hands_in(world, third, "bob")).ids[0]
    await asyncio.sleep(5.0)
    world.network.tap = lambda sender, to, message: not (sender == third and isinstance(message, Pull))
    await asyncio.sleep(5.0)
    await call(world, first, ask.CredentialAdd(name="new"))
    assert (await hands_in(world, third, "new")).majority
    await call(world, first, ask.CredentialRevoke(name="bob"))
    before = world.machines[first].disk.rows("SELECT * FROM tasks")
    for request in (
        ask.Submit(tasks=(world.spec(),)), ask.TaskQuery(id=task), ask.TasksQuery(), ask.Cancel(id=task),
        ask.TaskStoryQuery(id=task), ask.WaitQuery(ids=(task,)),
    ):  # fmt: skip
        with pytest.raises(Forbidden, match="the credential bob was revoked"):
            await asks(world, third, "bob", request)
    assert world.machines[first].disk.rows("SELECT * FROM tasks") == before
    with pytest.raises(Forbidden, match="this cluster has issued no credential nobody"):
        await asks(world, third, "nobody", ask.HealthQuery())


@story(1, form=False)
async def test_a_node_that_only_works_asks_its_leader(world: SimWorld) -> None:
    (first,) = world.nodes
    works = world.add(Config(replica="never"))
    for node in (first, works):
        world.start(node)
    await world.until("it is led", lambda: leader_known_to(world, works) == first)
    await call(world, works, ask.CredentialAdd(name="bob"))
    assert world.machines[works].disk.rows("SELECT ref FROM payloads") == []
    answer = await hands_in(world, works, "bob")
    assert (await asks(world, works, "bob", ask.TaskQuery(id=answer.ids[0]))).owner == "bob"
    with pytest.raises(Forbidden, match="this cluster has issued no credential eve"):
        await hands_in(world, works, "eve")
    world.crash(first)
    await world.until("it has noticed", lambda: leader_known_to(world, works) is None)
    with pytest.raises(NoLeader):
        await asks(world, works, "bob", ask.HealthQuery())


@story(3)
async def test_a_leader_believes_no_node_what_a_credential_may(world: SimWorld) -> None:
    first, _, third = world.nodes
    for name in ("bob", "eve"):
        await call(world, first, ask.CredentialAdd(name=name))
    other = (await submit(world, first, world.spec())).ids[0]
    for forged in ("", "eve"):
        for request in (
            ask.TaskQuery(id=other, owner=forged), ask.Cancel(id=other[-8:], owner=forged),
            ask.Retry(id=other, owner=forged), ask.TaskStoryQuery(id=other, owner=forged),
        ):  # fmt: skip
            with pytest.raises(NotFound):
                await forwards(world, third, first, request, "bob")
        page = await forwards(world, third, first, ask.TasksQuery(owner=forged), "bob")
        assert other not in {view.id for view in codec.decode_body(page.answer, page.body, codec.ANSWERS).tasks}
        spec = world.spec(owner=forged)
        await forwards(world, third, first, ask.Submit(tasks=(spec,), late=True), "bob")
        assert (await asks(world, first, "bob", ask.Cancel(id=spec.id))).owner == "bob"
    mine = world.spec()
    with pytest.raises(Conflict, match=f"the id {other} is taken"):
        await forwards(world, third, first, ask.Submit(tasks=(mine, replace(mine, id=other))), "bob")
    with pytest.raises(NotFound):
        await call(world, first, ask.TaskQuery(id=mine.id))
    await call(world, first, ask.CredentialRevoke(name="eve"))
    for kind in (ask.StatusQuery(), ask.CredentialsQuery(), ask.CredentialAdd(name="x"), ask.Forget(node="n1")):
        with pytest.raises(Forbidden, match="everything else needs the cluster's key"):
            await forwards(world, third, first, kind, "bob")
    for name, why in (("eve", "was revoked"), ("nobody", "has issued no credential")):
        with pytest.raises(Forbidden, match=why):
            await forwards(world, third, first, ask.TasksQuery(), name)
    with pytest.raises(NoLeader):
        await forwards(world, first, third, ask.TasksQuery(), "bob")
    assert await names(world, third) == {"bob": False, "eve": True}


@story(2)
async def test_without_a_majority_nobody_is_issued_one_or_revoked_and_who_has_one_goes_on(world: SimWorld) -> None:
    first, second = world.nodes
    await call(world, first, ask.CredentialAdd(name="bob"))
    await asyncio.sleep(5.0)
    world.crash(first)
    await world.until("it leads its part", lambda: leader_known_to(world, second) == second)
    for request in (ask.CredentialAdd(name="eve"), ask.CredentialRevoke(name="bob")):
        with pytest.raises(NoLeader, match="no majority is here: credentials are issued and revoked when it is back"):
            await call(world, second, request)
    assert await names(world, second) == {"bob": False}
    answer = await hands_in(world, second, "bob")
    assert (answer.copies, answer.majority) == (1, False)
    world.start(first)
    await world.until("both are one", lambda: world.is_one_cluster() and world.reigns(first), within_s=120.0)
    await asyncio.sleep(5.0)
    assert (await asks(world, first, "bob", ask.TaskQuery(id=answer.ids[0]))).owner == "bob"


@story(3, without_majority="stop")
async def test_what_waits_for_a_leader_keeps_its_owner_even_one_that_is_revoked_meanwhile(world: SimWorld) -> None:
    first, second, third = world.nodes
    for name in ("bob", "eve"):
        await call(world, first, ask.CredentialAdd(name=name))
    await asyncio.sleep(5.0)
    world.network.isolate(third)
    await world.until("it has no leader", lambda: leader_known_to(world, third) is None)
    answer = await hands_in(world, third, "bob")
    assert answer.queued
    (task,) = answer.ids
    waiting = await asks(world, third, "bob", ask.TaskQuery(id=task[-8:]))
    assert (waiting.queued, waiting.owner) == (True, "bob")
    for owner, shown in (("bob", [task]), ("eve", [])):
        assert [view.id for view in (await asks(world, third, owner, ask.TasksQuery())).tasks] == shown
    with pytest.raises(NotFound):
        await asks(world, third, "eve", ask.TaskQuery(id=task))
    assert await names(world, third) == {"bob": False, "eve": False}
    await call(world, second, ask.CredentialRevoke(name="bob"))
    world.network.heal()

    def has_come() -> bool:
        return world.machines[first].disk.rows("SELECT owner FROM tasks") == [("bob",)]

    await world.until("it is delivered", has_come, within_s=60.0)
    assert running(world, third).counters["delivery_failed"] == 0


@story(3, credential_tasks_max=3)
async def test_a_credential_fills_its_share_of_the_queue_and_no_more(world: SimWorld) -> None:
    first, second, third = world.nodes
    for name in ("bob", "eve"):
        await call(world, first, ask.CredentialAdd(name=name))
    kept = [(await hands_in(world, third, "bob")).ids[0] for _ in range(3)]
    with pytest.raises(QueueFull, match="the credential bob has 3 of at most 3 unfinished tasks"):
        await hands_in(world, third, "bob")
    both = ask.Submit(tasks=(world.spec(), world.spec()))
    assert (await asks(world, third, "eve", both)).majority
    with pytest.raises(QueueFull, match="eve has 2 of at most 3"):
        await asks(world, third, "eve", ask.Submit(tasks=(world.spec(), world.spec())))
    assert (await asks(world, third, "eve", both)).ids == tuple(spec.id for spec in both.tasks), "it is repeated"
    await submit(world, first, *[world.spec() for _ in range(10)])
    # The next leader counts as the last one did, and what is finished makes room.
    world.crash(first)
    await world.until("the second leads", lambda: world.reigns(second))
    with pytest.raises(QueueFull):
        await hands_in(world, third, "bob")
    await asks(world, third, "bob", ask.Cancel(id=kept[0]))
    assert (await hands_in(world, third, "bob")).majority


@story(3, credential_tasks_max=2)
async def test_what_failed_is_run_again_within_the_share_only(world: SimWorld) -> None:
    first, _, third = world.nodes
    worker = Worker(world, third, "w1")
    await worker.beat()
    for name in ("bob", "eve"):
        await call(world, first, ask.CredentialAdd(name=name))
    failed: list[str] = []
    for _ in range(3):
        failed += (await hands_in(world, third, "bob")).ids
        await worker.hand_in(raised(await worker.one()))
    with pytest.raises(QueueFull, match="the credential bob has 0 of at most 2 unfinished tasks"):
        await asks(world, third, "bob", ask.RetryFailed())
    assert (await asks(world, third, "eve", ask.RetryFailed())).ids == ()
    await asks(world, third, "bob", ask.Retry(id=failed[0]))
    await worker.hand_in(done(await worker.one()))
    assert len((await asks(world, third, "bob", ask.RetryFailed())).ids) == 2, "nothing of the refused one was kept"
