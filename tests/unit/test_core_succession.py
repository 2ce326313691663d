"""To whom a leader gives the lease back."""

from __future__ import annotations

from meshq.core.succession import DOUBLINGS_MAX, Succession


def test_a_lower_id_takes_over_once_it_was_fit_for_long_enough() -> None:
    succession = Succession("c", 30.0)
    assert succession.look(["a", "b", "d"], 0.0) is None
    assert succession.look(["a", "b", "d"], 29.9) is None
    assert succession.look(["a", "b", "d"], 30.0) == "a"


def test_higher_ids_never_do() -> None:
    succession = Succession("c", 30.0)
    succession.look(["d", "e"], 0.0)
    assert succession.look(["d", "e"], 1000.0) is None


def test_a_break_begins_the_wait_anew() -> None:
    succession = Succession("c", 30.0)
    succession.look(["a"], 0.0)
    succession.look([], 20.0)
    assert succession.look(["a"], 35.0) is None
    assert succession.look(["a"], 65.0) == "a"


def test_a_lowest_id_that_comes_and_goes_keeps_no_other_one_waiting() -> None:
    succession = Succession("c", 30.0)
    succession.look(["b"], 0.0)
    succession.look(["a", "b"], 29.0)
    assert succession.look(["a", "b"], 30.0) == "b"


def test_each_failure_doubles_the_wait_of_that_replica_alone() -> None:
    succession = Succession("c", 30.0)
    succession.look(["a", "b"], 0.0)
    succession.failed("a", 30.0)
    assert succession.look(["a", "b"], 31.0) == "b"
    assert succession.look(["a"], 89.0) is None
    assert succession.look(["a"], 90.0) == "a"
    for _ in range(20):
        succession.failed("a", 100.0)
    assert succession.look(["a"], 100.0 + 30.0 * 2**DOUBLINGS_MAX) == "a"
