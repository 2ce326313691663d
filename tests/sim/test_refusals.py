"""What a person or another node may not do: each is refused with the reason, and changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from meshq.core import requests as ask
from meshq.core.limits import EPOCH_MAX
from meshq.core.membership import Roster
from meshq.core.messages import Handover, Hello, Leave, Pull, Renew, RenewAnswer, Vote, VoteAnswer
from meshq.errors import Conflict, Malformed, MeshqError, NoLeader, NotFound
from tests.sim.story import begin, call, leader_known_to, members, of, running, story, submit, view
from tests.sim.world import SimWorld

LEAVE = ask.Stop(leave=True)
OTHER = "f" * 32  # a genesis that is not this cluster's


def called(world: SimWorld, node: str) -> str:
    """What messages call a machine."""
    return f"{world.name(node)} ({node[-8:]})"


def standing(world: SimWorld) -> list[tuple[Roster, int]]:
    """The roster and the promised epoch on the disk of each machine that is up."""
    up = [machine.running for machine in world.machines.values() if machine.running is not None]
    return [(node.replicator.roster, node.elector.promised_epoch) for node in up]


async def refused(world: SimWorld, node: str, request: ask.Request) -> MeshqError:
    """Why a machine refuses this; nothing has changed by it."""
    before = standing(world)
    with pytest.raises(MeshqError) as caught:
        await call(world, node, request)
    await asyncio.sleep(5.0)
    assert standing(world) == before
    return caught.value


async def one_missing(world: SimWorld, *missing: str) -> None:
    """These machines are gone, and the others know."""
    for node in missing:
        world.crash(node)
    await asyncio.sleep(5.0)


# -- forget ------------------------------------------------------------------------------------------------


@story(3)
async def test_the_leader_and_who_is_up_are_not_forgotten_wherever_it_is_asked(world: SimWorld) -> None:
    first, second, third = world.nodes
    for asked in world.nodes:
        for node, why in ((first, "leads: it can't be forgotten"), (third, "is up: it would come back at once")):
            error = await refused(world, asked, ask.Forget(node=node[-8:]))
            assert isinstance(error, Conflict)
            assert error.message.startswith(f"{called(world, node)} {why}")
            assert "`meshq leave` there" in error.message
    error = await refused(world, second, ask.Forget(node="n9"))
    assert isinstance(error, NotFound)
    assert all(called(world, node) in error.message for node in world.nodes)


@story(1)
async def test_the_last_replica_is_not_forgotten(world: SimWorld) -> None:
    (only,) = world.nodes
    error = await refused(world, only, ask.Forget(node=only))
    assert isinstance(error, Conflict)
    assert "is the only replica" in error.message


@story(3)
async def test_one_of_two_that_are_gone_is_not_forgotten_without_a_majority(world: SimWorld) -> None:
    first, second, third = world.nodes
    await one_missing(world, second, third)
    await asyncio.sleep(10.0)
    error = await refused(world, first, ask.Forget(node=third))
    assert isinstance(error, NoLeader)
    assert "no majority" in error.message


@story(3)
async def test_who_is_gone_is_forgotten_and_not_known_any_more(world: SimWorld) -> None:
    first, second, third = world.nodes
    await one_missing(world, third)
    await call(world, second, ask.Forget(node=world.name(third)))
    assert members(world, first) == (first, second)
    assert isinstance(await refused(world, first, ask.Forget(node=third)), NotFound)


# -- recover -----------------------------------------------------------------------------------------------


@story(3)
async def test_nothing_is_recovered_with_a_majority_there(world: SimWorld) -> None:
    first, _, third = world.nodes
    for node in world.nodes:
        error = await refused(world, node, ask.Recover())
        assert isinstance(error, Conflict)
        assert error.message == f"{called(world, first)} leads a majority: there is nothing to recover"
    # Nor where they only can't agree on a leader.
    world.network.tap = lambda sender, to, message: not isinstance(message, Vote | Renew)
    await world.until("nobody leads", lambda: not world.leaders())
    await asyncio.sleep(3.0)
    error = await refused(world, third, ask.Recover())
    assert isinstance(error, Conflict)
    assert "3 of 3 replicas answer, which is a majority" in error.message


@story(1, form=False, replica="never")
async def test_a_node_of_no_cluster_recovers_nothing(world: SimWorld) -> None:
    world.start(world.nodes[0])
    await asyncio.sleep(5.0)
    error = await refused(world, world.nodes[0], ask.Recover())
    assert isinstance(error, Conflict)
    assert "belongs to no cluster" in error.message


@story(3, replicas=2, form=False)
async def test_who_only_works_has_no_copy_that_could_become_the_cluster(world: SimWorld) -> None:
    first, second, worker = world.nodes
    world.start(first)
    world.start(second)
    await world.until("two replicas", lambda: world.reigns(first) and members(world, first) == (first, second))
    world.start(worker)
    await world.until("it works", lambda: leader_known_to(world, worker) == first)
    spec = world.spec()
    await submit(world, worker, spec)
    await world.until("the worker knows them", lambda: members(world, worker) == (first, second))
    await one_missing(world, first, second)
    error = await refused(world, worker, ask.Recover())
    assert isinstance(error, Conflict)
    assert "holds no copy of the queue" in error.message
    assert f"`meshq recover` on one of {called(world, first)}, {called(world, second)}" in error.message
    # One that has a copy may, though the other one is gone.
    world.start(second)
    await asyncio.sleep(40.0)
    await call(world, second, ask.Recover())
    await world.until("it leads", lambda: world.reigns(second))
    assert (await view(world, worker, spec.id)).id == spec.id


# -- leave -------------------------------------------------------------------------------------------------


@story(1)
async def test_the_last_copy_does_not_leave(world: SimWorld) -> None:
    error = await refused(world, world.nodes[0], LEAVE)
    assert isinstance(error, Conflict)
    assert "the only copy of the queue: `meshq down` stops it, `meshq backup` keeps it" in error.message


@story(3)
async def test_nobody_leaves_whom_the_others_need_for_a_majority(world: SimWorld) -> None:
    first, second, third = world.nodes
    for node in world.nodes:
        await call(world, node, LEAVE)  # allowed: this world's daemons are only asked
    await one_missing(world, third)
    for node in (first, second):
        error = await refused(world, node, LEAVE)
        assert isinstance(error, Conflict)
        assert f"stays on the roster: without it, and while {called(world, third)} can't be reached" in error.message
        assert "`meshq forget`" in error.message
    await call(world, first, ask.Forget(node=third))
    await world.until("all know", lambda: members(world, second) == (first, second))
    for node in (first, second):
        await call(world, node, LEAVE)


@story(3)
async def test_nobody_leaves_without_a_majority(world: SimWorld) -> None:
    first, second, third = world.nodes
    await one_missing(world, first, third)
    error = await refused(world, second, LEAVE)
    assert isinstance(error, NoLeader)
    assert f"it waits for {called(world, first)}, {called(world, third)}" in error.message
    assert "`meshq down`" in error.message


@story(3, replicas=2)
async def test_who_only_works_leaves_whoever_is_missing(world: SimWorld) -> None:
    first, second, third = world.nodes
    (worker,) = {*world.nodes} - {*members(world, first)}
    assert worker == third
    await one_missing(world, first, second)
    await call(world, worker, LEAVE)


# -- messages of another cluster ---------------------------------------------------------------------------


async def says(world: SimWorld, sender: str, to: str, message: Any) -> Any:
    """What a machine is answered that says this to another one; raises what it is refused with."""
    return await of(begin(world, sender, lambda _: world.network.hosts[sender].request(to, message, timeout_s=2.0)))


async def pulls(world: SimWorld, sender: str, to: str, pull: Pull) -> list[Any]:
    """The parts of the answer to a pull."""

    async def read(_: object) -> list[Any]:
        return [part async for part in world.network.hosts[sender].stream(to, pull, idle_s=2.0)]

    return await of(begin(world, sender, read))


def ignore_promises(world: SimWorld) -> None:
    """What a story's machine says from now on is not its own: the checker is not to look for it on its disk."""
    world.network.watch = lambda sender, to, message: None


