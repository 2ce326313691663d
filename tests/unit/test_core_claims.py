"""Claims: who holds a run, when it is free again, and what a worker's words mean for it."""

from __future__ import annotations

from meshq.core.claims import Claims, Spoken
from meshq.core.ids import uuid7
from meshq.core.infos import Name, TaskInfo
from meshq.core.requests import ClaimRef, RunProgress

CLAIM_S, DEAD_S = 120.0, 10.0
FIRST, SECOND = uuid7(1_000, 0), uuid7(2_000, 0)


def claims_of() -> Claims:
    return Claims(CLAIM_S, DEAD_S)


def ref(task: str, *, epoch: int = 3, attempt: int = 1) -> ClaimRef:
    return ClaimRef(task=task, epoch=epoch, attempt=attempt)


def given(claims: Claims, *tasks: str, node: str = "w1", boot: str = FIRST, number: int = 1, now: float = 0.0) -> None:
    """A Get of this number is answered with these tasks."""
    claims.speak(node, boot, (), now, number)
    for task in tasks:
        claims.hold(ref(task), node, boot, "primes", number, now)


# -- who holds what --------------------------------------------------------------------------------------


def test_a_claim_belongs_to_one_worker() -> None:
    claims = claims_of()
    given(claims, "t1", "t2")
    assert [claim.ref.task for claim in claims.held_by("w1")] == ["t1", "t2"]
    claim = claims.of("t1")
    assert claim is not None
    assert (claim.node, claim.boot, claim.name, claim.ref) == ("w1", FIRST, "primes", ref("t1"))
    claims.drop(["t1", "nothing"])
    assert claims.of("t1") is None
    assert [claim.ref.task for claim in claims.held_by("w1")] == ["t2"]
    assert claims.held_by("nobody") == []


def test_a_claim_that_goes_to_another_leaves_the_first() -> None:
    claims = claims_of()
    given(claims, "t1")
    given(claims, "t1", node="w2")
    assert claims.held_by("w1") == []
    assert len(claims) == 1


# -- numbered Gets ---------------------------------------------------------------------------------------


def test_what_a_later_get_does_not_name_never_arrived() -> None:
    claims = claims_of()
    given(claims, "t1", "t2")
    assert claims.speak("w1", FIRST, (ref("t1"),), 1.0, 2) == Spoken(freed=("t2",))
    assert claims.of("t2") is None
    assert claims.of("t1") is not None


def test_what_the_same_get_was_given_may_still_be_on_its_way() -> None:
    # A doubled Get names nothing of what its first copy was answered with.
    claims = claims_of()
    given(claims, "t1", number=2)
    assert claims.speak("w1", FIRST, (), 1.0, 2).freed == ()
    assert claims.of("t1") is not None


def test_a_heartbeat_that_does_not_name_a_run_frees_nothing() -> None:
    claims = claims_of()
    given(claims, "t1")
    assert claims.speak("w1", FIRST, (), 1.0) == Spoken()
    assert claims.of("t1") is not None


def test_an_adopted_run_is_free_with_the_first_get_that_does_not_name_it() -> None:
    claims = claims_of()
    claims.speak("w1", FIRST, (), 0.0)
    claims.hold(ref("t1"), "w1", FIRST, "", 0, 0.0)
    assert claims.speak("w1", FIRST, (), 1.0, 1).freed == ("t1",)


# -- what a worker says ----------------------------------------------------------------------------------


def test_a_run_that_nobody_holds_is_unknown_and_may_be_adopted() -> None:
    assert claims_of().speak("w1", FIRST, (ref("t1"),), 0.0) == Spoken(unknown=(ref("t1"),))


def test_a_run_of_anothers_task_or_of_another_attempt_does_not_count() -> None:
    claims = claims_of()
    given(claims, "t1")
    claims.speak("w2", FIRST, (), 0.0)
    assert claims.speak("w2", FIRST, (ref("t1"),), 1.0) == Spoken(foreign=("t1",))
    assert claims.speak("w1", FIRST, (ref("t1", attempt=2),), 1.0) == Spoken(foreign=("t1",))
    assert claims.speak("w1", FIRST, (ref("t1", epoch=2),), 1.0) == Spoken(foreign=("t1",))
    assert claims.speak("w1", FIRST, (ref("t1"),), 1.0) == Spoken()


