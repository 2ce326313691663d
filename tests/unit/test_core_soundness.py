"""Which machine is paused because children die there, and which task has itself to blame."""

from __future__ import annotations

import pytest

from meshq.core.soundness import MACHINES_MAX, NAMES_MAX, STREAK_MAX, TASKS_MAX, Soundness

PAUSE_S = 600.0
KNOWS = {"good": ("work", "other"), "third": ("work",)}


def rules(crashes_max: int = 3) -> Soundness:
    return Soundness(crashes_max, PAUSE_S, name_of=lambda node: f"<{node}>")


def crashes(
    soundness: Soundness, node: str, *tasks: str, name: str = "work", now: float = 10.0, boot: str = "1"
) -> None:
    for task in tasks:
        soundness.on_crash(node, boot, task, name, now)


def paused_for_work() -> Soundness:
    """`bad` is paused at 10, for three tasks that crashed there, while `work` passed on `good`."""
    soundness = rules()
    crashes(soundness, "bad", "a", "b", "c")
    soundness.on_done("good", "1", "z", "work", 10.0)
    assert soundness.paused("bad", "1", 10.0)
    return soundness


# -- pauses ------------------------------------------------------------------------------------------------


def test_the_reason_names_the_tasks_and_what_passed_where() -> None:
    soundness = rules()
    soundness.on_crash("bad", "1", "0" * 31 + "a", "work", 1.0)
    soundness.on_crash("bad", "1", "0" * 31 + "b", "other", 2.0)
    soundness.on_done("good", "1", "z", "work", 3.0)
    assert soundness.paused("bad", "1", 3.0) == ""
    soundness.on_crash("bad", "1", "0" * 31 + "c", "third", 4.0)
    assert soundness.paused("bad", "1", 14.0) == (
        "3 different tasks crashed here one after the other (work 0000000a, other 0000000b, third 0000000c), while"
        " work passed on <good>; no work for 590 s more, unless its daemon starts anew"
    )
    assert soundness.paused("good", "1", 14.0) == ""


def test_what_passes_later_pauses_too() -> None:
    soundness = rules()
    crashes(soundness, "bad", "a", "b", "c", now=10.0)
    assert soundness.paused("bad", "1", 11.0) == ""
    soundness.on_done("good", "1", "z", "work", 11.0)
    assert soundness.paused("bad", "1", 11.0)


def test_one_of_these_tasks_itself_may_be_what_passes() -> None:
    soundness = rules()
    crashes(soundness, "bad", "a", "b", "c")
    soundness.on_done("good", "1", "b", "work", 11.0)
    assert soundness.paused("bad", "1", 11.0)


@pytest.mark.parametrize(
    ("node", "name", "at"),
    [("bad", "work", 11.0), ("good", "another", 11.0), ("good", "", 11.0), ("good", "work", 9.0)],
    ids=["there too", "another name", "no name", "earlier"],
)
def test_what_speaks_not_against_a_machine(node: str, name: str, at: float) -> None:
    soundness = rules()
    crashes(soundness, "third", "y", now=1.0)
    if at < 10.0:
        soundness.on_done(node, "1", "z", name, at)
    crashes(soundness, "bad", "a", "b", "c", now=10.0)
    if at > 10.0:
        soundness.on_done(node, "1", "z", name, at)
    assert soundness.paused("bad", "1", 12.0) == ""


def test_a_success_between_the_crashes_begins_the_count_anew() -> None:
    soundness = rules()
    crashes(soundness, "bad", "a", "b")
    soundness.on_done("bad", "1", "x", "other", 11.0)
    crashes(soundness, "bad", "c", "d", now=12.0)
    soundness.on_done("good", "1", "z", "work", 13.0)
    assert soundness.paused("bad", "1", 13.0) == ""
    crashes(soundness, "bad", "e", now=14.0)
    assert soundness.paused("bad", "1", 14.0)


def test_the_same_task_counts_once() -> None:
    soundness = rules()
    soundness.on_crash("bad", "1", "a", "work", 1.0)
    soundness.on_done("good", "1", "z", "work", 2.0)
    for at in range(3, 9):
        soundness.on_crash("bad", "1", "a", "work", at)
    crashes(soundness, "bad", "b", now=9.0)
    assert soundness.paused("bad", "1", 9.0) == ""
    crashes(soundness, "bad", "c", now=10.0)
    assert soundness.paused("bad", "1", 10.0)


