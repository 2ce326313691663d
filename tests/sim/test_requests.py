"""What people ask in daily use: progress, logs, names, drains, and calling off; across nodes and leaders."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from meshq.core import requests as ask
from meshq.core.infos import Names, TaskInfo
from meshq.core.messages import Call, CallAnswer
from meshq.core.reports import Changed, Log, TaskView
from meshq.core.requests import ClaimRef, Job, RunProgress
from meshq.errors import Malformed, NoLeader, NotFound, Unreachable
from meshq.wire import codec
from tests.sim.host import ANYTHING
from tests.sim.story import Worker, begin, call, done, leader_known_to, of, running, status, story, submit, view
from tests.sim.world import SimWorld

NEWS = (TaskInfo(name="news", params=ANYTHING),)


def beat(worker: Worker, *jobs: Job, progress: tuple[RunProgress, ...] = (), drained: bool = False) -> ask.Heartbeat:
    """A heartbeat of a worker that tells more than `Worker.beat` does."""
    claims = tuple(ClaimRef(task=job.id, epoch=job.epoch, attempt=job.attempt) for job in jobs)
    return ask.Heartbeat(
        node=worker.name, boot=worker.boot, name=worker.name, slots=1, running=claims, tasks=worker.tasks,
        progress=progress, drained=drained,
    )  # fmt: skip


async def log(world: SimWorld, node: str, task: str, after: int = 0, wait_s: float = 0.0) -> Log:
    answer: Log = await call(world, node, ask.LogQuery(id=task, after=after, wait_s=wait_s))
    return answer


async def drained(world: SimWorld, node: str) -> dict[str, bool]:
    """What a machine's status says of all."""
    return {each.id: each.drained for each in (await status(world, node)).nodes}


# -- progress ----------------------------------------------------------------------------------------------


@story(3)
async def test_progress_is_seen_everywhere_goes_with_the_claim_and_is_told_again_to_the_next_leader(
    world: SimWorld,
) -> None:
    first, second, third = world.nodes
    worker = Worker(world, third, "w1")
    await worker.beat()
    (task,) = (await submit(world, second, world.spec())).ids
    job = await worker.one(5.0)
    assert (await view(world, second, task)).progress is None
    told = (RunProgress(task=task, done=3.0, total=12.0, note="third"), RunProgress(task="f" * 32, done=1.0))
    await call(world, third, beat(worker, job, progress=told))
    for node in (first, second, third):
        assert (await view(world, node, task)).progress == (3.0, 12.0, "third")
        page = await call(world, node, ask.TasksQuery())
        assert [each.progress for each in page.tasks] == [(3.0, 12.0, "third")]
    other = Worker(world, third, "w2")
    await call(world, third, beat(other, progress=(RunProgress(task=task, done=9.0),)))
    assert (await view(world, second, task)).progress == (3.0, 12.0, "third"), "it is no run of that worker"
    world.crash(first)
    await world.until("another leads", lambda: world.reigns(second) or world.reigns(third))
    assert (await view(world, second, task)).progress is None
    await call(world, third, beat(worker, job, progress=told))
    assert (await view(world, second, task)).progress == (3.0, 12.0, "third")
    await worker.hand_in(done(job))
    assert (await view(world, second, task)).progress is None


# -- calling off -------------------------------------------------------------------------------------------


@story(3)
async def test_who_cancels_can_wait_until_the_run_is_over(world: SimWorld) -> None:
    first, second, third = world.nodes
    worker = Worker(world, third, "w1")
    await worker.beat()
    (task,) = (await submit(world, second, world.spec())).ids
    job = await worker.one(5.0)
    # Whether it arrived is not known yet.
    shown: TaskView = await call(world, second, ask.Cancel(id=task))
    assert (shown.state, shown.ending) == ("cancelled", True)
    waiting = begin(world, second, lambda node: node.gateway.call(ask.Cancel(id=task, wait_s=30.0)))
    assert await worker.beat(job) == (task,)
    await asyncio.sleep(1.0)
    assert not waiting.done()
    assert (await view(world, first, task)).ending
    await worker.beat()
    ended = await of(waiting)
    assert isinstance(ended, TaskView)
    assert (ended.state, ended.ending) == ("cancelled", False)
    assert not (await view(world, second, task)).ending


