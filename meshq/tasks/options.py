"""What `@task(…)` says about how a task is to be run, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from meshq.core.limits import PRIORITY_MAX, RETRIES_MAX, RUNNING_MAX, TIMEOUT_S_MAX
from meshq.errors import ConfigError

TIMEOUT_S_MIN = 0.001
_WHOLE = {"retries": (0, RETRIES_MAX), "priority": (-PRIORITY_MAX, PRIORITY_MAX), "max_running": (0, RUNNING_MAX)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a task: for submits that leave them open; None where the function says nothing either.

    `final` are the exceptions after which it is not tried again.
    """

    retries: int | None = None
    timeout_s: float | None = None
    priority: int | None = None
    max_running: int | None = None
    final: tuple[type[BaseException], ...] = ()


def checked(where: str, *, retries: Any, timeout_s: Any, priority: Any, max_running: Any, final: Any) -> Options:
    """The options, if they are ones.

    Args:
        where: The function, as an error names it.
        retries, timeout_s, priority, max_running: Numbers as for a submit, or None.
        final: An exception class or a tuple of them.

    Raises:
        ConfigError: It names the function, the option and what is allowed.
    """
    numbers = {"retries": retries, "priority": priority, "max_running": max_running}
    for name, (low, high) in _WHOLE.items():
        value = numbers[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high):
            raise ConfigError(f"{where}: {name} must be a whole number from {low} to {high}, not {_shown(value)}")
    if timeout_s is not None:
        is_number = isinstance(timeout_s, (int, float)) and not isinstance(timeout_s, bool)
        if not is_number or not TIMEOUT_S_MIN <= timeout_s <= TIMEOUT_S_MAX or not math.isfinite(timeout_s):
            span = f"seconds, from {TIMEOUT_S_MIN:g} to {TIMEOUT_S_MAX:.15g}"
            raise ConfigError(f"{where}: timeout_s must be {span}, not {_shown(timeout_s)}")
        timeout_s = float(timeout_s)
    kinds = final if isinstance(final, tuple) else (final,)
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            allowed = "an exception class, or several as in (ValueError, OSError)"
            raise ConfigError(f"{where}: final must be {allowed}, not {_shown(kind)}")
    return Options(
        retries=retries, timeout_s=timeout_s, priority=priority, max_running=max_running, final=kinds
    )  # fmt: skip


def _shown(value: object) -> str:
    try:
        return f"{value!r:.60}"
    except Exception as error:  # a repr of the user's own
        return f"a {type(value).__name__} (its repr raised {type(error).__name__})"
