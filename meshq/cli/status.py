"""`meshq status`: the cluster."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing

import click

from meshq.cli import render
from meshq.cli.amounts import Duration
from meshq.cli.asking import status_of
from meshq.cli.common import Command, Local, Number, client_options, note, on_interrupt
from meshq.core.limits import TIMEOUT_S_MAX
from meshq.core.reports import Status
from meshq.errors import MeshqError, NoDaemon

WATCH_S = 1.0
WATCH_PATIENCE_S = 3.0
CHECK_S = 0.2
HEARD_S = 3.0


@click.command(cls=Command)
@click.option("--watch", is_flag=True, help="Show it anew each second, until Ctrl-C.")
@click.option("--wait", is_flag=True, help="Wait until a leader with a majority and --nodes nodes are there.")
@click.option("--nodes", type=Number(1, whole=True), metavar="N", help="With --wait: how many.  [default: 1]")
@click.option(
    "--timeout", "timeout_s", type=Duration(0, TIMEOUT_S_MAX), default=60.0, metavar="TIME",
    help="With --wait: exit with 1 if they are not there by then.  [default: 60]",
)  # fmt: skip
@client_options
def status(local: Local, watch: bool, wait: bool, nodes: int | None, timeout_s: float) -> int:
    """Show the cluster: leader, nodes, tasks by state.

    HEARD is the time since a node last answered, SLOTS those in use and all, BEHIND the rows that its copy lacks;
    * marks the node that answers here.

    \b
    Examples:
      meshq status
      meshq status --watch
      meshq status --wait --nodes 3
    """
    if nodes is not None and not wait:
        raise click.UsageError("--nodes needs --wait")
    if watch and wait:
        raise click.UsageError("--watch and --wait exclude each other")
    if watch:
        on_interrupt(None)
        asyncio.run(_watch(local))
    found = asyncio.run(_waited(local, nodes or 1, timeout_s) if wait else status_of(local))
    _show(local, found)
    if wait and not _ready(found, nodes or 1):
        note(f"meshq status: not ready after {timeout_s:g} s: {_lack(found, nodes or 1)}")
        return 1
    return 0


async def _waited(local: Local, nodes: int, timeout_s: float) -> Status:
    """The first status that is ready, or the last one that is not; a daemon that still starts is waited for."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + timeout_s
    async with local.client() as client:
        while True:
            try:
                found = await client.status()
            except NoDaemon:
                if loop.time() >= end_s:
                    raise
            else:
                if _ready(found, nodes) or loop.time() >= end_s:
                    return found
            await asyncio.sleep(CHECK_S)


async def _statuses(local: Local) -> AsyncGenerator[Status | MeshqError, None]:
    """What each second brings, errors too: the daemon may come back."""
    # A short patience, so that the view soon says that nobody answers.
    async with local.client(patience_s=WATCH_PATIENCE_S) as client:
        while True:
            try:
                yield await client.status()
            except MeshqError as error:
                yield error
            await asyncio.sleep(WATCH_S)


async def _watch(local: Local) -> None:
    if local.as_json or not sys.stdout.isatty():
        async with aclosing(_statuses(local)) as statuses:
            async for found in statuses:
                _show(local, found)
                sys.stdout.flush()
        return
    from rich.live import Live
    from rich.text import Text

    from meshq.cli.tables import console, status_view

    with Live(console=console(), auto_refresh=False, screen=False, vertical_overflow="ellipsis") as live:
        async with aclosing(_statuses(local)) as statuses:
            async for found in statuses:
                view = Text(found.message) if isinstance(found, MeshqError) else status_view(found)
                live.update(view, refresh=True)


def _show(local: Local, found: Status | MeshqError) -> None:
    if isinstance(found, MeshqError):
        note(f"meshq status: {found.message}")
    elif local.as_json:
        click.echo(render.status_json(found))
    else:
        # Loaded here: JSON needs no table.
        from meshq.cli.tables import console, status_view

        console().print(status_view(found))


def _heard(found: Status) -> int:
    return sum(node.heard_s is not None and node.heard_s < HEARD_S for node in found.nodes)


def _ready(found: Status, nodes: int) -> bool:
    return found.leader is not None and found.majority and _heard(found) >= nodes


def _lack(found: Status, nodes: int) -> str:
    leader = "no leader" if found.leader is None else "a leader"
    majority = "a majority" if found.majority else "no majority"
    return f"{_heard(found)} of {nodes} nodes, {leader}, {majority}"
