"""Tasks by name: the `@task` decorator, what is told about a function, and the loading of users' modules."""

from __future__ import annotations

import datetime
import difflib
import importlib
import importlib.util
import inspect
import logging
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from meshq.core.infos import Param, TaskInfo
from meshq.core.limits import NAME_CHARS_MAX
from meshq.errors import ConfigError, UnknownTask
from meshq.tasks import options
from meshq.tasks.options import Options

Function = TypeVar("Function", bound=Callable[..., Any])

log = logging.getLogger("meshq")

BUILT_IN = ("meshq.tasks.basic", "meshq.tasks.primes", "meshq.tasks.compute")
# No blank and no `=`: a name stands on a command line. No leading `-` for the same reason.
_NAME = re.compile(r"\w[\w.:/-]*")
# A longer default is shown as `…`.
DEFAULT_CHARS_MAX = 100
_WORDS: dict[Any, str] = {
    int: "int", float: "float", str: "str", bool: "bool", bytes: "bytes", list: "list", dict: "dict",
    tuple: "tuple", set: "set", frozenset: "set", datetime.datetime: "datetime", types.NoneType: "none",
}  # fmt: skip


class Registry:
    """Functions by task name."""

    def __init__(self) -> None:
        self._functions: dict[str, Callable[..., Any]] = {}
        self._options: dict[str, Options] = {}
        self.additions = 0

    def add(self, function: Callable[..., Any], name: str | None = None, options: Options | None = None) -> None:
        """Takes a function in.

        Args:
            function: What the task runs; a plain function or an async one.
            name: The task's name; the function's own by default.
            options: How it is to be run; nothing is said about that by default.

        Raises:
            ConfigError: The name is no good, or taken by another function.
        """
        if not callable(function) or isinstance(function, type):
            raise ConfigError(f"@task belongs on a function, not on {function!r:.80}")
        name = getattr(function, "__name__", "") if name is None else name
        if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > NAME_CHARS_MAX:
            raise ConfigError(
                f"{_place(function)}: {name!r:.80} can't be a task's name: letters, digits and _ . : / - only, "
                f"{NAME_CHARS_MAX} at most; give one with @task(name=…)"
            )
        known = self._functions.get(name)
        if known is not None and not _same(known, function):
            raise ConfigError(
                f"two tasks are called {name}: {_place(known)} and {_place(function)}; rename one with @task(name=…)"
            )
        self._functions[name] = function
        self._options[name] = options or Options()
        self.additions += 1

    def stand_in(self, module: types.ModuleType) -> bool:
        """Whether a task is of this module or of one inside of it, or was imported into it."""
        things = {id(thing) for thing in vars(module).values()}
        inside = f"{module.__name__}."
        return any(
            id(function) in things or f"{function.__module__}.".startswith(inside)
            for function in self._functions.values()
        )

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._functions))

    def resolve(self, name: str) -> Callable[..., Any]:
        """The function of this name.

        Raises:
            UnknownTask: There is none; the error names the nearest, or all that are known.
        """
        function = self._functions.get(name)
        if function is None:
            near = difflib.get_close_matches(name, self._functions, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(self.names()) or 'none'}"
            raise UnknownTask(f"no task is called {name!r:.80}; {hint}")
        return function

    def options(self, name: str) -> Options:
        """How the task of this name, which there is, is to be run."""
        return self._options[name]

    def allowed(self, patterns: Collection[str]) -> tuple[str, ...]:
        """The names of the tasks that fit one of these patterns, sorted; all where there is no pattern.

        Args:
            patterns: A task's name (`primes`), a module (`mytasks`), or a task in one (`mytasks.render`), where `*`
                stands for any characters.

        Raises:
            ConfigError: None fits.
        """
        if not patterns:
            return self.names()
        found = tuple(name for name in self.names() if self._fits(name, patterns))
        if not found:
            shown = ", ".join(patterns)
            raise ConfigError(f"allow = {shown}: no task that was loaded fits; there are {', '.join(self.names())}")
        return found

    def _fits(self, name: str, patterns: Iterable[str]) -> bool:
        module = self._functions[name].__module__
        called = (name, module, f"{module}.{name}")
        return any(fnmatchcase(each, pattern) for pattern in patterns for each in called)

    def infos(self, names: Iterable[str] | None = None) -> tuple[TaskInfo, ...]:
        """What is told about each of these tasks; about all, sorted by name, where none are named."""
        return tuple(self._info(name) for name in (self.names() if names is None else names))

    def _info(self, name: str) -> TaskInfo:
        options = self._options[name]
        return replace(
            describe(self._functions[name], name), priority=options.priority, timeout_s=options.timeout_s,
            retries=options.retries, max_running=options.max_running,
        )  # fmt: skip


