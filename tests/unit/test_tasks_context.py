"""What a task sees of its run, where its function is called by hand."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from typing import Any

import pytest

import meshq
from meshq.core.limits import CHECKPOINT_BYTES_MAX, NOTE_CHARS_MAX


def add_up(numbers: list[int]) -> int:
    """As a user writes one: it goes on from where an earlier attempt was."""
    run = meshq.current()
    done, total = (int(part) for part in (run.saved or b"0 0").split())
    for number in numbers[done:]:
        if run.should_stop():
            raise meshq.Stopped
        total, done = total + number, done + 1
        run.checkpoint(f"{done} {total}".encode())
        run.progress(done, len(numbers), f"added {number}")
        run.log.info("added %s", number)
    return total


def test_a_task_called_by_hand_tells_the_test_all_that_it_told() -> None:
    with meshq.eager() as run:
        assert add_up([1, 2, 4]) == 7
    assert run.told == [(1.0, 3.0, "added 1"), (2.0, 3.0, "added 2"), (3.0, 3.0, "added 4")]
    assert run.kept == [b"1 1", b"2 3", b"3 7"]
    assert run.logged == ["added 1", "added 2", "added 4"]


def test_it_goes_on_from_a_checkpoint_and_stops_when_it_is_told() -> None:
    with meshq.eager(saved=b"2 3", attempt=2, stops_after=1) as run, pytest.raises(meshq.Stopped):
        add_up([1, 2, 4, 8])
    assert run.attempt == 2
    with meshq.eager(saved=run.kept[-1]):
        assert add_up([1, 2, 4, 8]) == 15
    with meshq.eager() as run:
        assert not run.should_stop()
        run.stop()
        assert run.should_stop()


def test_outside_of_a_run_the_error_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"with meshq\.eager\(\)"):
        meshq.current()
    with meshq.eager(), pytest.raises(RuntimeError, match="within"), meshq.eager():
        pass
    with pytest.raises(RuntimeError, match="while it runs"):
        meshq.current()


def test_threads_and_coroutines_see_the_same_run() -> None:
    seen: list[meshq.Run] = []
    with meshq.eager() as run:
        thread = threading.Thread(target=lambda: seen.append(meshq.current()))
        thread.start()
        thread.join()

        async def later() -> meshq.Run:
            await asyncio.sleep(0)
            return meshq.current()

        assert [*seen, asyncio.run(later())] == [run, run]


def test_the_time_that_is_left() -> None:
    with meshq.eager() as run:
        assert (run.deadline, run.left_s()) == (None, None)
    with meshq.eager(timeout_s=100.0) as run:
        assert 90 < (run.left_s() or 0) <= 100
    with meshq.eager(timeout_s=0.0) as run:
        assert run.left_s() == 0.0


@pytest.mark.parametrize(
    ("args", "kind", "message"),
    [
        ((float("nan"),), ValueError, "done must be finite and at least 0, not nan"),
        ((float("inf"),), ValueError, "done must be finite"),
        ((-1,), ValueError, "done must be finite and at least 0, not -1.0"),
        ((10**400,), ValueError, "done must be finite"),
        ((1, float("-inf")), ValueError, "total must be finite"),
        ((True,), TypeError, "done must be a number, not bool"),
        (("1",), TypeError, "done must be a number, not str"),
        ((None,), TypeError, "done must be a number, not NoneType"),
        ((1, 1j), TypeError, "total must be a number, not complex"),
        ((1, 2, b"note"), TypeError, "note must be a str, not bytes"),
        ((1, 2, "x" * (NOTE_CHARS_MAX + 1)), ValueError, "note has 201 characters; at most 200"),
    ],
)
def test_nonsense_fails_the_call_and_not_the_task(args: tuple[Any, ...], kind: type[Exception], message: str) -> None:
    with meshq.eager() as run:
        with pytest.raises(kind, match=message):
            run.progress(*args)
        assert run.told == []
        run.progress(1, 2, "x" * NOTE_CHARS_MAX)
        assert len(run.told) == 1


def test_a_note_may_be_the_name_of_any_file() -> None:
    with meshq.eager() as run:
        run.progress(1, 2, os.fsdecode(b"caf\xe9"))
    assert run.told == [(1.0, 2.0, "caf?")]


@pytest.mark.parametrize(("data", "kind"), [("text", TypeError), (None, TypeError), ([1], TypeError)])
def test_a_checkpoint_is_bytes(data: Any, kind: type[Exception]) -> None:
    with meshq.eager() as run:
        with pytest.raises(kind, match="data must be bytes"):
            run.checkpoint(data)
        with pytest.raises(ValueError, match=f"has {CHECKPOINT_BYTES_MAX + 1} bytes; at most"):
            run.checkpoint(bytes(CHECKPOINT_BYTES_MAX + 1))
        run.checkpoint(bytearray(CHECKPOINT_BYTES_MAX))
        assert [type(kept) for kept in run.kept] == [bytes]


def test_the_logger_is_left_as_it_was() -> None:
    logger = logging.getLogger("meshq.task")
    before = (logger.level, list(logger.handlers))
    with meshq.eager() as run:
        run.log.debug("seen")
    assert (logger.level, logger.handlers) == before
    logger.debug("unseen")
    assert run.logged == ["seen"]
