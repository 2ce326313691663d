"""`meshq config`: what each setting is, and where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from meshq.cli import settings
from meshq.cli.common import Command, Local, help_alone, local_options
from meshq.config import FIELDS, Origin

DEFAULT = "default"
HIDDEN = "(set, not shown)"
NAME_WIDTH = 22


@click.group(invoke_without_command=True)
@click.pass_context
def config(ctx: click.Context) -> None:
    """Show the settings, and where each came from.

    It takes --data-dir, --connect-timeout and --json, as all commands do.

    \b
    Examples:
      meshq config show
      MESHQ_SLOTS=2 meshq config show --changed
    """
    help_alone(ctx)


@config.command(cls=Command)
@click.option(
    "--config", "file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="As of meshq up."
)
@click.option("--changed", is_flag=True, help="Only those that have not their default.")
@local_options
def show(local: Local, file: Path | None, changed: bool) -> int:
    """Show what meshq up would use here, and where each value comes from.

    A later source wins: the defaults, the file, the classic names, MESHQ_* in the environment, and the options of
    meshq up. The cluster's key is not shown: that does meshq key show.

    \b
    Examples:
      meshq config show
      meshq config show --changed --config lan.toml
    """
    origin = settings.trace(local.data_dir, file)
    names = [name for name in FIELDS if name in origin.sources or not changed]
    if local.as_json:
        click.echo(
            json.dumps({name: {"value": _value(origin, name), "source": _source(origin, name)} for name in names})
        )
        return 0
    for name in names:
        click.echo(f"{name:<{NAME_WIDTH}}  {_text(_value(origin, name))}  ({_source(origin, name)})")
    if not names:
        click.echo("every setting has its default")
    return 0


def _value(origin: Origin, name: str) -> Any:
    value = getattr(origin.config, name)
    if name == "key" and value:
        return HIDDEN
    return list(value) if isinstance(value, tuple) else value


def _source(origin: Origin, name: str) -> str:
    return origin.sources.get(name, DEFAULT)


def _text(value: Any) -> str:
    """As it would stand in a file."""
    return value if value == HIDDEN else json.dumps(value, ensure_ascii=False)
