"""The options of a task, the same for each command that submits one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any, TypeVar

import click

from meshq.cli.amounts import Duration, Moment
from meshq.cli.common import Number
from meshq.cli.completing import batches, names
from meshq.client.options import Options
from meshq.core import limits
from meshq.core.task import Backoff

R = TypeVar("R")
PRIORITY = Number(-limits.PRIORITY_MAX, limits.PRIORITY_MAX, whole=True)
DELAY = Duration(0, limits.TIMEOUT_S_MAX)
TIMEOUT = Duration(0.001, limits.TIMEOUT_S_MAX)
KEEP = Duration(0, limits.KEEP_S_MAX)
RETRIES = Number(0, limits.RETRIES_MAX, whole=True)
RUNNING = Number(0, limits.RUNNING_MAX, whole=True)
BACKOFF = click.Choice([word.value for word in Backoff])


def task_options(command: Callable[..., R]) -> Callable[..., R]:
    """Adds the task's name, its arguments and its options; the command gets `name`, `arguments`, `options`."""

    @click.argument("name", shell_complete=names)
    @click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
    @click.option("--priority", type=PRIORITY, metavar="N", help="Higher runs first; by default the task's own, or 0.")
    @click.option("--delay", type=DELAY, metavar="TIME", help="Don't run it before so long: 90s, 10m, 2h, 1d.")
    @click.option("--at", type=Moment(), metavar="TIME", help="Don't run it before: 18:30, 2030-12-31T18:30.")
    @click.option("--timeout", type=TIMEOUT, metavar="TIME", help="End a run that takes longer: 30s.")
    @click.option("--retries", type=RETRIES, metavar="N", help="Try again so often after a failure.")
    @click.option("--backoff", type=BACKOFF, help="How the wait grows from retry to retry.  [default: exponential]")
    @click.option("--key", metavar="TEXT", help="A repeated submit with this key is the same task.")
    @click.option(
        "--max-running", type=RUNNING, metavar="N", help="At most so many of this name run in the cluster; 0: any."
    )
    @click.option("--keep", type=KEEP, metavar="TIME", help="Keep it so long when it is finished.  [default: 7d]")
    @click.option("--forget", is_flag=True, help="Keep nothing of it when it is finished.")
    @click.option("--batch", metavar="TEXT", shell_complete=batches, help="A name that tasks share.")
    @wraps(command)
    def wrapped(
        *args: Any,
        priority: int | None,
        delay: float | None,
        at: datetime | None,
        timeout: float | None,
        retries: int | None,
        backoff: str | None,
        key: str | None,
        max_running: int | None,
        keep: float | None,
        forget: bool,
        batch: str | None,
        **kwargs: Any,
    ) -> R:
        if delay is not None and at is not None:
            raise click.UsageError("--delay and --at exclude each other: one says after how long, the other when")
        if keep is not None and forget:
            raise click.UsageError("--keep and --forget exclude each other")
        if backoff is not None and retries == 0:  # left open it may be the task's own
            raise click.UsageError("--backoff needs --retries: without a retry there is nothing to wait for")
        options = Options(
            priority=priority, delay_s=delay or 0.0, at=at, timeout_s=timeout, retries=retries, backoff=backoff,
            key=key, max_running=max_running, keep_s=0.0 if forget else keep, batch=batch,
        )  # fmt: skip
        return command(*args, options=options, **kwargs)

    return wrapped
