"""The judge of the fault tests can say guilty: a made-up history with each kind of violation, and one without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cluster.history import Acknowledged, Final, History, Run, Shown, Told, Unclear, judge, longest_gap, read_runs


def acknowledged(task: str, at_s: float = 0.0, *, majority: bool = True, queued: bool = False) -> Acknowledged:
    return Acknowledged(at_s=at_s, node="a", task=task, copies=2 if majority else 1, majority=majority, queued=queued)


def shown(task: str, token: str, *, majority: bool = True) -> Shown:
    return Shown(at_s=0.0, node="a", task=task, state="done", outcome=[task, token], majority=majority)


def done(task: str, token: str) -> Final:
    return Final(state="done", outcome=[task, token])


def run(task: str, token: str, *, ended: bool = True) -> Run:
    return Run(task=task, token=token, ended=ended)


SOUND: list[Told] = [
    Unclear(at_s=0.0, node="b", task="1", why="TimeoutError"),
    acknowledged("1", 0.0),
    acknowledged("2", 2.5, majority=False, queued=True),
    acknowledged("3", 3.0, majority=False),
    acknowledged("4", 4.0),
    Unclear(at_s=5.0, node="b", task="5", why="TimeoutError"),
    Unclear(at_s=5.0, node="b", task="6", why="TimeoutError"),
    Shown(at_s=1.0, node="a", task="1", state="running"),
    shown("1", "x"),
    shown("3", "x", majority=False),
    Shown(at_s=1.0, node="a", task="4", state="cancelled"),
]
ENDS = {
    "1": done("1", "x"),
    "2": done("2", "y"),
    "3": done("3", "y"),
    "4": Final(state="cancelled"),
    "5": done("5", "x"),
}
RUNS = [
    run("1", "x"),
    run("2", "x", ended=False),
    run("2", "y"),
    run("3", "x"),
    run("3", "y"),
    run("5", "x"),
]


def test_a_sound_history_is_sound() -> None:
    verdict = judge(SOUND, ENDS, RUNS)
    verdict.check()
    assert (verdict.acknowledged, verdict.alone, verdict.queued, verdict.finished) == (4, 1, 1, 5)
    assert (verdict.repeated, verdict.unclear) == (1, 2)
    assert (verdict.run_twice, verdict.replaced) == (("2", "3"), ("3",))
    assert verdict.figures() == (
        "acknowledged 4 (without a majority 1, queued 1), repeated 1, unclear 2, finished 5, lost 0, run twice 2, "
        "changed 0, replaced 1, without an acknowledgement for at most 4.0 s"
    )


@pytest.mark.parametrize(
    ("kind", "task", "told", "end"),
    [
        ("lost", "7", [acknowledged("7")], None),
        ("lost", "7", [acknowledged("7", majority=False)], None),
        ("lost", "7", [acknowledged("7", majority=False, queued=True)], None),
        ("unfinished", "7", [acknowledged("7")], Final(state="running")),
        ("changed", "1", [shown("1", "other")], done("1", "x")),
        ("changed", "4", [Shown(at_s=0.0, node="a", task="4", state="done", outcome=["4", "x"])], ENDS["4"]),
        ("changed", "2", [shown("2", "y")], Final(state="pending")),
        ("unasked", "7", [], Final(state="cancelled")),
        ("not run", "1", [], done("1", "other")),
        ("not run", "2", [], done("2", "x")),
        ("failed", "1", [], Final(state="failed", outcome={"type": "NodeLost"})),
    ],
)  # fmt: skip
def test_each_violation_is_found(kind: str, task: str, told: Sequence[Told], end: Final | None) -> None:
    ends = ENDS | ({task: end} if end is not None else {})
    verdict = judge([*SOUND, *told], ends, RUNS)
    assert task in verdict.broken[kind], verdict
    with pytest.raises(AssertionError, match=rf"(?s){kind} 1.*{kind}: 1 tasks\n  {task}, at the end"):
        verdict.check()


def test_a_shown_task_that_is_gone_is_changed_and_lost() -> None:
    ends = {task: end for task, end in ENDS.items() if task != "1"}
    assert judge(SOUND, ends, RUNS).broken == {"lost": ("1",), "changed": ("1",)}


def test_a_run_counts_however_it_ended() -> None:
    verdict = judge([acknowledged("1")], {"1": done("1", "x")}, [run("1", "x"), run("1", "y", ended=False)])
    assert verdict.run_twice == ("1",)


def test_notes_and_history_are_read_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("start 1 x\nstart 2 y\nend 1 x\n")
    assert read_runs(tmp_path / "runs") == [run("1", "x"), run("2", "y", ended=False)]
    assert read_runs(tmp_path / "nobody ran") == []
    history = History(tmp_path / "history")
    history.add(*SOUND)
    assert history.told() == SOUND
    assert len((tmp_path / "history").read_text().splitlines()) == len(SOUND)


def test_the_longest_gap() -> None:
    assert longest_gap([5.0, 1.0, 2.0]) == 3.0
    assert longest_gap([1.0]) == 0.0
