"""What the commands share: the options that each has, numbers in them, how they end early, and lines on stderr."""

from __future__ import annotations

import math
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import platformdirs

from meshq.cli import output
from meshq.core.texts import printable
from meshq.errors import BadKey, ConfigError
from meshq.wire.unix import socket_path

R = TypeVar("R")

if TYPE_CHECKING:
    from meshq.client.aio import AsyncClient

    _ParamType = click.ParamType[float]
else:
    # Generic only in later versions of click.
    _ParamType = click.ParamType

EXIT_USAGE = 2
# What a shell reports for a program that a broken pipe, or Ctrl-C, ended.
EXIT_BROKEN_PIPE = 141
EXIT_INTERRUPTED = 130
_INTERRUPTED = "meshq.interrupted"
CREDENTIAL_BYTES_MAX = 64 << 10


@dataclass(frozen=True, slots=True)
class Local:
    """Which daemon a command talks to, and how it answers the user.

    Args:
        data_dir: The local daemon's.
        connect_timeout_s: Seconds without an answer after which there is no daemon.
        as_json: Whether it prints JSON.
        to: `HOST:PORT` of a daemon elsewhere; None for the local one.
        credential: The file with a credential for it; None for a key.
    """

    data_dir: Path
    connect_timeout_s: float
    as_json: bool
    to: str | None = None
    credential: Path | None = None

    def client(self, *, patience_s: float | None = None) -> AsyncClient:
        """A client of that daemon; `patience_s` is a shorter time to wait for answers.

        Raises:
            ConfigError: There is no such address, or nothing to prove oneself with.
        """
        # Loaded here: some commands ask nobody.
        from meshq.client.aio import AsyncClient

        timeout_s = self.connect_timeout_s if patience_s is None else min(patience_s, self.connect_timeout_s)
        text = None if self.credential is None else _credential(self.credential)
        try:
            return AsyncClient(self.data_dir, connect_timeout_s=timeout_s, to=self.to, credential=text)
        except BadKey as error:
            if self.credential is not None:
                raise BadKey(f"{self.credential}: {error.message}") from error
            raise


def _credential(path: Path) -> str:
    try:
        with path.expanduser().open("rb") as file:
            return file.read(CREDENTIAL_BYTES_MAX).decode("ascii", "replace")
    except OSError as error:
        raise ConfigError(f"{path}: the credential can't be read: {error.strerror or error}") from error


class Command(click.Command):
    """A command whose help keeps its line breaks after a `\\b`.

    It is quiet when its reader goes away, says in one line that it was interrupted, and takes no misspelt variable.
    """

    def invoke(self, ctx: click.Context) -> Any:
        # Loaded here: help needs no settings.
        from meshq import config

        config.check_names(os.environ)
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            output.discard()
            ctx.exit(EXIT_BROKEN_PIPE)
        except KeyboardInterrupt:
            more = ctx.meta.get(_INTERRUPTED, "")
            if more is not None:
                note(f"{ctx.command_path}: interrupted{more}")
            ctx.exit(EXIT_INTERRUPTED)
        return result


class Number(_ParamType):
    """A number within a range, refused in plain words.

    Args:
        low, high: The range; None for no limit.
        whole: Whether it must be an integer.
        above: Whether `low` itself is too little; where there is no `high`.
    """

    name = "number"

    def __init__(
        self, low: float | None = None, high: float | None = None, *, whole: bool = False, above: bool = False
    ) -> None:
        self._low = low
        self._high = high
        self._whole = whole
        self._above = above

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = int(value) if self._whole else float(value)
        except ValueError:
            number = math.nan
        low, high = -math.inf if self._low is None else self._low, math.inf if self._high is None else self._high
        inside = low < number <= high if self._above else low <= number <= high
        if inside and abs(number) != math.inf:
            return number
        raise click.UsageError(f"{source(param, ctx)} must be {self._wanted()}, not {str(value)[:40]!r}", ctx)

    def _wanted(self) -> str:
        kind = "a whole number" if self._whole else "a number"
        if self._low is None:
            return kind
        if self._high is None:
            return f"{kind} {'above' if self._above else 'of at least'} {self._low}"
        return f"{kind} from {self._low} to {self._high:.15g}"


def source(param: click.Parameter | None, ctx: click.Context | None) -> str:
    """Where a value stands: the option, or the variable of the environment."""
    if param is None or ctx is None:
        return "it"
    by_variable = ctx.get_parameter_source(param.name or "") is click.core.ParameterSource.ENVIRONMENT
    return str(param.envvar) if by_variable else param.opts[-1]


def default_data_dir() -> Path:
    """Where a daemon keeps its data, unless it is told otherwise."""
    return platformdirs.user_data_path("meshq")


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
        type=Number(0, above=True),
        envvar="MESHQ_CONNECT_TIMEOUT",
        default=10.0,
        metavar="SECONDS",
        help="Exit with 3 after so long without an answer from the daemon.  [default: 10]",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, a stable interface for scripts.")
    @wraps(command)
    def wrapped(*args: Any, data_dir: Path | None, connect_timeout: float, as_json: bool, **kwargs: Any) -> R:
        found = default_data_dir() if data_dir is None else data_dir.expanduser()
        return command(*args, local=Local(found, connect_timeout, as_json), **kwargs)

    return wrapped


def client_options(command: Callable[..., R]) -> Callable[..., R]:
    """Adds the options that every command has, and those of commands that talk to a daemon elsewhere as well."""

    @local_options
    @click.option(
        "--to",
        envvar="MESHQ_TO",
        metavar="HOST:PORT",
        help="Ask the daemon there, with the key in MESHQ_KEY or in the data directory.  [env: MESHQ_TO]",
    )
    @click.option(
        "--credential",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="MESHQ_CREDENTIAL",
        metavar="FILE",
        help="With --to: what meshq key issue made, in place of the key.  [env: MESHQ_CREDENTIAL]",
    )
    @wraps(command)
    def wrapped(*args: Any, local: Local, to: str | None, credential: Path | None, **kwargs: Any) -> R:
        if credential is not None and to is None:
            raise click.UsageError("a credential is for a daemon elsewhere: say which, with --to HOST:PORT")
        return command(*args, local=replace(local, to=to, credential=credential), **kwargs)

    return wrapped


def help_alone(ctx: click.Context) -> None:
    """What a group of commands says that is called without any: its help, as wrong usage."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit(EXIT_USAGE)


def note(message: str) -> None:
    """One line on stderr, for people."""
    click.echo(message, err=True)


def note_lines(text: str) -> None:
    """Several lines of others' making on stderr: they move nothing on the terminal."""
    for line in text.rstrip().split("\n"):
        note(printable(line))


def on_interrupt(more: str | None) -> None:
    """What Ctrl-C says from now on after `interrupted`; None: nothing at all, since it is the way to end this."""
    click.get_current_context().meta[_INTERRUPTED] = more


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
