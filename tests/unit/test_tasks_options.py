"""What `@task(…)` says about how a task is to be run."""

from __future__ import annotations

import re
from typing import Any

import pytest

import meshq
from meshq.core.limits import PRIORITY_MAX, RETRIES_MAX, RUNNING_MAX, TIMEOUT_S_MAX
from meshq.errors import ConfigError
from meshq.tasks import registry


def test_options_stand_in_what_is_told_and_defaults_in_the_parameters() -> None:
    @meshq.task(
        name="options.all", retries=3, timeout_s=30, priority=-5, max_running=2, final=(ValueError, LookupError)
    )
    def with_all(a: int, b: str = "x", c: float = 1.5, d: object = None) -> None: ...

    (info,) = registry.DEFAULT.infos(["options.all"])
    assert (info.retries, info.timeout_s, info.priority, info.max_running) == (3, 30.0, -5, 2)
    assert [param.default for param in info.params] == ["", "'x'", "1.5", "None"]
    assert registry.DEFAULT.options("options.all").final == (ValueError, LookupError)

    @meshq.task(name="options.none")
    def with_none() -> None: ...

    (info,) = registry.DEFAULT.infos(["options.none"])
    assert (info.retries, info.timeout_s, info.priority, info.max_running) == (None, None, None, None)
    assert registry.DEFAULT.options("options.none").final == ()


def test_the_ends_of_the_ranges_are_allowed() -> None:
    low: dict[str, Any] = {"retries": 0, "timeout_s": 0.001, "priority": -PRIORITY_MAX, "max_running": 0}
    high: dict[str, Any] = {
        "retries": RETRIES_MAX, "timeout_s": TIMEOUT_S_MAX, "priority": PRIORITY_MAX, "max_running": RUNNING_MAX,
    }  # fmt: skip
    for options in (low, high):
        meshq.task(name="options.ends", **options)(test_the_ends_of_the_ranges_are_allowed)
        assert registry.DEFAULT.options("options.ends").retries == options["retries"]


class Shy:
    def __repr__(self) -> str:
        raise RuntimeError("no")


SHY = Shy()


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("retries", -1, f"retries must be a whole number from 0 to {RETRIES_MAX}, not -1"),
        ("retries", RETRIES_MAX + 1, f"from 0 to {RETRIES_MAX}"),
        ("retries", 1.0, "retries must be a whole number"),
        ("retries", True, "retries must be a whole number"),
        ("priority", PRIORITY_MAX + 1, f"priority must be a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}"),
        ("max_running", -1, f"max_running must be a whole number from 0 to {RUNNING_MAX}"),
        ("max_running", "2", "not '2'"),
        ("timeout_s", 0, "timeout_s must be seconds, from 0.001 to 2592000, not 0"),
        ("timeout_s", float("nan"), "not nan"),
        ("timeout_s", float("inf"), "not inf"),
        ("timeout_s", "30", "not '30'"),
        ("timeout_s", SHY, "not a Shy (its repr raised RuntimeError)"),
        ("final", "ValueError", "final must be an exception class, or several as in (ValueError, OSError)"),
        ("final", (ValueError, int), "not <class 'int'>"),
        ("final", [ValueError], "final must be an exception class"),
    ],
)
def test_a_bad_option_is_refused_with_the_function_its_place_and_what_is_allowed(
    option: str, value: Any, allowed: str
) -> None:
    def mine() -> None: ...

    options: dict[str, Any] = {option: value}
    with pytest.raises(ConfigError, match=re.escape(allowed)) as caught:
        meshq.task(name="options.bad", **options)(mine)
    assert re.match(r".*mine \(.*test_tasks_options\.py:\d+\): ", caught.value.message)
    assert "options.bad" not in registry.DEFAULT.names()


def test_a_default_that_can_not_be_shown_on_a_line_is_left_out() -> None:
    def odd(a: Any = SHY, b: str = "x" * 200, c: str = "\ud800", d: str = "\n") -> None: ...

    assert [param.default for param in registry.describe(odd).params] == ["…", "…", "'\\ud800'", "'\\n'"]
