"""The pool with real children: what comes in comes out, once each and in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshq.core.requests import Job
from meshq.errors import InvariantBroken
from meshq.wire.values import unpack
from tests.unit.worker_desk import error, lines, opened, until

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
