"""The rules of the house, as a test: sizes, layers, and calls that only one place may make.

Where a rule has exceptions, they stand here, each with its reason; one that is no longer needed fails, too.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
TOP_LEVEL = {"LICENSE", "README.md", "configs", "meshq", "pyproject.toml", "tests"}
# What tools leave there.
LEFTOVERS = {"__pycache__", "build", "dist"}
MARKS = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")
SILENCERS = re.compile(r"#\s*(type: ignore|no" r"qa)\b")
SQL = re.compile(
    r"\b(SELECT\s.+\sFROM|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|CREATE\s+(TABLE|INDEX)|PRAGMA\s|BEGIN\s+IMMEDIATE)\b",
    re.DOTALL,
)

# Comments that silence a checker.
SILENCED = {
    "tests/sim/loop.py": "call_soon and call_at take a context and give back our own handle",
}
# Handlers of `Exception` that do not raise it again. All log it, or hand it to whom it belongs.
BROAD_HANDLERS = {
    "meshq/store/database.py:attempt": "whatever it is, it belongs to the caller of write(), on the other thread",
    "meshq/tasks/call.py:_imported": "a user's module may raise anything when it is imported",
    "meshq/tasks/options.py:_shown": "a user's object may raise anything when it is shown",
    "meshq/tasks/registry.py:_default": "a user's default may raise anything when it is shown",
    "meshq/tasks/registry.py:load": "a user's module may raise anything when it is imported",
    "meshq/tasks/registry.py:_hints": "a user's annotation may raise anything when it is evaluated",
    "meshq/wire/connection.py:_answered": "the edge of a peer's request",
    "meshq/wire/connection.py:_serve_stream": "the edge of a peer's request",
    "meshq/wire/doorman.py:_let_in": "the edge of a stranger's call: one that goes wrong must not close the door",
    "meshq/wire/http.py:guarded": "the edge of a client's request",
    "meshq/wire/link.py:_guarded": "the edge of a background task: one bad peer must not take all links with it",
    "meshq/worker/child.py:_run_task": "the edge of a task: whatever it raises is how it ended",
    "meshq/worker/child.py:_packed": "a user's object may raise anything when it is looked at",
    "meshq/worker/failures.py:failure": "a user's error may raise anything when it is looked at",
    "meshq/worker/failures.py:message_of": "a user's error may raise anything when its text is shown",
    "meshq/worker/failures.py:traceback_of": "a user's error may raise anything when its traceback is shown",
}
# Tasks that no TaskGroup owns.
LOOSE_TASKS = {
    "meshq/node/embedded.py": "it must stop in stages after its user was cancelled; a group would cancel it",
}
# Bases that a class does not have its methods' meaning from.
OWN_BASES = {"Protocol", "Struct", "StrEnum", "Generic", "NamedTuple"}
# Modules that read the time or make chance, beside the clock.
TIME_AND_CHANCE = {
    "meshq/node/clock.py": "the one that the design names",
    "meshq/node/logs.py": "turns a record's own time into text",
    "meshq/cli/tables.py": "shows ages to people",
    "meshq/cli/demo_nodes.py": "makes the key of the demo's cluster, and waits for processes",
    "meshq/cli/demo_task.py": "a task that takes its time",
    "meshq/cli/demo_view.py": "shows people since when the demo runs",
    "meshq/client/options.py": "a client makes the ids of its tasks",
    "meshq/worker/child.py": "a child has no clock but the system's; it measures a run",
    "meshq/tasks/context.py": "the same; what is left of a run's time limit",
    "meshq/worker/teller.py": "the same; what a run tells is told no more often than somebody looks",
}


@cache
def sources(folder: str) -> dict[str, str]:
    """The Python files in a folder of the repository, by path."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in sorted((ROOT / folder).rglob("*.py"))
    }


@cache
def trees(folder: str) -> dict[str, ast.Module]:
    """The same, parsed."""
    return {path: ast.parse(text, path) for path, text in sources(folder).items()}


def everything() -> dict[str, str]:
    return {**sources("meshq"), **sources("tests")}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def test_files_are_short() -> None:
    long = {path: lines for path, text in everything().items() if (lines := len(text.splitlines())) > FILE_LINES_MAX}
    assert not long


