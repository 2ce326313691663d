"""A task's name and arguments, as they stand on the command line."""

from __future__ import annotations

import difflib
from typing import Any

import click

from meshq.cli.common import Command
from meshq.errors import Malformed
from meshq.wire import values

_TAIL = "meshq.tail"


class TaskCommand(Command):
    """A command that takes a task's name and arguments: `-5` is an argument, `--wiat` is a mistake.

    What stands after `--` is found in the context's `meta`, since there all of it is plain text.
    """

    ignore_unknown_options = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        head, tail = args, []
        if "--" in args:
            cut = args.index("--")
            head, tail = args[:cut], args[cut + 1 :]
        ctx.meta[_TAIL] = tail
        rest = super().parse_args(ctx, head)
        known = [option for param in self.params for option in param.opts]
        for text in (ctx.params.get("name") or "", *(ctx.params.get("arguments") or ())):
            if text.startswith("-") and len(text) > 1 and not _is_number(text):
                raise _no_option(text, known, ctx)
        return rest


def task_arguments(arguments: tuple[str, ...]) -> tuple[list[Any], dict[str, Any]]:
    """The positional and the keyword arguments of a task, as they stand on the command line.

    Each is read as JSON, else as a text; `key=value` is a keyword argument; what stood after `--` is text.

    Raises:
        Malformed: A JSON object with one of meshq's own tags (`{"$bytes": …}`) has a wrong content.
        click.UsageError: A keyword stands twice.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for text in arguments:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            args.append(_value(text))
        elif key in kwargs:
            raise click.UsageError(f"the argument {key} is given twice")
        else:
            kwargs[key] = _value(value)
    args += click.get_current_context().meta.get(_TAIL, [])
    return args, kwargs


def _value(text: str) -> Any:
    try:
        plain = values.loads(text)
    except Malformed:
        return text
    return values.from_json(plain)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _no_option(text: str, known: list[str], ctx: click.Context) -> click.UsageError:
    option = text.partition("=")[0]
    near = difflib.get_close_matches(option, known, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else "an argument of the task that begins with - stands after --"
    return click.UsageError(f"no such option: {option}; {hint}", ctx)
