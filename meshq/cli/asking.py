"""What several commands ask: the daemon for its status, and the person before something that can't be undone."""

from __future__ import annotations

import sys

import click

from meshq.cli.common import Local, note
from meshq.core.reports import Status


async def status_of(local: Local) -> Status:
    """The cluster, as the local daemon tells it."""
    async with local.client() as client:
        return await client.status()


def agreed(prospect: str, question: str) -> bool:
    """Says what would happen, and whether the user wants it. All on stderr; anything but `y` or `yes` means no.

    Raises:
        click.UsageError: Nobody can answer.
    """
    note(prospect)
    click.echo(f"{question} [y/N] ", nl=False, err=True)
    answer = sys.stdin.readline() if sys.stdin is not None else ""
    if not answer:
        click.echo(err=True)
        raise click.UsageError("nobody answers here; --yes does it without asking", click.get_current_context())
    if answer.strip().lower() in ("y", "yes"):
        return True
    note("nothing was done")
    return False