@story(3)
async def test_what_another_cluster_says_is_refused_by_name(world: SimWorld) -> None:
    first, second, third = world.nodes
    ignore_promises(world)
    before = standing(world)
    for to in (first, second):
        vote = Vote(epoch=99, pre=False, lease_s=2.5, genesis=OTHER)
        answer = await says(world, third, to, vote)
        assert (answer.granted, answer.reason) == (False, "other_cluster")
        answer = await says(world, third, to, Renew(epoch=99, lease_s=2.5, genesis=OTHER))
        assert (answer.followed, answer.reason) == (False, "other_cluster")
        with pytest.raises(Conflict, match=f"this is another cluster: .*, not {OTHER[-8:]}"):
            await pulls(world, third, to, Pull(vector={}, epoch=0, genesis=OTHER, wait_s=0.0))
        with pytest.raises(MeshqError, match="does not fit here"):
            await says(world, third, to, Handover(epoch=99, step="go", genesis=OTHER))
        with pytest.raises(Conflict, match="this is another cluster"):
            await says(world, third, to, Leave(genesis=OTHER))
    assert standing(world) == before
    assert world.leaders() == [first]


# -- epochs that are none ----------------------------------------------------------------------------------


class Liar:
    """A node that answers with epochs that are none."""

    def __init__(self, honest: Any) -> None:
        self._honest = honest

    async def answer(self, sender: str, message: Any) -> Any:
        """The honest node's answer, spoilt."""
        answer = await self._honest.answer(sender, message)
        match answer:
            case VoteAnswer() | Hello():
                return replace(answer, epoch=EPOCH_MAX, roster=replace(answer.roster, epoch=EPOCH_MAX))
            case RenewAnswer():
                return replace(answer, followed=False, epoch=EPOCH_MAX, reason="old_epoch")
        return answer

    def stream(self, sender: str, message: Any) -> AsyncIterator[Any]:
        """The honest node's rows."""
        parts: AsyncIterator[Any] = self._honest.stream(sender, message)
        return parts


