"""Whether arguments fit a task: checked at submit by any node, from what a worker told about the task."""

from __future__ import annotations

import datetime
import difflib
import reprlib
from collections.abc import Callable, Sequence
from typing import Any

from meshq.core.infos import Param, TaskInfo
from meshq.errors import BadArguments

# What a `Param.type` is made of, joined by `|`. JSON has no tuples and no sets, so a list passes for both.
TYPES: dict[str, Callable[[Any], bool]] = {
    "any": lambda value: True,
    "none": lambda value: value is None,
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "bytes": lambda value: isinstance(value, bytes),
    "list": lambda value: isinstance(value, list),
    "dict": lambda value: isinstance(value, dict),
    "tuple": lambda value: isinstance(value, (tuple, list)),
    "set": lambda value: isinstance(value, (set, frozenset, list)),
    "datetime": lambda value: isinstance(value, datetime.datetime),
}

_SHOWN_CHARS = 60
_SHOWN_BITS = 200
_LOOK = reprlib.Repr()
_LOOK.maxstring = _LOOK.maxother = _LOOK.maxlong = 2 * _SHOWN_CHARS
_LOOK.maxlist = _LOOK.maxtuple = _LOOK.maxdict = _LOOK.maxset = _LOOK.maxfrozenset = _SHOWN_CHARS // 2
_LOOK.maxlevel = 2


def check(info: TaskInfo, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Checks that the task can be called with these arguments.

    Args:
        info: What a worker said about the task.
        args: The positional arguments.
        kwargs: The arguments by name.

    Raises:
        BadArguments: With the task, the argument and what is allowed, in one line.
    """
    positional = [param for param in info.params if param.kind in ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD")]
    given: set[str] = set()
    rest = _first(info.params, "VAR_POSITIONAL")
    if len(args) > len(positional) and rest is None:
        raise BadArguments(
            f"{info.name} takes {_count(len(positional), 'positional argument')}, but {len(args)} were given; "
            f"call it as {usage(info)}"
        )
    for index, value in enumerate(args):
        param = positional[index] if index < len(positional) else rest
        assert param is not None
        _check_value(info, param, param.name, value)
        given.add(param.name)
    for key, value in kwargs.items():
        _check_value(info, _by_name(info, key, given), key, value)
        given.add(key)
    missing = [
        param.name
        for param in info.params
        if param.required and not param.kind.startswith("VAR_") and param.name not in given
    ]
    if missing:
        raise BadArguments(f"{info.name}: missing {', '.join(missing)}; call it as {usage(info)}")


def usage(info: TaskInfo) -> str:
    """How the task is called, in one line: `primes(limit: int, algorithm: str = …)`."""
    parts: list[str] = []
    starred = False
    for param in info.params:
        stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(param.kind, "")
        if param.kind == "KEYWORD_ONLY" and not starred:
            parts.append("*")
        starred = starred or param.kind in ("VAR_POSITIONAL", "KEYWORD_ONLY")
        kind = "|".join(param.choices) or ("" if param.type == "any" else param.type)
        text = f"{stars}{param.name}: {kind}" if kind else f"{stars}{param.name}"
        parts.append(text if param.required or stars else f"{text} = {param.default or '…'}")
    return f"{info.name}({', '.join(parts)})"


def _first(params: Sequence[Param], kind: str) -> Param | None:
    return next((param for param in params if param.kind == kind), None)


def _by_name(info: TaskInfo, key: str, given: set[str]) -> Param:
    named = {param.name: param for param in info.params if param.kind in ("POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY")}
    param = named.get(key)
    if param is not None:
        if key in given:
            raise BadArguments(f"{info.name}: {key} is given twice, by position and by name")
        return param
    others = _first(info.params, "VAR_KEYWORD")
    if others is not None:
        return others
    key = key[:_SHOWN_CHARS]  # a name may be as long as a body, and to compare it takes time and memory by its length
    near = difflib.get_close_matches(key, named, 1, 0.5)
    if near:
        hint = f"did you mean {near[0]}?"
    elif named:
        hint = f"it has {', '.join(named)}"
    else:
        hint = "it takes none by name"
    raise BadArguments(f"{info.name} has no argument {key}; {hint}")


def _check_value(info: TaskInfo, param: Param, label: str, value: Any) -> None:
    words = param.type.split("|")
    # A word of a later version says nothing to this one, so it lets everything pass.
    if not any(word not in TYPES or TYPES[word](value) for word in words):
        allowed = " or ".join(words)
        raise BadArguments(f"{info.name}: {label} must be {allowed}, not {_shown(value)}")
    if param.choices and value is not None and value not in param.choices:
        text = value[:_SHOWN_CHARS] if isinstance(value, str) else ""
        near = difflib.get_close_matches(text, param.choices, 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadArguments(f"{info.name}: {label} must be one of {', '.join(param.choices)}, not {_text(value)}{hint}")


def _shown(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, int) and value.bit_length() > _SHOWN_BITS:
        return f"an int of {value.bit_length()} bits"
    return f"{type(value).__name__} {_text(value)}"


def _text(value: Any) -> str:
    """The beginning of a value for people, in a time that does not grow with the value."""
    try:
        text = _LOOK.repr(value)
    except ValueError:
        return "with an int of very many digits"  # which Python refuses to write
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}" if number else f"no {noun}s"