def test_only_what_passed_since_the_last_crashes_began_counts() -> None:
    soundness = rules()
    crashes(soundness, "bad", "a", now=1.0)
    soundness.on_done("good", "1", "z", "work", 2.0)
    crashes(soundness, "bad", "b", "c", "d", now=3.0)
    # From the third on: a, b and c began before `work` passed.
    assert soundness.paused("bad", "1", 3.0)
    soundness = rules()
    crashes(soundness, "bad", "a", name="other", now=1.0)
    soundness.on_done("good", "1", "z", "work", 2.0)
    crashes(soundness, "bad", "b", "c", name="third", now=3.0)
    crashes(soundness, "bad", "d", name="work", now=3.0)
    assert soundness.paused("bad", "1", 3.0) == "", "b, c and d are the last three, and work passed before them"


# -- the end of a pause ------------------------------------------------------------------------------------


def test_a_pause_ends_by_time_or_by_a_new_boot_and_not_by_a_run_that_passes() -> None:
    soundness = paused_for_work()
    soundness.on_done("bad", "1", "x", "work", 20.0)
    assert soundness.paused("bad", "1", 609.9)
    assert soundness.paused("bad", "1", 610.0) == ""
    assert soundness.paused("bad", "2", 20.0) == ""


@pytest.mark.parametrize(("boot", "at"), [("1", 611.0), ("2", 20.0)], ids=["time", "boot"])
def test_after_a_pause_one_crash_is_enough_until_one_success(boot: str, at: float) -> None:
    soundness = paused_for_work()
    crashes(soundness, "bad", "d", now=at, boot=boot)
    assert soundness.paused("bad", boot, at).startswith("a task crashed here (work d), while work passed on <good>;")
    # Then again, however often it starts.
    crashes(soundness, "bad", "e", now=at + 1, boot="3")
    assert soundness.paused("bad", "3", at + PAUSE_S)
    soundness.on_done("bad", "4", "f", "work", at + 2)
    crashes(soundness, "bad", "g", "h", now=at + 3, boot="4")
    assert soundness.paused("bad", "4", at + 3) == ""
    crashes(soundness, "bad", "i", now=at + 3, boot="4")
    assert soundness.paused("bad", "4", at + 3) == "", "nothing passed elsewhere since g"
    soundness.on_done("good", "1", "y", "work", at + 4)
    assert soundness.paused("bad", "4", at + 4)


def test_a_new_boot_ends_no_probation() -> None:
    soundness = paused_for_work()
    crashes(soundness, "bad", "d", name="passes nowhere", now=611.0)
    assert soundness.paused("bad", "1", 611.0) == ""
    crashes(soundness, "bad", "e", now=612.0, boot="2")
    assert soundness.paused("bad", "2", 612.0)


def test_what_passed_there_during_the_pause_does_not_count_as_elsewhere() -> None:
    soundness = paused_for_work()
    soundness.on_done("bad", "1", "x", "other", 20.0)
    crashes(soundness, "bad", "d", name="other", now=611.0)
    assert soundness.paused("bad", "1", 611.0) == ""


def test_a_new_boot_begins_the_count_anew() -> None:
    soundness = rules()
    crashes(soundness, "bad", "a", "b", boot="1")
    crashes(soundness, "bad", "c", "d", boot="2")
    soundness.on_done("good", "1", "z", "work", 11.0)
    assert soundness.paused("bad", "2", 11.0) == ""
    crashes(soundness, "bad", "e", boot="2", now=12.0)
    assert soundness.paused("bad", "2", 12.0)


# -- poison ------------------------------------------------------------------------------------------------


def test_a_name_that_crashes_everywhere_pauses_nobody() -> None:
    soundness = rules()
    for number in range(50):
        for node in ("bad", "good", "third"):
            crashes(soundness, node, f"p{number}", name="poison", now=float(number))
            assert [soundness.paused(each, "1", float(number)) for each in KNOWS] == ["", ""]
        soundness.forget([f"p{number}"])
    assert soundness.paused("bad", "1", 50.0) == ""


def test_tasks_that_crash_on_a_second_machine_count_against_neither_and_lift_the_pause() -> None:
    """Bad arguments to a good task: its like passes elsewhere, but these pass nowhere."""
    soundness = paused_for_work()
    crashes(soundness, "good", "a", now=12.0)
    assert soundness.paused("bad", "1", 12.0) == ""
    crashes(soundness, "good", "b", "c", now=12.0)
    soundness.on_done("third", "1", "z", "work", 13.0)
    assert soundness.paused("good", "1", 13.0) == ""
    assert soundness.paused("bad", "1", 13.0) == ""
    # Failed for good, they count no more either.
    soundness.forget(["a", "b", "c"])
    crashes(soundness, "bad", "d", "e", now=14.0)
    soundness.on_done("third", "1", "y", "work", 15.0)
    assert soundness.paused("bad", "1", 15.0) == ""
    crashes(soundness, "bad", "f", now=16.0)
    assert soundness.paused("bad", "1", 16.0)