@story(1)
async def test_of_a_run_that_never_ends_the_wait_does(world: SimWorld) -> None:
    (node,) = world.nodes
    worker = Worker(world, node, "w1")
    await worker.beat()
    one, other = (await submit(world, node, world.spec(), world.spec())).ids
    job = await worker.one(5.0)
    began = world.loop.time()
    waiting = begin(world, node, lambda found: found.gateway.call(ask.Cancel(id=one, wait_s=4.0)))
    await worker.beats(job, for_s=6.0)
    called_off = await of(waiting)
    assert isinstance(called_off, TaskView)
    assert called_off.ending
    assert 4.0 <= world.loop.time() - began <= 6.5
    # One that never ran has nothing to wait for; neither has one whose worker is lost.
    waits: TaskView = await call(world, node, ask.Cancel(id=other, wait_s=60.0))
    assert (waits.state, waits.ending) == ("cancelled", False)
    await asyncio.sleep(20.0)
    assert not (await view(world, node, one)).ending


@story(1)
async def test_a_run_that_was_on_its_way_when_it_was_called_off_has_ended_with_the_next_get(world: SimWorld) -> None:
    (node,) = world.nodes
    worker = Worker(world, node, "w1")
    await worker.beat()
    (task,) = (await submit(world, node, world.spec())).ids
    await worker.one(5.0)
    await call(world, node, ask.Cancel(id=task))
    await worker.beat()
    assert (await view(world, node, task)).ending, "the heartbeat may have left before the run came"
    await worker.get()
    assert not (await view(world, node, task)).ending


@story(3)
async def test_a_batch_is_called_off_and_its_failed_tasks_run_again_wherever_it_is_asked(world: SimWorld) -> None:
    first, second, third = world.nodes
    worker = Worker(world, third, "w1")
    await worker.beat()
    specs = [world.spec(batch=batch, not_before_ms=1 << 50) for batch in ("a", "a", "b")]
    await submit(world, second, *specs)
    changed: Changed = await call(world, third, ask.CancelBatch(batch="a"))
    assert set(changed.ids) == {specs[0].id, specs[1].id}
    assert await call(world, first, ask.CancelBatch(batch="a")) == Changed(ids=())
    page = await call(world, second, ask.TasksQuery(batch="a"))
    assert [each.state for each in page.tasks] == ["cancelled"] * 2
    assert (await view(world, second, specs[2].id)).state == "pending"
    with pytest.raises(NotFound, match="there is no batch 'c'"):
        await call(world, second, ask.CancelBatch(batch="c"))
    again: ask.Submitted = await call(world, third, ask.RetryFailed(batch="a"))
    assert again.ids == (), "cancelled is not failed"


# -- names -------------------------------------------------------------------------------------------------


@story(3)
async def test_names_are_those_of_live_workers_with_the_nodes_that_run_them(world: SimWorld) -> None:
    first, second, third = world.nodes
    one, two = Worker(world, third, "w1", tasks=NEWS), Worker(world, second, "w2", tasks=NEWS)
    await one.beat()
    await call(world, third, beat(two, drained=True))
    found: Names = await call(world, second, ask.NamesQuery())
    by_name = {each.info.name: each.nodes for each in found.names}
    assert list(by_name) == sorted(by_name)
    assert by_name["news"] == ("w1",)
    assert by_name["work"] == (), "the nodes of this story have no slots"
    await two.beat()
    found = await call(world, first, ask.NamesQuery())
    assert {each.info.name: each.nodes for each in found.names}["news"] == ("w1", "w2")
    await asyncio.sleep(20.0)
    found = await call(world, third, ask.NamesQuery())
    assert "news" not in {each.info.name for each in found.names}


@story(2, without_majority="stop")
async def test_names_and_logs_are_the_leaders_to_tell(world: SimWorld) -> None:
    first, second = world.nodes
    (task,) = (await submit(world, first, world.spec())).ids
    world.crash(first)
    await world.until("it has noticed", lambda: leader_known_to(world, second) is None)
    for request in (ask.NamesQuery(), ask.LogQuery(id=task), ask.CancelBatch(batch="a"), ask.RetryFailed()):
        with pytest.raises(NoLeader):
            await call(world, second, request)


# -- logs --------------------------------------------------------------------------------------------------


