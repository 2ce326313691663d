from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import meshq
from meshq.errors import ConfigError, UnknownTask
from meshq.tasks import registry
from meshq.tasks.registry import Registry, describe


def plain(x: int) -> int:
    """Doubles.

    More about it.
    """
    return 2 * x


def test_the_decorator_leaves_the_function_as_it_was() -> None:
    assert meshq.task(plain) is plain
    assert meshq.task(name="test_registry.named")(plain) is plain
    assert registry.resolve("plain")(4) == registry.resolve("test_registry.named")(4) == 8


def test_a_second_function_of_a_name_is_refused_with_both_places() -> None:
    here = Registry()
    here.add(plain)
    here.add(plain)
    with pytest.raises(ConfigError, match=r"two tasks are called plain: .*test_tasks_registry.py:\d+.*rename one"):
        here.add(lambda: None, "plain")
    assert here.resolve("plain") is plain


def test_a_second_definition_in_one_file_is_refused_but_a_new_cell_of_a_notebook_is_not() -> None:
    here = Registry()
    source = "def cell():\n    return {}\n"

    def define(number: int, file: str, shift: int = 0) -> Callable[..., Any]:
        scope: dict[str, Any] = {"__name__": "__main__"}
        exec(compile("\n" * shift + source.format(number), file, "exec"), scope)
        function: Callable[..., Any] = scope["cell"]
        return function

    here.add(define(1, "<cell 1>"))
    here.add(define(2, "<cell 2>"))
    assert here.resolve("cell")() == 2
    with pytest.raises(ConfigError, match="two tasks are called cell"):
        here.add(define(3, "<cell 2>", shift=5))


@pytest.mark.parametrize("name", ["", "two words", "a=b", "-x", "x" * 201, "tab\t", "ends\n"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ConfigError, match=r"can't be a task's name"):
        Registry().add(plain, name)


def test_what_has_no_name_needs_one() -> None:
    with pytest.raises(ConfigError, match=r"'<lambda>' can't be a task's name.*@task\(name="):
        Registry().add(lambda: None)


@pytest.mark.parametrize("thing", [3, "text", int])
def test_only_functions_are_tasks(thing: Any) -> None:
    with pytest.raises(ConfigError, match="belongs on a function"):
        Registry().add(thing, "name")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    here = Registry()
    here.add(plain)
    with pytest.raises(UnknownTask, match="did you mean plain"):
        here.resolve("plan")
    with pytest.raises(UnknownTask, match="known are plain"):
        here.resolve("zzz")


def defined(source: str, name: str) -> Callable[..., Any]:
    """A function out of text, as users write them: no linter would let all of these stand."""
    scope: dict[str, Any] = {}
    exec(compile(source, "<users>", "exec", dont_inherit=True), scope)
    function: Callable[..., Any] = scope[name]
    return function


EVERY = '''
import datetime
from typing import Annotated, Any, Literal, Optional

def every(
    a: int, b: float | None, c: Optional[str], d: Literal["x", "y"], e: list[int], f: dict[str, Any],
    g: tuple[int, ...], h: datetime.datetime, i: int | str, j: object, k: Annotated[bytes, "m"],
    l: frozenset[int], m: Literal[1, 2], n: Literal["x"] | None, o: Literal["x"] | int, p: Any | None,
    q=1, *r: bool, s, **t: set[int],
):
    """One of each."""
'''


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
def test_describe(future: str) -> None:
    info = describe(defined(future + EVERY, "every"))
    assert (info.name, info.doc) == ("every", "One of each.")
    assert [(param.name, param.type, param.choices) for param in info.params] == [
        ("a", "int", ()), ("b", "float|none", ()), ("c", "str|none", ()), ("d", "str", ("x", "y")), ("e", "list", ()),
        ("f", "dict", ()), ("g", "tuple", ()), ("h", "datetime", ()), ("i", "int|str", ()), ("j", "any", ()),
        ("k", "bytes", ()), ("l", "set", ()), ("m", "any", ()), ("n", "str|none", ("x",)), ("o", "str|int", ()),
        ("p", "any", ()), ("q", "any", ()), ("r", "bool", ()), ("s", "any", ()), ("t", "set", ()),
    ]  # fmt: skip
    kinds = {param.name: (param.kind, param.required) for param in info.params}
    assert kinds["a"] == ("POSITIONAL_OR_KEYWORD", True)
    assert kinds["q"] == ("POSITIONAL_OR_KEYWORD", False)
    assert kinds["r"] == ("VAR_POSITIONAL", False)
    assert kinds["s"] == ("KEYWORD_ONLY", True)
    assert kinds["t"] == ("VAR_KEYWORD", False)


def test_an_annotation_that_means_nothing_at_run_time_is_any_and_spoils_no_other() -> None:
    source = "from __future__ import annotations\ndef odd(x: NoSuchName, y: int): ...\n"
    assert [param.type for param in describe(defined(source, "odd")).params] == ["any", "int"]


def test_a_function_without_a_signature_takes_anything() -> None:
    assert [(param.kind, param.type) for param in describe(min).params] == [
        ("VAR_POSITIONAL", "any"),
        ("VAR_KEYWORD", "any"),
    ]


def test_load_a_file_that_imports_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "registry_neighbour.py").write_text("NUMBER = 7\n")
    file = tmp_path / "registry_loaded.py"
    file.write_text(
        "import meshq, registry_neighbour\n@meshq.task\ndef registry_loaded_seven():\n"
        "    return registry_neighbour.NUMBER\n"
    )
    registry.load(str(file))
    assert registry.resolve("registry_loaded_seven")() == 7


