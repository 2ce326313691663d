"""The command `meshq`: finds the command that is meant and turns each error into one line and an exit code."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

import meshq
from meshq.cli import output
from meshq.core.texts import printable
from meshq.errors import ConfigError, MeshqError, NoDaemon, TaskFailed, WaitTimeout

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOTHING_KEPT = 3
EXIT_INTERRUPTED = 130
# These stand after the command, since each command has them.
SHARED_OPTIONS = ("--data-dir", "--connect-timeout", "--json", "--to", "--credential")

# The help of `meshq` itself, so that it loads none of them.
COMMANDS = {
    "demo": "Show what it does: three nodes here, a stream of tasks, a killed leader.",
    "up": "Run the daemon here, in the foreground.",
    "down": "Stop the daemon of this machine in stages, and wait until it is gone.",
    "submit": "Submit a task; return when the cluster keeps it.",
    "run": "Submit a task, wait, and print its result as one JSON value.",
    "map": "Submit a task for each item of a range or a file; print the results.",
    "result": "Show a task's state, and its result or error.",
    "logs": "Show what a task printed.",
    "tasks": "List tasks, newest first.",
    "cancel": "Call off a task, or all tasks of a batch.",
    "retry": "Submit a finished task anew, or all that failed.",
    "names": "List the tasks that can be submitted.",
    "status": "Show the cluster: leader, nodes, tasks by state.",
    "explain": "Tell who leads and why, or what happened to a task.",
    "drain": "Take a machine out of the work; nothing is lost.",
    "resume": "Give a drained machine work again.",
    "doctor": "Find out why machines do not meet.",
    "leave": "Take this machine out of its cluster for good.",
    "forget": "Take a machine that never comes back off the roster.",
    "recover": "Make this machine's copy of the queue the cluster.",
    "key": "Show the cluster's key, and give out credentials.",
    "config": "Show the settings, and where each came from.",
    "backup": "Copy this machine's queue into FILE, daemon running or not.",
    "restore": "Make a backup the queue of this machine, as a new node.",
    "completion": "Print what makes a shell complete meshq's commands.",
}
# Those whose function can't be called as they are.
FUNCTIONS = {"map": "map_over"}


class Commands(click.Group):
    """A group whose commands are loaded when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"meshq.cli.{cmd_name}"), FUNCTIONS.get(cmd_name, cmd_name))
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        # Loaded here, and no command with it: a key was pressed, and somebody waits.
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(name, help=told) for name, told in COMMANDS.items() if name.startswith(incomplete)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            command = next((word for word in args if word in COMMANDS), None)
            if error.option_name in SHARED_OPTIONS or (command is not None and not error.possibilities):
                text = f"{error.option_name} goes after the command: meshq {command or 'COMMAND'} {error.option_name} …"
                raise click.UsageError(text, ctx) from error
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
            raise click.UsageError(f"no such command: {args[0]}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(meshq.__version__, prog_name="meshq", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """One task queue out of the machines that you already have.

    \b
    Examples:
      meshq demo                      see it work, and survive its leader
      meshq run primes 100000         compute something, here or on the cluster
      meshq up                        make this machine part of the cluster
      meshq submit primes 100000      hand a task in
      meshq status                    see who is there
      meshq explain                   see why it is as it is

    Exit codes: 0 all is well, 1 the task failed, 2 wrong usage, 3 no daemon or nothing was kept.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit(EXIT_USAGE)


def exit_code(error: MeshqError) -> int:
    """What a command ends with that met this error."""
    if isinstance(error, (TaskFailed, WaitTimeout)):
        return EXIT_FAILED
    if not isinstance(error, NoDaemon) and 400 <= error.status < 500 and not error.retryable:
        return EXIT_USAGE
    return EXIT_NOTHING_KEPT


def complain(message: str, ctx: click.Context | None = None) -> None:
    """One line on stderr."""
    name = ctx.command_path if ctx is not None else "meshq"
    line = " ".join(printable(message).split())
    click.echo(f"{name}: {line}", err=True)


def run(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments after `meshq`; None for those of this process.

    Returns:
        The exit code.
    """
    try:
        code = cli.main(args=argv, prog_name="meshq", standalone_mode=False)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "meshq"
        complain(f"{_lower(error.format_message())} (see {where} --help)", error.ctx)
        return EXIT_USAGE
    except click.ClickException as error:
        complain(_lower(error.format_message()))
        return EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except OSError as error:
        if not output.is_unwritten(error):
            raise
        return _unwritten(error)
    except ConfigError as error:
        # The one error that may go on for more than a line: a module that can't be loaded shows its traceback.
        first, *rest = error.message.splitlines()
        complain(first)
        for line in rest:
            click.echo(line, err=True)
        return exit_code(error)
    except MeshqError as error:
        complain(error.message)
        return exit_code(error)
    return code if isinstance(code, int) else 0


def main() -> None:
    """The console script."""
    code = run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output went away: nothing to complain about.
        output.discard()
    except OSError as error:
        code = _unwritten(error)
    sys.exit(code)


def _unwritten(error: OSError) -> int:
    output.discard()
    complain(f"can't write the output: {error.strerror}")
    return EXIT_FAILED


def _lower(message: str) -> str:
    message = message.rstrip(".")
    # The name of a variable stays as it is.
    return message if message[1:2].isupper() else message[:1].lower() + message[1:]


if __name__ == "__main__":
    main()
