"""The options of a task, the same for each command that submits one."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

from meshq.cli.common import Number
from meshq.client.options import Options
from meshq.core import limits

R = TypeVar("R")
PRIORITY = Number(-limits.PRIORITY_MAX, limits.PRIORITY_MAX, whole=True)
DELAY = Number(0, limits.TIMEOUT_S_MAX)
TIMEOUT = Number(0.001, limits.TIMEOUT_S_MAX)
RETRIES = Number(0, limits.RETRIES_MAX, whole=True)


def task_options(command: Callable[..., R]) -> Callable[..., R]:
    """Adds the task's name, its arguments and its options; the command gets `name`, `arguments`, `options`."""

    @click.argument("name")
    @click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
    @click.option("--priority", type=PRIORITY, default=0, metavar="N", help="Higher runs first.  [default: 0]")
    @click.option("--delay", type=DELAY, default=0.0, metavar="SECONDS", help="Don't run it before so long.")
    @click.option("--timeout", type=TIMEOUT, metavar="SECONDS", help="End a run that takes longer.")
    @click.option("--retries", type=RETRIES, default=0, metavar="N", help="Try again after a failure.")
    @click.option("--key", metavar="TEXT", help="A repeated submit with this key is the same task.")
    @wraps(command)
    def wrapped(
        *args: Any,
        priority: int,
        delay: float,
        timeout: float | None,
        retries: int,
        key: str | None,
        **kwargs: Any,
    ) -> R:
        options = Options(priority=priority, delay_s=delay, timeout_s=timeout, retries=retries, key=key)
        return command(*args, options=options, **kwargs)

    return wrapped