@story(3, slots=1)
async def test_what_a_task_printed_is_read_from_the_node_that_ran_it(world: SimWorld) -> None:
    tasks = [(await submit(world, world.nodes[0], world.spec())).ids[0] for _ in range(6)]
    workers = set()
    for task in tasks:
        shown = await view(world, world.nodes[1], task, wait_s=30.0)
        assert shown.worker is not None
        workers.add(shown.worker)
        text = world.machines[shown.worker].printed[task]
        for node in world.nodes:
            part = await log(world, node, task[-12:])
            assert part == Log(task=task, node=shown.worker, text=text, next=len(text))
            began = world.loop.time()
            assert await log(world, node, task, part.next, 60.0) == replace(part, text=b"", ended=True)
            assert world.loop.time() - began < 0.5, "of a finished task nothing more is waited for"
            assert (await log(world, node, task, 3)).text == text[3:]
    assert len(workers) > 1
    with pytest.raises(NotFound):
        await log(world, world.nodes[0], "f" * 32)


@story(2, slots=1)
async def test_a_log_is_followed_as_it_grows_and_to_its_end(world: SimWorld) -> None:
    first, second = world.nodes
    await call(world, first, ask.Drain())
    (task,) = (await submit(world, first, world.spec("steps", not_before_ms=0))).ids
    text, after = b"", 0
    parts = 0
    while True:
        part = await log(world, first, task, after, 30.0)
        text, after, parts = text + part.text, part.next, parts + 1
        if part.ended:
            break
    assert text == world.machines[second].printed[task]
    assert text.count(b"step") == 4 and text.endswith(b"done\n")
    assert parts >= 6, "each as soon as it is there"
    assert (await view(world, first, task)).state == "done"


@story(1)
async def test_of_a_task_that_did_not_begin_there_is_nothing_to_read_yet(world: SimWorld) -> None:
    (node,) = world.nodes
    (task,) = (await submit(world, node, world.spec(not_before_ms=1 << 50))).ids
    began = world.loop.time()
    assert await log(world, node, task, 0, 3.0) == Log(task=task, node="", text=b"", next=0)
    assert 3.0 <= world.loop.time() - began < 3.5
    following = begin(world, node, lambda found: found.gateway.call(ask.LogQuery(id=task, wait_s=60.0)))
    await asyncio.sleep(1.0)
    await call(world, node, ask.Cancel(id=task))
    assert await of(following) == Log(task=task, node="", text=b"", next=0, ended=True)
    assert world.loop.time() - began < 6.0


@story(3, slots=1)
async def test_of_a_node_that_is_gone_the_log_says_which_it_is(world: SimWorld) -> None:
    first, second, third = world.nodes
    for node in (first, second):
        await call(world, node, ask.Drain())
    (task,) = (await submit(world, first, world.spec())).ids
    shown = await view(world, first, task, wait_s=30.0)
    assert shown.worker == third
    world.crash(third)
    await asyncio.sleep(1.0)
    why = rf"what task {task} printed is kept by {world.name(third)} \({third[-8:]}\), which does not answer"
    with pytest.raises(NotFound, match=why):
        await log(world, second, task)
    world.start(third)
    await world.until("it is back", lambda: leader_known_to(world, third) == first)
    await asyncio.sleep(5.0)
    assert (await log(world, second, task)).text == world.machines[third].printed[task]


@story(3, slots=1)
async def test_another_attempt_elsewhere_has_a_log_of_its_own(world: SimWorld) -> None:
    first, second, third = world.nodes
    await call(world, first, ask.Drain())
    await call(world, second, ask.Drain())
    (task,) = (await submit(world, first, world.spec("hang"))).ids
    while not (part := await log(world, first, task, 0, 10.0)).text:
        pass
    assert part.node == third
    following = begin(world, second, lambda node: node.gateway.call(ask.LogQuery(id=task, after=part.next, wait_s=50)))
    await asyncio.sleep(1.0)
    world.crash(third)
    await call(world, second, ask.Drain(resume=True))
    again = await of(following)
    assert isinstance(again, Log)
    assert again.node == second