DEFAULT = Registry()


Kinds = type[BaseException] | tuple[type[BaseException], ...]


@overload
def task(function: Function, /) -> Function: ...
@overload
def task(
    *,
    name: str | None = None,
    retries: int | None = None,
    timeout_s: float | None = None,
    priority: int | None = None,
    max_running: int | None = None,
    final: Kinds = (),
) -> Callable[[Function], Function]: ...
def task(
    function: Function | None = None,
    /,
    *,
    name: str | None = None,
    retries: int | None = None,
    timeout_s: float | None = None,
    priority: int | None = None,
    max_running: int | None = None,
    final: Kinds = (),
) -> Function | Callable[[Function], Function]:
    """Makes a function a task, under its own name or the given one. The function itself stays as it was.

    What it says about how the task is to be run counts for each submit that leaves it open.

    Args:
        function: The function; the decorator is used without brackets then.
        name: The task's name.
        retries: How many times it is tried again after a failure, 0 to 1,000.
        timeout_s: Seconds after which a run is ended and has failed, up to 30 days.
        priority: The higher, the earlier; 0 for those that say nothing.
        max_running: How many of this name run at once in the whole cluster; 0 for any number.
        final: Exceptions (and their subclasses) after which it is not tried again; `meshq.Final` always is one.

    Raises:
        ConfigError: The name is no good, or taken by another function; or an option is out of its range.
    """

    def decorate(decorated: Function) -> Function:
        checked = options.checked(
            _place(decorated), retries=retries, timeout_s=timeout_s, priority=priority, max_running=max_running,
            final=final,
        )  # fmt: skip
        DEFAULT.add(decorated, name, checked)
        return decorated

    return decorate if function is None else decorate(function)


def resolve(name: str) -> Callable[..., Any]:
    """The function that runs the task of this name; raises UnknownTask."""
    return DEFAULT.resolve(name)


def load_built_in() -> None:
    """Registers meshq's own tasks."""
    for module in BUILT_IN:
        importlib.import_module(module)


def load(spec: str) -> None:
    """Imports a user's module, whose `@task` functions register themselves.

    Args:
        spec: A path that ends in `.py`, or the dotted name of a module that can be imported.

    Raises:
        ConfigError: It can't be found, it has no task, or its import fails; the message then holds the full traceback.
    """
    before = DEFAULT.additions
    try:
        if spec.endswith(".py"):
            module = _load_file(Path(spec))
        else:
            look_here()
            module = importlib.import_module(spec)
    except FileNotFoundError as error:
        if error.filename == spec:
            raise ConfigError(f"--tasks {spec}: there is no such file") from None
        raise ConfigError(_load_failure(spec)) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(_load_failure(spec)) from error
    # What was imported before registers nothing a second time, but its tasks stand in it.
    if DEFAULT.additions == before and not DEFAULT.stand_in(module):
        raise ConfigError(f"--tasks {spec}: no function in it is a task; put @task before those that shall be")