def test_a_new_boot_has_lost_what_the_earlier_one_ran() -> None:
    claims = claims_of()
    given(claims, "t1", "t2")
    assert claims.speak("w1", SECOND, (), 1.0, 1) == Spoken(freed=("t1", "t2"), lost=("t1", "t2"))
    assert len(claims) == 0
    assert claims.workers["w1"].boot == SECOND


def test_an_earlier_boot_that_is_heard_late_changes_nothing() -> None:
    claims = claims_of()
    given(claims, "t1", boot=SECOND)
    assert claims.speak("w1", FIRST, (ref("t1"), ref("t9")), 1.0) == Spoken(foreign=("t1", "t9"))
    assert claims.workers["w1"].boot == SECOND
    assert claims.of("t1") is not None


def test_a_new_boot_forgets_what_the_earlier_one_told() -> None:
    claims = claims_of()
    given(claims)
    claims.workers["w1"].tasks = {"primes": TaskInfo(name="primes")}
    claims.speak("w1", SECOND, (), 1.0)
    assert claims.workers["w1"].tasks is None


# -- time ------------------------------------------------------------------------------------------------


def test_a_claim_that_its_live_worker_does_not_name_runs_out() -> None:
    claims = claims_of()
    given(claims, "t1", "t2")
    for now in range(1, 120):
        claims.speak("w1", FIRST, (ref("t1"),), float(now))
        assert claims.expire(float(now)) == []
    claims.speak("w1", FIRST, (ref("t1"),), CLAIM_S)
    assert claims.expire(CLAIM_S) == ["t2"]
    assert claims.of("t1") is not None


def test_a_silent_worker_loses_all_its_claims_at_once() -> None:
    claims = claims_of()
    given(claims, "t1", "t2")
    given(claims, "t3", node="w2")
    claims.speak("w2", FIRST, (), 5.0)
    assert claims.expire(DEAD_S - 0.001) == []
    assert claims.expire(DEAD_S) == ["t1", "t2"]
    assert claims.expire(DEAD_S + 1) == []
    assert claims.of("t3") is not None
    assert [worker.node for worker in claims.alive(DEAD_S)] == ["w2"]


def test_both_at_once_free_a_task_once() -> None:
    claims = claims_of()
    given(claims, "t1")
    assert claims.expire(CLAIM_S + 1) == ["t1"]


def test_known_tasks_are_those_of_live_workers_that_take_work() -> None:
    claims = claims_of()
    for node, name in (("w1", "primes"), ("w2", "compute"), ("w3", "mine")):
        claims.speak(node, FIRST, (), 0.0)
        claims.workers[node].tasks = {name: TaskInfo(name=name)}
    claims.speak("w4", FIRST, (), 0.0)
    claims.workers["w2"].draining = True
    assert set(claims.known_tasks(1.0)) == {"primes", "mine"}
    claims.speak("w1", FIRST, (), 9.0)
    assert set(claims.known_tasks(DEAD_S)) == {"primes"}


def test_a_new_boot_has_lost_what_the_silence_of_the_earlier_one_had_freed() -> None:
    claims = claims_of()
    given(claims, "t1")
    assert claims.expire(10.0) == ["t1"]
    given(claims, "t1", node="w2", now=10.0)
    assert claims.speak("w1", SECOND, (), 60.0) == Spoken(lost=("t1",))
    assert claims.of("t1") is not None, "another worker has it by now"
    assert claims.speak("w1", SECOND, (), 61.0) == Spoken(), "it is counted once"


def test_silence_alone_is_no_loss() -> None:
    claims = claims_of()
    given(claims, "t1")
    claims.expire(10.0)
    assert claims.speak("w1", FIRST, (ref("t1"),), 20.0) == Spoken(unknown=(ref("t1"),))


def test_a_message_that_was_under_way_when_a_run_ended_does_not_bring_it_back() -> None:
    claims = claims_of()
    given(claims, "t1")
    claims.end([ref("t1")], 1.0)
    assert claims.of("t1") is None
    assert claims.speak("w1", FIRST, (ref("t1"),), 2.0) == Spoken(foreign=("t1",))
    assert claims.speak("w1", FIRST, (ref("t1", attempt=2),), 2.0) == Spoken(unknown=(ref("t1", attempt=2),))


