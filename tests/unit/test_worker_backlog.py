from __future__ import annotations

from typing import Any

import pytest

from meshq.core.requests import Job
from meshq.errors import Malformed
from meshq.worker import frames
from meshq.worker.backlog import FRAME_JOBS_MAX, Backlog, Durations, Run


def run(name: str = "short", timeout_s: float | None = None, payload: bytes = b"") -> Run:
    return Run(Job(id="0" * 32, name=name, epoch=1, attempt=1, payload=payload, timeout_s=timeout_s))


def backlog(*runs: Run, run_s: float = 0.0001) -> Backlog:
    durations = Durations()
    durations.add("short", run_s)
    durations.add("long", 1.0)
    made = Backlog(durations)
    for each in runs:
        made.add(each)
    return made


def test_short_runs_go_together_shared_among_the_slots() -> None:
    runs = [run() for _ in range(10)]
    made = backlog(*runs)
    assert made.cut(2) == runs[:5]
    assert made.cut(2) == runs[5:8]
    assert made.cut(2) == runs[8:9]
    assert made.cut(2) == runs[9:]
    assert len(made) == 0


def test_one_for_each_slot_goes_alone() -> None:
    runs = [run() for _ in range(4)]
    made = backlog(*runs)
    assert [made.cut(4) for _ in range(4)] == [[each] for each in runs]


def test_a_frame_has_its_limits() -> None:
    assert len(backlog(*(run() for _ in range(1000))).cut(1)) == FRAME_JOBS_MAX
    assert len(backlog(*(run() for _ in range(1000)), run_s=0.004).cut(1)) == 5
    assert len(backlog(*(run(payload=bytes(400_000)) for _ in range(10))).cut(1)) == 2


@pytest.mark.parametrize("other", [run("long"), run("never_ran"), run(timeout_s=5.0)])
def test_what_may_be_long_goes_alone(other: Run) -> None:
    first, last = run(), run()
    made = backlog(first, other, last)
    assert [made.cut(1), made.cut(1), made.cut(1)] == [[first], [other], [last]]


def test_what_a_dead_child_took_with_it_goes_alone() -> None:
    runs = [run(), run(), run()]
    runs[0].again = True
    made = backlog(*runs)
    assert made.cut(1) == runs[:1]
    assert made.cut(1) == runs[1:]


def test_what_comes_back_is_first_again_and_in_order() -> None:
    runs = [run() for _ in range(6)]
    made = backlog(*runs)
    back = made.cut(2)
    made.back(back)
    assert made.clear() == runs


def test_dropped_runs_are_not_cut() -> None:
    runs = [run() for _ in range(4)]
    made = backlog(*runs)
    made.drop({runs[0], runs[2]})
    assert made.cut(1) == [runs[1], runs[3]]


def test_one_long_run_is_remembered_for_a_while() -> None:
    durations = Durations()
    assert durations.get("x") is None
    durations.add("x", 1.0)
    durations.add("x", 0.001)
    assert durations.get("x") == pytest.approx(0.8)
    for _ in range(100):
        durations.add("x", 0.001)
    assert durations.get("x") == pytest.approx(0.001)


def test_frames_pass_in_any_pieces() -> None:
    messages: list[list[Any]] = [["run", [["a", b"x" * 1000]]], ["urge"], ["outcomes", [[0, 0, b"", 0.5]]]]
    stream = b"".join(frames.encode(*message) for message in messages)
    for size in (1, 3, 7, 1000, len(stream)):
        splitter = frames.Splitter()
        got = [
            message for start in range(0, len(stream), size) for message in splitter.feed(stream[start : start + size])
        ]
        assert got == messages


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\x01\xc1", b"\0\0\0\x01\xc0", b"\0\0\0\x01\x90"])
def test_garbage_is_no_frame(data: bytes) -> None:
    with pytest.raises(Malformed):
        frames.Splitter().feed(data)
