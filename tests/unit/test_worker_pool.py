"""The pool with real children, which are killed, hang, lie and die as users' code does."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshq.core.limits import ERROR_BYTES_MAX
from meshq.core.requests import Job, Outcome
from meshq.errors import ConfigError, InvariantBroken, Stopping
from meshq.wire.values import pack_arguments, unpack
from meshq.worker.pool import ChildPool

TASKS = '''
import asyncio, os, re, signal, subprocess, sys, threading, time
from meshq import task

@task
def note(path, text):
    with open(path, "a") as file:
        file.write(text + chr(10))
    return text

@task
def sleep(duration_s, path=None):
    if path:
        with open(path, "a") as file:
            file.write(f"{os.getpid()}{chr(10)}")
    time.sleep(duration_s)
    return duration_s

@task
def waits_for(path):
    """Short, unless the file is not there."""
    while not os.path.exists(path):
        time.sleep(0.005)

@task
def raises(kind, text):
    raise {"ValueError": ValueError, "KeyError": KeyError, "SystemExit": sys.exit, "KeyboardInterrupt":
           KeyboardInterrupt}[kind](text)

class Rude(Exception):
    def __str__(self):
        raise RuntimeError("no")

@task
def rude():
    raise Rude()

@task
def endless_text():
    raise ValueError("x" * 1_000_000)

@task
def returns_object():
    return {"inside": [object()]}

class Odd(dict):
    def items(self):
        raise RuntimeError("odd")
    keys = values = __iter__ = items

@task
def returns_odd():
    return Odd(a=1)

@task
def returns_bytes(size):
    return b"x" * size

@task
async def later(value):
    await asyncio.sleep(0)
    return value

@task
def exits(code):
    os._exit(code)

@task
def kills_itself():
    os.kill(os.getpid(), signal.SIGKILL)

@task
def prints():
    print("to stdout")
    print("to stderr", file=sys.stderr)
    os.write(1, b"raw bytes " * 1000)
    return sys.stdin.read()

@task
def forks():
    if os.fork() == 0:
        return "the copy"
    os.wait()
    return "the original"

@task
def stubborn(path):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    process = subprocess.Popen(["sleep", "600"])
    with open(path, "w") as file:
        file.write(f"{os.getpid()} {process.pid} ")
    time.sleep(600)

@task
def tells_late():
    def late(*_):
        raise RuntimeError("woken by SIGTERM")
    signal.signal(signal.SIGTERM, late)
    time.sleep(600)

@task
def holds_the_lock():
    re.match(r"(a+)+$", "a" * 60 + "b")

@task
def environment(name):
    return os.environ.get(name)

@task
def group():
    return [os.getpid(), os.getpgrp(), os.getsid(0)]
'''

Events = list[tuple[str, str]]


class Desk:
    """A running pool, and all outcomes that it gave, by task."""

    def __init__(self, pool: ChildPool, events: Events) -> None:
        self.pool, self.events = pool, events
        self.given: list[Outcome] = []
        self._count = 0

    def job(self, name: str, *args: Any, timeout_s: float | None = None, **kwargs: Any) -> Job:
        self._count += 1
        return Job(
            id=f"{self._count:032x}", name=name, epoch=7, attempt=2,
            payload=pack_arguments(args, kwargs), timeout_s=timeout_s,
        )  # fmt: skip

    async def ended(self, *jobs: Job) -> list[Outcome]:
        """The outcomes of these, in their order."""
        wanted = [job.id for job in jobs]
        while not set(wanted) <= {outcome.task for outcome in self.given}:
            self.given += await self.pool.outcomes()
        by_task = {outcome.task: outcome for outcome in self.given}
        assert len(by_task) == len(self.given), "two outcomes of one run"
        return [by_task[task] for task in wanted]

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Outcome:
        job = self.job(name, *args, **kwargs)
        self.pool.put([job])
        return (await self.ended(job))[0]


@asynccontextmanager
async def opened(tmp_path: Path, slots: int = 2, **settings: Any) -> AsyncIterator[Desk]:
    module = tmp_path / "pool_tasks.py"
    module.write_text(TASKS)
    events: Events = []
    pool = ChildPool(slots, [str(module)], on_event=lambda name, text: events.append((name, text)), **settings)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(pool.run())
        await pool.start()
        try:
            yield Desk(pool, events)
        finally:
            await pool.close(0.0)


def error(outcome: Outcome) -> dict[str, str]:
    assert outcome.error is not None
    assert len(outcome.error) <= ERROR_BYTES_MAX
    body: dict[str, str] = unpack(outcome.error)
    assert set(body) == {"type", "message", "traceback"}
    return body


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.005)


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


# -- what a run gives ------------------------------------------------------------------------------------------


async def test_start_tells_the_tasks_and_a_run_gives_its_result(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        infos = {info.name: info for info in await desk.pool.start()}
        assert {"primes", "compute", "echo", "note"} <= set(infos)
        assert [param.choices for param in infos["primes"].params] == [(), ("sieve", "trial_division")]
        outcome = await desk.call("primes", 100)
        assert (outcome.kind, outcome.epoch, outcome.attempt, outcome.final) == ("done", 7, 2, False)
        assert outcome.result is not None
        assert unpack(outcome.result)["count"] == 25
        assert 0 < outcome.run_s < 5


async def test_values_keep_their_types_and_async_functions_run(tmp_path: Path) -> None:
    value = [(1, 2), {3}, b"x", 10**50, {"a": None}]
    async with opened(tmp_path) as desk:
        for name in ("echo", "later"):
            outcome = await desk.call(name, value)
            assert outcome.result is not None
            assert unpack(outcome.result) == value


async def test_the_limit_of_primes_is_passed_on(tmp_path: Path) -> None:
    async with opened(tmp_path, primes_max_limit=50) as desk:
        assert "from 1 to 50, not 51" in error(await desk.call("primes", 51))["message"]


@pytest.mark.parametrize(
    ("name", "args", "kind", "message"),
    [
        ("raises", ("ValueError", "bad luck"), "ValueError", "bad luck"),
        ("raises", ("KeyError", "k"), "KeyError", "'k'"),
        ("raises", ("ValueError", ""), "ValueError", "ValueError"),
        ("raises", ("SystemExit", "3"), "SystemExit", "the task called sys.exit('3')"),
        ("raises", ("KeyboardInterrupt", "x"), "KeyboardInterrupt", "the task was interrupted (KeyboardInterrupt)"),
        ("rude", (), "pool_tasks.Rude", "a Rude whose text can't be shown: its str() raised RuntimeError"),
        ("sleep", ("a", "b", "c"), "TypeError", "takes from 1 to 2 positional arguments but 3 were given"),
        ("primes", (0,), "ValueError", "limit must be from 1 to 100000000, not 0"),
        ("never_heard_of", (), "UnknownTask", "no task is called never_heard_of here"),
    ],
)
async def test_failures_that_may_be_tried_again(
    tmp_path: Path, name: str, args: tuple[Any, ...], kind: str, message: str
) -> None:
    async with opened(tmp_path, 1) as desk:
        outcome = await desk.call(name, *args)
        assert (outcome.kind, outcome.final, outcome.result) == ("failed", False, None)
        assert error(outcome)["type"] == kind
        assert message in error(outcome)["message"]
        assert "meshq/worker" not in error(outcome)["traceback"]
        assert (await desk.call("echo", 1)).kind == "done"
        assert desk.events == []


async def test_an_error_of_any_length_is_kept_short(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        assert "characters left out" in error(await desk.call("endless_text"))["message"]


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("returns_object", (), "its result is lost: result['inside'][0]: a value of type object can't be sent"),
        ("returns_odd", (), "its result is lost"),
        ("returns_bytes", (2000,), "it takes 2003 bytes, and 2000 are allowed (result_bytes_max)"),
    ],
)
async def test_results_that_can_not_be_kept_fail_the_task_for_good(
    tmp_path: Path, name: str, args: tuple[Any, ...], message: str
) -> None:
    async with opened(tmp_path, 1, result_bytes_max=2000) as desk:
        outcome = await desk.call(name, *args)
        assert (outcome.kind, outcome.final) == ("failed", True)
        assert message in error(outcome)["message"]
        assert (await desk.call("returns_bytes", 1990)).kind == "done"


async def test_a_payload_that_is_none(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        job = Job(id="0" * 32, name="echo", epoch=1, attempt=1, payload=b"\xc1")
        desk.pool.put([job])
        (outcome,) = await desk.ended(job)
        assert (outcome.kind, outcome.final) == ("failed", True)
        assert "the arguments can't be read" in error(outcome)["message"]


async def test_large_values_pass_both_ways(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        value = b"x" * 5_000_000
        outcome = await desk.call("echo", value)
        assert outcome.result is not None
        assert unpack(outcome.result) == value


async def test_what_a_task_prints_and_forks_disturbs_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with opened(tmp_path, 1) as desk:
        outcome = await desk.call("prints")
        assert outcome.result is not None
        assert unpack(outcome.result) == ""
        outcome = await desk.call("forks")
        assert outcome.result is not None
        assert unpack(outcome.result) == "the original"
        assert (await desk.call("echo", 1)).kind == "done"
        assert desk.events == []
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "to stdout\n" in captured.err
    assert "to stderr\n" in captured.err


# -- order, frames -----------------------------------------------------------------------------------------------


async def test_many_runs_give_one_outcome_each_and_start_in_order(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        path = tmp_path / "notes"
        jobs = [desk.job("note", str(path), str(number)) for number in range(2000)]
        desk.pool.put(jobs)
        assert desk.pool.held() == tuple(jobs)
        outcomes = await desk.ended(*jobs)
        assert {outcome.kind for outcome in outcomes} == {"done"}
        assert lines(path) == [str(number) for number in range(2000)]
        assert desk.pool.held() == ()


async def test_free_and_running(tmp_path: Path) -> None:
    async with opened(tmp_path, 2) as desk:
        await until(lambda: desk.pool.free() == 2)
        gate = tmp_path / "gate"
        jobs = [desk.job("waits_for", str(gate)) for _ in range(3)]
        desk.pool.put(jobs[:1])
        assert (desk.pool.free(), desk.pool.running(), desk.pool.slots) == (1, 1, 2)
        desk.pool.put(jobs[1:])
        assert (desk.pool.free(), desk.pool.running()) == (0, 2)
        gate.touch()
        await desk.ended(*jobs)
        assert (desk.pool.free(), desk.pool.running()) == (2, 0)


async def test_a_run_that_is_longer_than_its_name_promised_bars_nobody(tmp_path: Path) -> None:
    """Short ones before it in its frame are handed in, those behind it go to another child."""
    async with opened(tmp_path, 2) as desk:
        open_gate, shut_gate = tmp_path / "open", tmp_path / "shut"
        open_gate.touch()
        for _ in range(30):  # so that the name counts as short
            await desk.call("waits_for", str(open_gate))
        gates = [open_gate] * 40
        gates[10] = shut_gate
        jobs = [desk.job("waits_for", str(gate)) for gate in gates]
        desk.pool.put(jobs)
        await desk.ended(*jobs[:10], *jobs[11:])
        assert desk.pool.held() == (jobs[10],)
        shut_gate.touch()
        await desk.ended(jobs[10])


async def test_the_same_task_twice_is_a_mistake(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        job = desk.job("sleep", 600)
        desk.pool.put([job])
        with pytest.raises(InvariantBroken):
            desk.pool.put([job])


# -- death -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("exits", (3,), "the child that ran it died: exit code 3"),
        ("exits", (0,), "the child that ran it died: exit code 0"),
        ("kills_itself", (), "the child that ran it died: killed by signal 9 (SIGKILL)"),
    ],
)
async def test_a_child_that_dies_costs_its_run_one_attempt_and_nothing_else(
    tmp_path: Path, name: str, args: tuple[Any, ...], words: str
) -> None:
    async with opened(tmp_path, 1) as desk:
        jobs = [desk.job("echo", number) for number in range(5)]
        jobs.insert(2, desk.job(name, *args))
        desk.pool.put(jobs)
        outcomes = await desk.ended(*jobs)
        assert [outcome.kind for outcome in outcomes] == ["done", "done", "crashed", "done", "done", "done"]
        assert error(outcomes[2])["message"] == words
        assert [event for event, _ in desk.events] == ["child_died"]


async def test_kill_9_from_outside(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        pids = tmp_path / "pids"
        job = desk.job("sleep", 600, str(pids))
        desk.pool.put([job, desk.job("echo", 1)])
        await until(lambda: lines(pids))
        os.kill(int(lines(pids)[0]), signal.SIGKILL)
        (outcome,) = await desk.ended(job)
        assert outcome.kind == "crashed"
        assert "SIGKILL" in error(outcome)["message"]
        assert (await desk.call("echo", 1)).kind == "done"


async def test_an_idle_child_that_is_killed_is_replaced(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        for _ in range(3):
            outcome = await desk.call("group")
            assert outcome.result is not None
            pid, group, session = unpack(outcome.result)
            assert pid == group == session != os.getpid()
            os.kill(pid, signal.SIGKILL)
        assert (await desk.call("echo", 1)).kind == "done"
        assert {outcome.kind for outcome in desk.given} == {"done"}


async def test_in_a_frame_only_the_run_that_was_running_is_charged(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        gate, notes = tmp_path / "gate", tmp_path / "notes"
        gate.touch()
        for _ in range(30):
            await desk.call("note", str(notes), "x")
            await desk.call("waits_for", str(gate))
        outcome = await desk.call("group")
        assert outcome.result is not None
        pid = unpack(outcome.result)[0]
        gate.unlink()
        notes.unlink()
        jobs = [desk.job("note", str(notes), str(number)) for number in range(60)]
        jobs.insert(30, desk.job("waits_for", str(gate)))
        desk.pool.put(jobs)
        await until(lambda: len(lines(notes)) >= 30)
        os.kill(pid, signal.SIGKILL)
        outcomes = await desk.ended(*jobs)
        assert [outcome.kind for outcome in outcomes] == ["done"] * 30 + ["crashed"] + ["done"] * 30


async def test_children_that_die_with_many_runs_waiting_lose_none(tmp_path: Path) -> None:
    async with opened(tmp_path, 2) as desk:
        await desk.call("echo", 1)
        jobs = [desk.job("exits", 1) if number % 60 == 30 else desk.job("echo", number) for number in range(400)]
        desk.pool.put(jobs)
        outcomes = await desk.ended(*jobs)
        assert [outcome.kind for outcome in outcomes] == [
            "crashed" if number % 60 == 30 else "done" for number in range(400)
        ]


# -- time limits, kill ---------------------------------------------------------------------------------------------


async def test_a_time_limit_fails_the_run_and_only_this_one(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        jobs = [desk.job("sleep", 600, timeout_s=0.1), desk.job("echo", 1), desk.job("sleep", 0.01, timeout_s=20.0)]
        desk.pool.put(jobs)
        outcomes = await desk.ended(*jobs)
        assert [(outcome.kind, outcome.final) for outcome in outcomes] == [
            ("failed", False), ("done", False), ("done", False),
        ]  # fmt: skip
        assert error(outcomes[0])["message"] == "timed out after 0.1 s"
        assert [event for event, _ in desk.events] == ["timed_out"]


async def test_a_time_limit_wins_over_what_the_task_says_when_it_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        outcome = await desk.call("tells_late", timeout_s=0.1)
        assert error(outcome)["message"] == "timed out after 0.1 s"
        assert (await desk.call("echo", 1)).kind == "done"


async def test_a_time_limit_ends_those_who_ignore_sigterm_and_what_they_started(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        path = tmp_path / "pids"
        outcome = await desk.call("stubborn", str(path), timeout_s=0.5)
        assert error(outcome)["message"] == "timed out after 0.5 s"
        for pid in map(int, lines(path)):
            await until(lambda pid=pid: not lives(pid))


async def test_kill_ends_a_run_at_once_and_gives_no_outcome(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        path = tmp_path / "pids"
        running, waiting, last = desk.job("stubborn", str(path)), desk.job("echo", 1), desk.job("echo", 2)
        desk.pool.put([running, waiting, last])
        await until(lambda: len(lines(path)) == 2)
        desk.pool.kill([running.id, waiting.id, "f" * 32])
        assert desk.pool.held() == (last,)
        await desk.ended(last)
        assert [outcome.task for outcome in desk.given] == [last.id]
        for pid in map(int, lines(path)):
            await until(lambda pid=pid: not lives(pid))
        assert desk.events == []


async def test_a_killed_task_may_come_again_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        path = tmp_path / "pids"
        job = desk.job("sleep", 0.2, str(path))
        desk.pool.put([job])
        await until(lambda: lines(path))
        desk.pool.kill([job.id])
        desk.pool.put([job])
        (outcome,) = await desk.ended(job)
        assert outcome.kind == "done"
        assert len(lines(path)) == 2


async def test_a_kill_inside_a_frame_costs_the_others_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        gate = tmp_path / "gate"
        gate.touch()
        for _ in range(30):
            await desk.call("waits_for", str(gate))
            await desk.call("echo", 0)
        gate.unlink()
        jobs = [desk.job("waits_for", str(gate)), *(desk.job("echo", number) for number in range(20))]
        desk.pool.put(jobs)
        desk.pool.kill([jobs[0].id])
        outcomes = await desk.ended(*jobs[1:])
        assert {outcome.kind for outcome in outcomes} == {"done"}


async def test_a_task_that_holds_the_interpreter_can_be_killed(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        assert error(await desk.call("holds_the_lock", timeout_s=0.3))["message"] == "timed out after 0.3 s"


# -- start and stop --------------------------------------------------------------------------------------------------


async def test_close_releases_what_is_unbegun_and_lets_the_rest_end(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        path = tmp_path / "pids"
        jobs = [desk.job("sleep", 0.3, str(path)), desk.job("echo", 1), desk.job("echo", 2)]
        desk.pool.put(jobs)
        await until(lambda: lines(path))
        await desk.pool.close(10.0)
        late = desk.job("echo", 3)
        desk.pool.put([late])
        outcomes = await desk.ended(*jobs, late)
        assert [outcome.kind for outcome in outcomes] == ["done", "released", "released", "released"]
        assert desk.pool.held() == ()


async def test_close_kills_what_does_not_end_in_time(tmp_path: Path) -> None:
    async with opened(tmp_path, 2) as desk:
        path = tmp_path / "pids"
        job = desk.job("stubborn", str(path))
        desk.pool.put([job])
        await until(lambda: len(lines(path)) == 2)
        await desk.pool.close(0.1)
        (outcome,) = await desk.ended(job)
        assert (outcome.kind, outcome.error) == ("released", None)
        assert desk.pool.running() == 0
        for pid in map(int, lines(path)):
            await until(lambda pid=pid: not lives(pid))


async def test_a_cancelled_pool_ends_its_children_and_releases_its_runs(tmp_path: Path) -> None:
    pool, pids = ChildPool(1, [str(tmp_path / "pool_tasks.py")]), tmp_path / "pids"
    (tmp_path / "pool_tasks.py").write_text(TASKS)
    job = Desk(pool, []).job("stubborn", str(pids))
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        running = group.create_task(pool.run())
        await pool.start()
        pool.put([job])
        await until(lambda: len(lines(pids)) == 2)
        running.cancel()
    assert [outcome.kind for outcome in await pool.outcomes()] == ["released"]
    assert not any(lives(int(pid)) for pid in lines(pids))


async def test_no_slots() -> None:
    pool = ChildPool(0)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(pool.run())
        assert await pool.start() == ()
        assert (pool.slots, pool.free(), pool.running()) == (0, 0, 0)
        await pool.close(1.0)


async def started(pool: ChildPool) -> None:
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(pool.run())
        await pool.start()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_module\n", ["broken.py can't be loaded", "Traceback", "No module named 'no_such_module'"]),
        ("import os\nos._exit(5)\n", ["die while they load the tasks: exit code 5"]),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", ["killed by signal 11 (SIGSEGV)"]),
    ],
)
async def test_a_module_that_fails_to_load_stops_the_start(tmp_path: Path, source: str, words: list[str]) -> None:
    (tmp_path / "broken.py").write_text(source)
    with pytest.raises(ExceptionGroup) as caught:
        await started(ChildPool(2, [str(tmp_path / "broken.py")], on_event=lambda name, text: None))
    (failure,) = caught.value.exceptions
    assert isinstance(failure, ConfigError)
    for word in words:
        assert word in failure.message


async def test_a_pool_that_is_closed_while_it_starts() -> None:
    pool = ChildPool(1)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(pool.run())
        await asyncio.sleep(0)
        await pool.close(0.0)
        with pytest.raises(Stopping):
            await pool.start()


async def test_a_cancelled_wait_for_outcomes_loses_none(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        jobs = [desk.job("echo", number) for number in range(300)]
        desk.pool.put(jobs)
        while len(desk.given) < 300:
            waiting: Awaitable[list[Outcome]] = desk.pool.outcomes()
            try:
                async with asyncio.timeout(0.0002):
                    desk.given += await waiting
            except TimeoutError:
                pass
        await desk.ended(*jobs)
