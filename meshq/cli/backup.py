"""`meshq backup`: the queue in one file."""

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
from meshq.store import files


@click.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace a file that is there already.")
@local_options
def backup(local: Local, file: Path, force: bool) -> int:
    """Copy this machine's queue into FILE, daemon running or not.

    The copy is of one moment and whole, in a file that only you can read. meshq restore makes a data directory of it.

    \b
    Examples:
      meshq backup /mnt/usb/meshq.backup
      meshq backup /mnt/usb/meshq.backup --force
    """
    queue = local.data_dir / files.QUEUE_FILE
    work = partial(store.backup, queue, file.expanduser(), force=force)
    found = asyncio.run(copied(file, lambda on_progress: work(on_progress=on_progress)))
    if local.as_json:
        click.echo(json.dumps({"file": str(file), "tasks": found.tasks, "bytes": found.size_bytes}))
    else:
        click.echo(f"kept {render.tasks_text(found.tasks)} in {file} ({render.size(found.size_bytes)})")
    return 0
