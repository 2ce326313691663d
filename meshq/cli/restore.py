"""`meshq restore`: a data directory out of a backup."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path

import click

from meshq.cli import render
from meshq.cli.common import Command, Local, local_options
from meshq.cli.copying import copied
from meshq.store import backup as store


@click.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Set a queue aside that is there already.")
@local_options
def restore(local: Local, file: Path, force: bool) -> int:
    """Make a backup the queue of this machine, as a new node.

    The daemon must be stopped. A queue that is there already is never deleted: --force sets it aside. The next meshq up
    joins the other machines as a new node; if there are none, meshq recover makes this copy the cluster.

    \b
    Examples:
      meshq restore /mnt/usb/meshq.backup
      meshq restore /mnt/usb/meshq.backup --data-dir /srv/meshq
    """
    work = partial(store.restore, file.expanduser(), local.data_dir, force=force)
    found = asyncio.run(copied(file, lambda on_progress: work(on_progress=on_progress)))
    if local.as_json:
        aside = None if found.aside is None else str(found.aside)
        click.echo(json.dumps({"data_dir": str(local.data_dir), "tasks": found.tasks, "aside": aside}))
        return 0
    click.echo(f"restored {render.tasks_text(found.tasks)} to {local.data_dir}")
    if found.aside is not None:
        click.echo(f"the queue that was there is {found.aside}")
    click.echo("next: meshq up; if the other machines are gone for good, then meshq recover")
    return 0
