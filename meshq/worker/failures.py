"""How a run failed, in words that can be kept, whatever it raised."""

from __future__ import annotations

import traceback
from typing import Any

from meshq.core.limits import ERROR_BYTES_MAX
from meshq.wire import values

ARGS_BYTES_MAX = 4096
ARGS_DEPTH_MAX = 8


def pack_error(kind: str, message: str, text: str = "", args: Any = None) -> bytes:
    """An error as it is stored: the packed `{type, message, traceback}`, of bounded size.

    Args:
        kind, message, text: These three.
        args: What a built-in exception is made of again, as `args` beside them; None where that can't be said.
    """
    half = ERROR_BYTES_MAX // 16
    message, text = _shortened(message, half), _shortened(text, half * 4)
    error = {"type": _shortened(kind, 100), "message": message, "traceback": text}
    return values.pack(error if args is None else error | {"args": args})


def _shortened(text: str, half_chars: int) -> str:
    # A lone surrogate, as file names have, is no text that every reader takes.
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= 2 * half_chars:
        return text
    return f"{text[:half_chars]}\n… {len(text) - 2 * half_chars} characters left out …\n{text[-half_chars:]}"


def failure(error: BaseException) -> bytes:
    """What a task raised, as it is stored. Its class is the user's own, so that every look at it may fail."""
    try:
        return pack_error(_name_of(type(error)), message_of(error), traceback_of(error), _args_of(error))
    except BaseException as trouble:
        text = f"it raised an exception that can't be looked at: that raised {type(trouble).__name__}"
        return pack_error("Exception", text)


def _args_of(error: BaseException) -> Any:
    if type(error).__module__ != "builtins":
        return None
    # An OSError's own `args` lack the file's name.
    args = error.__reduce__()[1]
    try:
        return args if len(values.pack(args, depth_max=ARGS_DEPTH_MAX)) <= ARGS_BYTES_MAX else None
    except values.Unencodable:
        return None


def _name_of(kind: type[BaseException]) -> str:
    if kind.__module__ in ("builtins", "__main__"):
        return str(kind.__qualname__)
    return f"{kind.__module__}.{kind.__qualname__}"


def traceback_of(error: BaseException) -> str:
    """Where it was raised."""
    # The first step of the traceback is the child's own.
    step = error.__traceback__.tb_next if error.__traceback__ is not None else None
    try:
        return "".join(traceback.format_exception(type(error), error, step))
    except BaseException as trouble:
        return f"the traceback can't be shown: {type(trouble).__name__}"


def message_of(error: BaseException) -> str:
    """What it says, or why that can't be said."""
    if isinstance(error, KeyboardInterrupt):
        return "the task was interrupted (KeyboardInterrupt)"
    try:
        if isinstance(error, SystemExit):
            return f"the task called sys.exit({error.code!r:.200})"
        return str(error) or type(error).__name__
    except BaseException as trouble:
        return f"a {type(error).__name__} whose text can't be shown: its str() raised {type(trouble).__name__}"
