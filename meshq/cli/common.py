"""What the commands share: the options that each has, and lines on stderr."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
import platformdirs

from meshq.wire.server import socket_path

R = TypeVar("R")

# What a shell reports for a program that a broken pipe ended.
EXIT_BROKEN_PIPE = 141


@dataclass(frozen=True, slots=True)
class Local:
    """Which daemon a command talks to, and how it answers the user."""

    data_dir: Path
    connect_timeout_s: float
    as_json: bool


class Command(click.Command):
    """A command whose help keeps its line breaks after a `\\b`, and that is quiet when its reader goes away."""

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Nothing can be said any more, and nothing must be left to flush at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(EXIT_BROKEN_PIPE)
        return result


def local_options(command: Callable[..., R]) -> Callable[..., R]:
    """Adds the options that every command has; the command gets them as `local`."""

    @click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="MESHQ_DATA_DIR",
        metavar="DIR",
        help="Which local daemon: its data directory.  [env: MESHQ_DATA_DIR]",
    )
    @click.option(
        "--connect-timeout",
        type=click.FloatRange(min=0, min_open=True),
        envvar="MESHQ_CONNECT_TIMEOUT",
        default=10.0,
        metavar="SECONDS",
        help="Exit with 3 after so long without an answer from the daemon.  [default: 10]",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, a stable interface for scripts.")
    @wraps(command)
    def wrapped(*args: Any, data_dir: Path | None, connect_timeout: float, as_json: bool, **kwargs: Any) -> R:
        found = platformdirs.user_data_path("meshq") if data_dir is None else data_dir.expanduser()
        return command(*args, local=Local(found, connect_timeout, as_json), **kwargs)

    return wrapped


def note(message: str) -> None:
    """One line on stderr, for people."""
    click.echo(message, err=True)


def listens(data_dir: Path) -> bool:
    """Whether a daemon takes connections on this data directory's socket, however slowly it answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(socket_path(data_dir)))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return False
        except OSError:
            # A full backlog, or another user's: somebody is there.
            return True
    return True