# -- how far runs are --------------------------------------------------------------------------------------


def progress_of(claims: Claims, task: str) -> tuple[float, float, str] | None:
    claim = claims.of(task)
    return claim.progress if claim is not None else None


def test_progress_goes_with_its_claim() -> None:
    claims = claims_of()
    given(claims, "t1", "t2")
    told = RunProgress(task="t1", done=1.0, total=3.0, note="a")
    claims.tell("w1", FIRST, [told, RunProgress(task="unknown", done=1.0)])
    claims.speak("w1", FIRST, (ref("t1"), ref("t2")), 1.0)
    assert (progress_of(claims, "t1"), progress_of(claims, "t2")) == ((1.0, 3.0, "a"), None)
    given(claims, "t1", node="w2")
    assert progress_of(claims, "t1") is None


def test_nobody_tells_the_progress_of_anothers_run() -> None:
    claims = claims_of()
    given(claims, "t1")
    for node, boot in (("w2", FIRST), ("w1", SECOND)):
        claims.tell(node, boot, [RunProgress(task="t1", done=1.0)])
        assert progress_of(claims, "t1") is None


# -- what was called off -----------------------------------------------------------------------------------


def test_a_run_that_was_called_off_is_ending_until_its_worker_names_it_no_more() -> None:
    claims = claims_of()
    given(claims, "t1", "t2")
    claims.speak("w1", FIRST, (ref("t1"), ref("t2")), 1.0)
    claims.call_off(["t1", "nothing"])
    assert claims.of("t1") is None
    assert claims.is_ending("t1", "w1", 1.0)
    assert not claims.is_ending("t2", "w1", 1.0), "it goes on"
    claims.speak("w1", FIRST, (ref("t1"), ref("t2")), 2.0)
    assert claims.is_ending("t1", "w1", 2.0)
    claims.speak("w1", FIRST, (ref("t2"),), 3.0)
    assert not claims.is_ending("t1", "w1", 3.0)


def test_a_run_that_was_called_off_on_its_way_is_ending_until_the_next_get() -> None:
    claims = claims_of()
    given(claims, "t1")
    claims.call_off(["t1"])
    claims.speak("w1", FIRST, (), 1.0)
    assert claims.is_ending("t1", "w1", 1.0), "this heartbeat may have left before"
    claims.speak("w1", FIRST, (), 1.0, 1)
    assert claims.is_ending("t1", "w1", 1.0), "so may a copy of the same Get"
    claims.speak("w1", FIRST, (), 1.0, 2)
    assert not claims.is_ending("t1", "w1", 1.0)


def test_a_run_that_came_and_then_ended_needs_no_get() -> None:
    claims = claims_of()
    given(claims, "t1")
    claims.call_off(["t1"])
    claims.speak("w1", FIRST, (ref("t1"),), 1.0)
    claims.speak("w1", FIRST, (), 2.0)
    assert not claims.is_ending("t1", "w1", 2.0)


def test_of_a_worker_that_is_silent_or_new_nothing_is_ending() -> None:
    claims = claims_of()
    given(claims, "t1")
    claims.call_off(["t1"])
    assert not claims.is_ending("t1", "nobody", 0.0)
    assert claims.is_ending("t1", "w1", DEAD_S - 0.1)
    assert not claims.is_ending("t1", "w1", DEAD_S)
    claims.speak("w1", SECOND, (), 1.0)
    assert not claims.is_ending("t1", "w1", 1.0)


# -- names -------------------------------------------------------------------------------------------------


def test_names_have_the_nodes_that_run_them_at_present() -> None:
    claims = claims_of()
    primes, mine = TaskInfo(name="primes"), TaskInfo(name="mine", doc="Mine.")
    for node in ("w3", "w1", "w2", "w4", "w5"):
        claims.speak(node, FIRST, (), 0.0)
        claims.workers[node].tasks, claims.workers[node].slots = {"primes": primes}, 2
    claims.workers["w2"].drained = claims.workers["w4"].draining = True
    claims.workers["w5"].slots = 0
    claims.workers["w2"].tasks = {"primes": primes, "mine": mine}
    assert claims.names(1.0) == [Name(info=mine, nodes=()), Name(info=primes, nodes=("w1", "w3"))]
    assert claims.names(DEAD_S) == []