def highest(world: SimWorld) -> int:
    """The highest epoch on any disk."""
    disks = [machine.disk for machine in world.machines.values()]
    found = [row for disk in disks for row in disk.promise.execute("SELECT epoch FROM promise")]
    found += [row for disk in disks for table in ("tasks", "roster") for row in disk.rows(f"SELECT epoch FROM {table}")]
    return max(int(epoch) for (epoch,) in found)


@story(3)
async def test_answers_with_an_epoch_that_is_none_change_nothing_and_nobody_keeps_them(world: SimWorld) -> None:
    first, _, third = world.nodes
    begun = highest(world)
    world.network.hosts[third].listen(Liar(running(world, third)))
    await asyncio.sleep(20.0)
    assert world.leaders() == [first]
    assert highest(world) == begun, "the leader stood again because of what the liar said"
    # Who stands meanwhile is answered by the liar, and finds a majority as soon as there is one without it.
    world.crash(first)
    await asyncio.sleep(20.0)
    world.start(first)
    await world.until("somebody leads", lambda: bool(world.leaders()))
    assert highest(world) < begun + 100
    world.network.hosts[third].listen(running(world, third))
    await world.until("all are one", lambda: world.is_one_cluster() and world.reigns(first), within_s=120.0)
    spec = world.spec()
    assert (await submit(world, third, spec)).majority
    assert highest(world) < begun + 100


SPOILT: list[Callable[[Hello, str], Any]] = [
    lambda hello, genesis: Vote(epoch=EPOCH_MAX, pre=False, lease_s=2.5, genesis=genesis),
    lambda hello, genesis: Vote(epoch=99, pre=False, lease_s=2.5, genesis=genesis, handover_epoch=EPOCH_MAX),
    lambda hello, genesis: Renew(epoch=EPOCH_MAX, lease_s=2.5, genesis=genesis),
    lambda hello, genesis: Handover(epoch=EPOCH_MAX, step="prepare", genesis=genesis),
    lambda hello, genesis: replace(hello, epoch=EPOCH_MAX),
    lambda hello, genesis: replace(hello, roster=replace(hello.roster, epoch=EPOCH_MAX)),
]


@story(3)
async def test_a_request_with_an_epoch_that_is_none_is_refused_by_name(world: SimWorld) -> None:
    first, second, third = world.nodes
    ignore_promises(world)
    before = standing(world)
    hello = running(world, third).describe()
    for spoilt in SPOILT:
        for to in (first, second):
            with pytest.raises(Malformed, match=f"epoch: must be from 0 to {EPOCH_MAX - 1}, not {EPOCH_MAX}"):
                await says(world, third, to, spoilt(hello, hello.roster.genesis))
    await asyncio.sleep(5.0)
    assert standing(world) == before


@story(3)
async def test_a_leave_is_for_the_leader_and_for_nobody_else(world: SimWorld) -> None:
    first, second, third = world.nodes
    genesis = running(world, third).replicator.roster.genesis
    with pytest.raises(NoLeader):
        await says(world, third, second, Leave(genesis=genesis))
    await says(world, third, first, Leave(genesis=genesis))
    assert members(world, first) == (first, second)
