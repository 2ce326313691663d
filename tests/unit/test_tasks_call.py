"""Which functions a machine lets others call, by what its configuration says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshq.errors import ConfigError
from meshq.tasks import call
from meshq.tasks.call import Address, Refused
from meshq.tasks.registry import Registry
from tests.unit import executor_functions as functions

HOME = functions.__name__


def plain(x: int) -> int:
    return x


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    made.add(plain)
    made.add(plain, "mine:plain")
    return made


def test_without_an_entry_nothing_can_be_called(registry: Registry) -> None:
    assert call.offer(registry, ()) == ()
    assert call.offer(registry, ("plain", "meshq.tasks.basic")) == ("plain", "meshq.tasks.basic")
    assert registry.names() == ("mine:plain", "plain")


def test_an_entry_for_functions_takes_no_task_away(registry: Registry) -> None:
    assert call.offer(registry, (f"{HOME}:add", "posixpath:*", f"{HOME}:taken")) == ()
    assert registry.allowed(()) == ("call:posixpath", f"call:{HOME}", "mine:plain", "plain")
    assert registry.resolve(f"call:{HOME}")("add", [[[1, 2], {}], [(3,), {"second": 4}]]) == [3, 7]


def test_beside_entries_for_tasks_only_these_are_left(registry: Registry) -> None:
    rest = call.offer(registry, ("plain", f"{HOME}:*"))
    assert registry.allowed(rest) == (f"call:{HOME}", "plain")


def test_a_name_with_a_colon_may_be_a_task_s(registry: Registry) -> None:
    assert call.offer(registry, ("mine:plain",)) == ("mine:plain",)
    assert call.offer(registry, ("mine:*",)) == ("mine:*",)


@pytest.mark.parametrize("entry", ["*:f", "os.*:system", "my*:f", ":f", "os:", "a b:c", "..os:path", "x" * 200 + ":f"])
def test_a_module_is_written_out(registry: Registry, entry: str) -> None:
    with pytest.raises(ConfigError, match=r"MODULE:FUNCTION.*the module is written out in full"):
        call.offer(registry, (entry,))


def test_a_module_that_can_not_be_loaded_says_why(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "meshq_breaks_here.py").write_text("import sys\nsys.exit('no such luck')\n")
    for entry, words in (("meshq_nowhere:*", "No module named"), ("meshq_breaks_here:*", "no such luck")):
        with pytest.raises(ConfigError, match=f"(?s)allow = .*can't be loaded.*{words}"):
            call.offer(registry, (entry,))


def test_only_what_was_named_is_imported(registry: Registry) -> None:
    call.offer(registry, (f"{HOME}:*",))
    run = registry.resolve(f"call:{HOME}")
    sys.modules.pop("this", None)
    for name in (
        "this",
        "this.s",
        "os.system",
        "Path.home",
        "task",
        "add.__call__",
        "Thing.__subclasses__",
        "Thing.value",
    ):
        with pytest.raises(Refused, match="there is no function"):
            run(name, [[[], {}]])
    assert "this" not in sys.modules


def test_patterns_are_for_functions(registry: Registry) -> None:
    call.offer(registry, (f"{HOME}:ad*", f"{HOME}:Thing.static"))
    run = registry.resolve(f"call:{HOME}")
    assert run("add", [[[1], {}]]) == [1]
    assert run("Thing.static", [[[1], {}]]) == [-1]
    with pytest.raises(Refused, match=rf"does not allow {HOME}:same; it has allow = {HOME}:ad\*, {HOME}:Thing.static"):
        run("same", [[[1], {}]])


@pytest.mark.parametrize(
    ("function", "where"),
    [
        (functions.add, Address(HOME, "add")),
        (functions.Thing, Address(HOME, "Thing")),
        (functions.Thing.static, Address(HOME, "Thing.static")),
        (functions.Heir.of_class, Address(HOME, "Heir.of_class")),
        (functions.Thing.method, Address(HOME, "Thing.method")),
        (len, Address("builtins", "len")),
        (str.upper, Address("builtins", "str.upper")),
        (dict.fromkeys, Address("builtins", "dict.fromkeys")),
    ],
)
def test_where_a_function_is_found(registry: Registry, function: Callable[..., Any], where: Address) -> None:
    assert call.address(function) == where
    # And there it is found.
    call.offer(registry, (f"{where.module}:*",))
    with pytest.raises(TypeError):
        registry.resolve(where.task)(where.qualname, [[[], {"no_such": 1}]])
