"""Functions that travel by name: what `meshq.Executor` sends, and what a machine calls of it.

An entry `MODULE:FUNCTION` in a machine's `allow` lets others call that function there, `MODULE:*` all that the module
defines. Each such module becomes a task of the machine, `call:MODULE`, so that a call goes only where it is taken. The
modules are imported because the configuration names them, before the first call comes. What comes from elsewhere is
looked up among what they define; nothing is ever imported because somebody sent its name.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import sys
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

from meshq.core.limits import NAME_CHARS_MAX
from meshq.errors import ConfigError
from meshq.tasks import context
from meshq.tasks.registry import Registry, look_here

PREFIX: Final = "call:"


class Refused(context.Final):
    """Raised where a call is not allowed, or makes no sense; it is not tried again."""

    __module__ = "meshq"


class Address(NamedTuple):
    """Where a function stands: in which module, and what it is called there."""

    module: str
    qualname: str

    def __str__(self) -> str:
        return f"{self.module}:{self.qualname}"

    @property
    def task(self) -> str:
        """The task that calls it."""
        return PREFIX + self.module


def offer(registry: Registry, allow: Sequence[str]) -> tuple[str, ...]:
    """Imports the modules of which something may be called, and registers a task for each.

    Args:
        registry: What was loaded.
        allow: The setting. An entry with a colon means a function, unless a task has such a name.

    Returns:
        What is left of it: patterns for tasks, as `Registry.allowed` reads them.

    Raises:
        ConfigError: An entry makes no sense, or the import fails; the message then holds the full traceback.
    """
    functions = [entry for entry in allow if ":" in entry and not _is_task(registry, entry)]
    rest = tuple(entry for entry in allow if entry not in functions)
    modules: dict[str, list[str]] = {}
    for entry in functions:
        module, _, pattern = entry.partition(":")
        if not pattern or len(PREFIX + module) > NAME_CHARS_MAX or not _is_dotted(module):
            raise ConfigError(
                f"allow = {entry}: a function that may be called stands there as MODULE:FUNCTION, all of a module as "
                "MODULE:*; the module is written out in full"
            )
        modules.setdefault(module, []).append(pattern)
    for name, patterns in modules.items():
        registry.add(_caller(_imported(name), patterns), PREFIX + name)
    return (*rest, *(PREFIX + name for name in modules)) if rest else ()


def _is_task(registry: Registry, entry: str) -> bool:
    return any(fnmatchcase(name, entry) for name in registry.names())


def _is_dotted(module: str) -> bool:
    return all(part.isidentifier() for part in module.split("."))


def _imported(name: str) -> types.ModuleType:
    look_here()
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        text = traceback.format_exc().rstrip()
        raise ConfigError(f"allow = {name}:… can't be used, since the module can't be loaded:\n{text}") from error


def _caller(module: types.ModuleType, patterns: Sequence[str]) -> Callable[..., list[Any]]:
    def call(function: str, calls: list[Any]) -> list[Any]:
        target = _found(module, function, patterns)
        return [_called(target, each) for each in calls]

    call.__doc__ = f"Calls functions of {module.__name__} by name, for meshq.Executor."
    return call


def _called(target: Callable[..., Any], call: Any) -> Any:
    match call:
        case [list() | tuple() as args, dict() as kwargs]:
            result = target(*args, **kwargs)
            return asyncio.run(result) if inspect.iscoroutine(result) else result
    raise Refused("calls: each must be [args, kwargs]")


def _found(module: types.ModuleType, qualname: str, patterns: Sequence[str]) -> Callable[..., Any]:
    """The function of this name in the module.

    Raises:
        Refused: It is not allowed, or the module defines none.
    """
    name = module.__name__
    if not any(fnmatchcase(qualname, pattern) for pattern in patterns):
        allowed = ", ".join(f"{name}:{pattern}" for pattern in patterns)
        raise Refused(f"this machine's configuration does not allow {name}:{qualname:.100}; it has allow = {allowed}")
    found = _looked_up(module, qualname)
    # What a module only imported, or what hangs on a function, is called something else.
    if found is None or _address(found) != (name, qualname):
        raise Refused(f"there is no function {qualname:.100} in the module {name} of this machine")
    return found


def _looked_up(module: types.ModuleType, qualname: str) -> Callable[..., Any] | None:
    first, *rest = qualname.split(".")
    if any(part.startswith("__") for part in rest):
        return None
    found: Any = vars(module).get(first)
    for part in rest:
        found = getattr(found, part, None) if isinstance(found, type) else None
    return found if callable(found) else None


def unwrapped(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The same call without `functools.partial`, whose arguments travel with the others."""
    while isinstance(function, functools.partial):
        args, kwargs = (*function.args, *args), {**function.keywords, **kwargs}
        function = function.func
    return function, args, dict(kwargs)


def address(function: Callable[..., Any]) -> Address:
    """Where another machine finds this function.

    Raises:
        TypeError: It has no name that leads to it; the text says what to do.
    """
    shown = f"{function!r:.100}"
    if not callable(function):
        raise TypeError(f"{shown} can't be called")
    found = _address(function)
    if found is None:
        raise TypeError(
            f"{shown} can't be sent: only a function of a module travels, by its name; write one that takes what it "
            "needs as arguments"
        )
    if "<lambda>" in found.qualname:
        raise TypeError(f"{shown} can't be sent: a lambda has no name; write it as a function of a module: def …")
    if "<locals>" in found.qualname:
        raise TypeError(
            f"{shown} can't be sent: it was made inside of a function, where no other machine finds it; move it to the "
            "top of a module, and hand in what it needs as arguments"
        )
    if found.module == "__main__":
        raise TypeError(
            f"{shown} can't be sent: it stands in the program itself (__main__), which other machines don't have; "
            "move it into a module that they do"
        )
    module = sys.modules.get(found.module)
    if module is None or _looked_up(module, found.qualname) != function:
        raise TypeError(
            f"{shown} can't be sent: {found} is something else, or nothing; a function travels by the name that it has "
            "in its module"
        )
    return found


def _address(function: Any) -> Address | None:
    """How a function calls itself; None for what is no function of a module."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type):
        # A class's own method, which may be one that another class handed down.
        return Address(str(owner.__module__), f"{owner.__qualname__}.{function.__name__}")
    if not isinstance(function, type) and owner is not None and not isinstance(owner, types.ModuleType):
        return None
    home = function if getattr(function, "__module__", None) else getattr(function, "__objclass__", None)
    module, qualname = getattr(home, "__module__", None), getattr(function, "__qualname__", None)
    return Address(module, qualname) if isinstance(module, str) and isinstance(qualname, str) else None