@story(2, slots=1)
async def test_between_two_attempts_the_last_one_is_read(world: SimWorld) -> None:
    first, second = world.nodes
    await call(world, first, ask.Drain())
    await asyncio.sleep(world.machines[first].config.get_wait_s + 1.0)  # what it asked for before is over
    (task,) = (await submit(world, first, world.spec("fail", retries=2, backoff_s=20.0))).ids

    async def failed(times: int) -> None:
        while (await view(world, first, task)).failures < times:
            await asyncio.sleep(0.1)

    await failed(1)
    await call(world, first, ask.Drain(resume=True))
    await call(world, first, ask.Drain(node=second))
    await failed(2)
    shown = await view(world, second, task)
    assert (shown.state, shown.worker) == ("pending", None)
    part = await log(world, second, task)
    assert (part.node, part.text, part.ended) == (first, world.machines[first].printed[task], False)
    assert part.text.endswith(b"failed\n")


# -- drained -----------------------------------------------------------------------------------------------


@story(3, slots=1)
async def test_a_drained_node_works_no_more_and_a_restart_does_not_change_that(world: SimWorld) -> None:
    first, second, third = world.nodes
    await call(world, second, ask.Drain(node=world.name(third)))
    await call(world, second, ask.Drain(node=world.name(third)))
    world.crash(third)
    world.start(third)
    await world.until("it is back", lambda: leader_known_to(world, third) == first)
    await asyncio.sleep(3.0)
    assert await drained(world, first) == {first: False, second: False, third: True}
    assert (await drained(world, second))[third]
    world.runs.clear()
    ids = (await submit(world, third, *(world.spec() for _ in range(8)))).ids
    for task in ids:
        assert (await view(world, first, task, wait_s=60.0)).state == "done"
    assert {name for _, name, _ in world.runs} == {"n0", "n1"}
    await call(world, third, ask.Drain(resume=True))
    await asyncio.sleep(2.0)
    assert not any((await drained(world, first)).values())
    for task in (await submit(world, third, *(world.spec("slow") for _ in range(8)))).ids:
        await view(world, first, task, wait_s=60.0)
    assert {name for _, name, _ in world.runs} == {"n0", "n1", "n2"}


@story(2, slots=1)
async def test_with_all_nodes_drained_what_is_submitted_waits_and_says_so(world: SimWorld) -> None:
    first, second = world.nodes
    for node in world.nodes:
        await call(world, first, ask.Drain(node=node))
    await asyncio.sleep(2.0)
    (task,) = (await submit(world, second, world.spec())).ids
    await asyncio.sleep(3.0)
    told = await call(world, second, ask.TaskStoryQuery(id=task))
    assert told.waits == "every worker that knows work is drained: n0, n1; see `meshq resume`"
    assert (await view(world, second, task)).state == "pending"
    await call(world, second, ask.Drain(node=first[-8:], resume=True))
    assert (await view(world, second, task, wait_s=30.0)).worker == first


@story(3, slots=1)
async def test_a_node_that_is_not_there_is_not_drained(world: SimWorld) -> None:
    first, second, third = world.nodes
    with pytest.raises(NotFound, match="no node is called 'n9'; known are n0"):
        await call(world, second, ask.Drain(node="n9"))
    world.crash(third)
    await asyncio.sleep(3.0)
    for resume, what in ((False, "drained"), (True, "resumed")):
        with pytest.raises(Unreachable, match=rf"n2 \({third[-8:]}\) does not answer, and can't be {what} now"):
            await call(world, second, ask.Drain(node="n2", resume=resume))
    assert await drained(world, first) == dict.fromkeys(world.nodes, False)


@story(2)
async def test_what_is_for_another_node_or_of_a_version_to_come_is_refused_by_name(world: SimWorld) -> None:
    first, second = world.nodes

    async def says(request: str, body: bytes, owner: str = "") -> CallAnswer:
        message = Call(request=request, body=body, owner=owner)
        answer: CallAnswer = await of(
            begin(world, first, lambda _: world.network.hosts[first].request(second, message, timeout_s=2.0))
        )
        return answer

    with pytest.raises(NotFound, match=f"this is n1 .*, not '{first}'"):
        await says("Drain", codec.encode_body(ask.Drain(node=first)))
    with pytest.raises(Malformed, match="'Dance' is no message that this version of meshq knows"):
        await says("Dance", b"\x80")
    # Only who has the key may ask a node on the spot.
    for request in (ask.Drain(node=second), ask.LogHere(id="a" * 32)):
        with pytest.raises(NoLeader):
            await says(type(request).__name__, codec.encode_body(request), "bob")
    answer = await says("LogHere", codec.encode_body(ask.LogHere(id="a" * 32, after=7)))
    assert answer.answer == "Log"
    assert not running(world, second).agent.drained