def test_two_bad_machines_are_found_by_what_passes_on_the_third() -> None:
    soundness = rules()
    for node in ("bad", "worse"):
        crashes(soundness, node, "a", "b", "c")
    assert soundness.paused("bad", "1", 10.0) == ""
    for task in ("a", "b", "c"):
        soundness.on_done("good", "1", task, "work", 11.0)
    assert soundness.paused("bad", "1", 11.0)
    assert soundness.paused("worse", "1", 11.0)
    assert soundness.paused("good", "1", 11.0) == ""


# -- where a task that crashed is tried next ---------------------------------------------------------------


def test_a_task_that_crashed_is_tried_on_another_machine_that_knows_it_first() -> None:
    soundness = rules()
    crashes(soundness, "bad", "a")
    crashes(soundness, "bad", "o", name="other")
    assert soundness.avoided("bad", KNOWS, 11.0) == ["a", "o"]
    assert soundness.avoided("good", {"bad": ("work", "other")}, 11.0) == []
    assert soundness.avoided("bad", {"third": ("work",)}, 11.0) == ["a"], "nobody else knows the other"
    assert soundness.avoided("bad", {}, 11.0) == []
    crashes(soundness, "good", "a", now=12.0)
    assert soundness.avoided("bad", KNOWS, 12.0) == ["o", "a"], "the newest last"
    assert soundness.avoided("good", {"bad": ("work",), "third": ("work",)}, 12.0) == ["a"]
    crashes(soundness, "third", "a", now=13.0)
    assert soundness.avoided("bad", KNOWS, 13.0) == ["o"], "it crashed everywhere: any machine may try it again"


def test_it_waits_for_no_machine_that_is_paused_nor_longer_than_a_pause() -> None:
    soundness = paused_for_work()
    crashes(soundness, "good", "n", now=20.0)
    assert soundness.avoided("good", {"bad": ("work",)}, 20.0) == []
    assert soundness.avoided("good", {"bad": ("work",), "third": ("work",)}, 20.0) == ["n"]
    assert soundness.avoided("good", {"third": ("work",)}, 20.0 + PAUSE_S) == []


def test_a_task_that_is_finished_is_avoided_by_nobody() -> None:
    soundness = rules()
    crashes(soundness, "bad", "a", "b")
    soundness.on_done("good", "1", "a", "work", 11.0)
    soundness.forget(["b"])
    assert soundness.avoided("bad", KNOWS, 12.0) == []


# -- bounds ------------------------------------------------------------------------------------------------


def test_what_is_remembered_is_bounded() -> None:
    soundness = rules()
    for number in range(TASKS_MAX + 50):
        crashes(soundness, "bad", f"t{number}", name=f"n{number}")
    assert len(soundness.avoided("bad", {"good": tuple(f"n{number}" for number in range(TASKS_MAX + 50))}, 11.0)) == (
        TASKS_MAX
    )
    for number in range(NAMES_MAX + 50):
        soundness.on_done("good", "1", "z", f"m{number}", 12.0)
    for number in range(MACHINES_MAX + 50):
        crashes(soundness, f"machine{number}", *(f"u{number}", f"v{number}"), now=13.0)
    for number in range(STREAK_MAX + 50):
        crashes(soundness, "bad", f"w{number}", now=14.0)
    # Of each machine here two crashes, but of one a long streak.
    assert len(soundness) == TASKS_MAX + NAMES_MAX + 2 * (MACHINES_MAX - 1) + STREAK_MAX


def test_crashes_of_long_ago_are_forgotten_but_not_a_machines_streak() -> None:
    soundness = rules()
    crashes(soundness, "bad", "a", "b", now=10.0)
    crashes(soundness, "good", "b", now=10.0)
    crashes(soundness, "bad", "c", now=10.0 + PAUSE_S)
    # Of `bad` a and c, the task c; `good` is remembered for one that had itself to blame.
    assert len(soundness) == 2 + 1 + 1
    crashes(soundness, "bad", "d", now=11.0 + PAUSE_S)
    soundness.on_done("third", "1", "z", "work", 12.0 + PAUSE_S)
    assert soundness.paused("bad", "1", 12.0 + PAUSE_S)


def test_nothing_is_remembered_of_sound_machines() -> None:
    soundness = rules()
    crashes(soundness, "bad", "a")
    for number in range(100):
        soundness.on_done("good", "1", f"t{number}", f"n{number}", 11.0)
    soundness.on_done("bad", "1", "a", "work", 12.0)
    soundness.on_done("bad", "1", "b", "work", 13.0)
    assert len(soundness) == 0