def look_here() -> None:
    """Lets modules be imported from where the daemon was started, which their names may mean."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        # Last of all: nothing that is installed is looked for here first.
        sys.path.append(str(Path.cwd()))


def _load_failure(spec: str) -> str:
    return f"--tasks {spec} can't be loaded:\n{traceback.format_exc().rstrip()}"


def _load_file(path: Path) -> types.ModuleType:
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    # A file may bear the name of a module that is there already, such as random.py.
    name = path.stem if path.stem not in sys.modules else f"meshq_file_{path.stem}"
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def describe(function: Callable[..., Any], name: str | None = None) -> TaskInfo:
    """What is told about a function: its name, the first line of its docstring, its parameters and their types."""
    hints = _hints(function)
    params = []
    for param in _parameters(function):
        word, choices = _type(hints.get(param.name, Any))
        required = param.default is param.empty and param.kind not in (param.VAR_POSITIONAL, param.VAR_KEYWORD)
        params.append(
            Param(
                name=param.name, kind=param.kind.name, required=required, type=word, choices=choices,
                default=_default(param),
            )
        )  # fmt: skip
    doc = (inspect.getdoc(function) or "").strip().split("\n")[0]
    return TaskInfo(name=name or function.__name__, doc=doc, params=tuple(params))


def _default(param: inspect.Parameter) -> str:
    if param.default is param.empty:
        return ""
    try:
        text = repr(param.default)
    except Exception as error:  # a repr of the user's own
        log.debug("the default of %s can't be shown: %r", param.name, error)
        return "…"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= DEFAULT_CHARS_MAX and text.isprintable() else "…"


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        # Functions written in C may have no signature; they check their arguments themselves.
        return [
            inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
            inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
        ]


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    hints = {}
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    for key, hint in inspect.get_annotations(function).items():
        try:
            hints[key] = typing.get_type_hints(_Annotated(key, hint), scope, include_extras=True)[key]
        except Exception:
            # An annotation that can't be evaluated at run time tells nothing; those beside it still do.
            log.debug("%s: the annotation of %s can't be evaluated: %r", function, key, hint)
    return hints


class _Annotated:
    """Something with one annotation, so that a bad one spoils no other."""

    def __init__(self, key: str, hint: Any) -> None:
        self.__annotations__ = {key: hint}


def _type(hint: Any) -> tuple[str, tuple[str, ...]]:
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _type(typing.get_args(hint)[0])
    if origin is Literal:
        values = typing.get_args(hint)
        choices = tuple(value for value in values if value is not None)
        if all(isinstance(value, str) for value in choices):
            return ("str|none" if None in values else "str"), choices
        return "any", ()
    if origin in (typing.Union, types.UnionType):
        return _union([_type(member) for member in typing.get_args(hint)])
    plain = hint if origin is None else origin
    try:
        return _WORDS.get(plain, "any"), ()
    except TypeError:  # a hint that can't be hashed
        return "any", ()


def _union(members: list[tuple[str, tuple[str, ...]]]) -> tuple[str, tuple[str, ...]]:
    words = list(dict.fromkeys(part for word, _ in members for part in word.split("|")))
    if "any" in words:
        return "any", ()
    limited = [choices for word, choices in members if word != "none"]
    # Choices count only where every other member has them: Literal["a"] | int takes more than its words.
    choices = tuple(choice for group in limited for choice in group) if all(limited) else ()
    return "|".join(sorted(words, key=lambda word: word == "none")), choices


def _same(known: Callable[..., Any], function: Callable[..., Any]) -> bool:
    """Whether this is the same function again: of a module that was reloaded, or of a notebook's cell."""
    if known is function:
        return True
    if (known.__module__, known.__qualname__) != (function.__module__, function.__qualname__):
        return False
    old, new = getattr(known, "__code__", None), getattr(function, "__code__", None)
    if old is None or new is None:
        return False
    return bool(old.co_filename != new.co_filename or old.co_firstlineno == new.co_firstlineno)


def _place(function: Callable[..., Any]) -> str:
    code = getattr(function, "__code__", None)
    name = getattr(function, "__qualname__", repr(function))
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code is not None else name