def test_functions_are_short() -> None:
    long = {
        f"{path}:{function.lineno} {function.name}": lines
        for folder in ("meshq", "tests")
        for path, tree in trees(folder).items()
        for function in functions(tree)
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert not long


def test_nothing_is_left_undone() -> None:
    texts = {path: text for path, text in everything().items() if MARKS.search(text)}
    assert not texts.keys()


def test_checkers_are_silenced_where_it_is_explained() -> None:
    found = {path for path, text in everything().items() if SILENCERS.search(text)}
    assert found == set(SILENCED)


def test_broad_handlers_are_known() -> None:
    found = {
        f"{path}:{name}"
        for path, tree in trees("meshq").items()
        for name, handler in _handlers(tree)
        if _is_broad(handler) and not _raises_again(handler)
    }
    assert found == set(BROAD_HANDLERS)


def _handlers(tree: ast.AST, name: str = "") -> Iterator[tuple[str, ast.ExceptHandler]]:
    """Each handler with the innermost function around it."""
    for node in ast.iter_child_nodes(tree):
        inner = node.name if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else name
        if isinstance(node, ast.ExceptHandler):
            yield name, node
        yield from _handlers(node, inner)


def _is_broad(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(each, ast.Name) and each.id in ("Exception", "BaseException") for each in caught)


def _raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_every_task_has_an_owner() -> None:
    found = {path for path, tree in trees("meshq").items() if _loose_tasks(tree)}
    assert found == set(LOOSE_TASKS)


def _loose_tasks(tree: ast.Module) -> list[int]:
    """The lines that start a task outside of a TaskGroup."""
    groups = _group_names(tree)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    return [
        call.lineno
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and (
            call.func.attr == "ensure_future"
            or (call.func.attr == "create_task" and _last_name(call.func.value) not in groups)
        )
    ]


def _group_names(tree: ast.Module) -> set[str]:
    """What in a module is a TaskGroup, by its annotation or by `async with`, or returns one."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.withitem(context_expr=ast.Call() as made, optional_vars=ast.Name(id=name)):
                names |= {name} if "TaskGroup" in ast.unparse(made.func) else set()
            case ast.arg(arg=name, annotation=ast.expr() as hint):
                names |= {name} if "TaskGroup" in ast.unparse(hint) else set()
            case ast.AnnAssign(target=target, annotation=hint):
                names |= {_last_name(target)} if "TaskGroup" in ast.unparse(hint) else set()
            case ast.FunctionDef(name=name, returns=ast.expr() as hint):
                names |= {name} if "TaskGroup" in ast.unparse(hint) else set()
    return names


def _last_name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=inner) | ast.Subscript(value=inner):
            return _last_name(inner)
    return ast.unparse(node)


def _imports(tree: ast.Module) -> set[str]:
    """The first names of all modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_time_and_chance_are_handed_in() -> None:
    found = {path for path, tree in trees("meshq").items() if _imports(tree) & {"time", "random", "secrets"}}
    assert found == set(TIME_AND_CHANCE)


def test_sql_stands_in_the_store() -> None:
    outside = {path: tree for path, tree in trees("meshq").items() if not path.startswith("meshq/store/")}
    assert not {path for path, tree in outside.items() if _imports(tree) & {"sqlite3", "aiosqlite"}}
    assert not {
        f"{path}:{node.lineno}"
        for path, tree in outside.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.search(node.value)
    }


def test_what_is_public_says_what_it_is() -> None:
    silent = [f"{path}:{name}" for path, tree in trees("meshq").items() for name in _without_docstring(tree)]
    assert not silent


def _without_docstring(tree: ast.Module) -> Iterator[str]:
    """The module, its public classes and functions, and the methods that such a class does not have from another."""
    if not ast.get_docstring(tree):
        yield "the module"
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
            if not ast.get_docstring(node) and not _is_overload(node):
                yield node.name
            if isinstance(node, ast.ClassDef) and {_last_name(base) for base in node.bases} <= OWN_BASES:
                methods = [each for each in node.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))]
                yield from (
                    f"{node.name}.{method.name}"
                    for method in methods
                    if not method.name.startswith("_") and not ast.get_docstring(method)
                )


def _is_overload(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(_last_name(decorator) == "overload" for decorator in node.decorator_list)


def test_the_top_of_the_repository() -> None:
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert {name for name in names - LEFTOVERS if not name.endswith(".egg-info")} == TOP_LEVEL


def test_every_folder_has_a_layer() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = {contract["name"]: contract for contract in settings["tool"]["importlinter"]["contracts"]}
    layered = {name for layer in contracts["Layers"]["layers"] for name in re.split(r"\s*[|:]\s*", layer)}
    folders = {f"meshq.{path.name}" for path in (ROOT / "meshq").iterdir() if (path / "__init__.py").exists()}
    assert folders <= layered


def test_layers_are_kept() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    if not command.exists():
        pytest.fail("import-linter is not installed: pip install '.[test]'")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