def test_load_a_file_that_is_called_like_a_module(tmp_path: Path) -> None:
    import random

    (tmp_path / "random.py").write_text("import meshq\n@meshq.task\ndef registry_like_random():\n    return 1\n")
    registry.load(str(tmp_path / "random.py"))
    assert registry.resolve("registry_like_random")() == 1
    assert sys.modules["random"] is random


def test_load_a_module_by_its_dotted_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "registry_package").mkdir()
    (tmp_path / "registry_package" / "jobs.py").write_text(
        "import meshq\n@meshq.task\ndef registry_dotted():\n    return 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry.load("registry_package.jobs")
    assert registry.resolve("registry_dotted")() == 2


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_module_at_all\n", ["ModuleNotFoundError", "no_such_module_at_all", "line 1"]),
        ("def f(:\n", ["SyntaxError"]),
        ("x = 1\nraise SystemExit(4)\n", ["SystemExit", "line 2"]),
        ("import meshq\n@meshq.task\ndef echo(value): ...\n", ["two tasks are called echo"]),
        ("open('/no/such/file/at/all')\n", ["FileNotFoundError", "line 1", "/no/such/file/at/all"]),
    ],
)
def test_a_file_that_fails_to_load_tells_its_traceback(tmp_path: Path, source: str, words: list[str]) -> None:
    registry.load_built_in()
    file = tmp_path / f"registry_fails_{abs(hash(source))}.py"
    file.write_text(source)
    with pytest.raises(ConfigError) as caught:
        registry.load(str(file))
    for word in [str(file), "Traceback", *words]:
        assert word in caught.value.message


def test_a_module_without_a_task_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "registry_forgot.py"
    file.write_text("def words(text): ...\n")
    with pytest.raises(ConfigError, match=r"--tasks .*registry_forgot\.py: no function in it is a task; put @task"):
        registry.load(str(file))
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "registry_package"
    package.mkdir()
    (package / "__init__.py").write_text("from . import inside\n")
    (package / "inside.py").write_text("import meshq\n@meshq.task\ndef registry_deep(): ...\n")
    registry.load("registry_package")
    registry.load("registry_package")


def test_what_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"--tasks nowhere\.py: there is no such file"):
        registry.load("nowhere.py")
    with pytest.raises(ConfigError, match="No module named 'nowhere_at_all'"):
        registry.load("nowhere_at_all")
