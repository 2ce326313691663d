"""What a child gets of its machine and what it may make of it: environment, descriptors, memory, output, tasks."""

from __future__ import annotations

import ast
import asyncio
import os
import pickle
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import meshq
from meshq.core.limits import PARTS_MAX
from meshq.core.requests import Job
from meshq.errors import ConfigError
from meshq.wire.values import unpack
from meshq.worker.bounds import Bounds
from meshq.worker.output import Output, Pipe
from meshq.worker.pool import ChildPool
from tests.unit.worker_desk import Desk, error, until

TASKS = """
import os, sys
from meshq import task

@task
def environment():
    return dict(os.environ)

@task
def descriptors():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink("/proc/self/fd/" + name)
        except FileNotFoundError:
            pass  # the one that listed them
    return found

@task
def takes(size_bytes):
    return len(bytearray(size_bytes))

@task
def piles_up(step_bytes):
    pile = []
    while True:
        pile.append(bytearray(step_bytes))

@task
def prints(count, text):
    for _ in range(count):
        print(text)

@task
def returns_parts(count):
    return [[] for _ in range(count)]

@task(name="of.another/name")
def named():
    return "named"
"""


@asynccontextmanager
async def opened(tmp_path: Path, bounds: Bounds) -> AsyncIterator[Desk]:
    module = tmp_path / "bound_tasks.py"
    module.write_text(TASKS)
    events: list[tuple[str, str]] = []
    pool = ChildPool(1, [str(module)], bounds=bounds, on_event=lambda name, text: events.append((name, text)))
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(pool.run())
        try:
            await pool.start()
            yield Desk(pool, events)
        finally:
            await pool.close(0.0)


def result(outcome: Any) -> Any:
    assert outcome.kind == "done", error(outcome)
    return unpack(outcome.result)


# -- the environment and descriptors ---------------------------------------------------------------------------


async def test_a_childs_environment_is_a_short_list_and_never_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MESHQ_KEY", "MESHQ_DATA_DIR", "meshq_key", "AWS_SECRET_ACCESS_KEY", "CUDA_DEVICE", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, "secret")
    for name in ("LC_TIME", "TZ", "MY_SETTING"):
        monkeypatch.setenv(name, "C")
    async with opened(tmp_path, Bounds(env=("MY_SETTING", "CUDA_*"))) as desk:
        seen = result(await desk.call("environment"))
    assert seen["PATH"] == os.environ["PATH"]
    assert (seen["LC_TIME"], seen["TZ"], seen["MY_SETTING"], seen["CUDA_DEVICE"]) == ("C", "C", "C", "secret")
    # The pool's own word to the task `primes`.
    assert {name for name in seen if name.upper().startswith("MESHQ")} == {"MESHQ_PRIMES_MAX_LIMIT"}
    assert not {"AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK"} & set(seen)


def test_no_pattern_hands_a_setting_of_meshq_to_a_child() -> None:
    seen = Bounds(env=("*", "MESHQ_*", "MESHQ_KEY")).environment({"MESHQ_KEY": "mq1-", "Meshq_Key": "mq1-", "A": "1"})
    assert seen == {"A": "1"}


async def test_nothing_is_imported_out_of_the_directory_in_which_the_daemon_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    for name in ("msgpack", "random", "sitecustomize"):
        (there / f"{name}.py").write_text(f"open({str(there / 'read')!r}, 'w').close()")
    monkeypatch.chdir(there)
    async with opened(tmp_path, Bounds()) as desk:
        assert result(await desk.call("takes", 3)) == 3
    assert not (there / "read").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are listed in /proc")
async def test_a_child_inherits_no_descriptors_but_its_own(tmp_path: Path) -> None:
    secret = tmp_path / "queue.db"
    secret.write_text("rows")
    with secret.open() as file:
        os.set_inheritable(file.fileno(), True)
        async with opened(tmp_path, Bounds()) as desk:
            seen = result(await desk.call("descriptors"))
    assert seen["0"] == "/dev/null"
    assert seen["1"] == seen["2"]
    assert seen["1"].startswith("pipe:")
    others = sorted(target.partition(":")[0] for name, target in seen.items() if name not in ("0", "1", "2"))
    # The socket to the pool, the line that ties it to the daemon, and the marks (the mapping holds a copy).
    assert others in (["/memfd", "/memfd", "pipe", "socket"], ["/memfd", "pipe", "socket"]), seen


# -- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may not keep the bound")
async def test_a_task_that_takes_too_much_memory_fails_and_says_so(tmp_path: Path) -> None:
    bytes_max = 400 << 20
    async with opened(tmp_path, Bounds(memory_bytes_max=bytes_max)) as desk:
        assert result(await desk.call("takes", 100 << 20)) == 100 << 20
        for name, size_bytes in (("takes", 1 << 30), ("piles_up", 1 << 20), ("piles_up", 1 << 10)):
            outcome = await desk.call(name, size_bytes)
            assert (outcome.kind, error(outcome)["type"]) == ("failed", "MemoryError")
            assert f"{bytes_max} bytes here (child_memory_bytes_max)" in error(outcome)["message"]
            assert name in error(outcome)["traceback"]
            # A new child has all of it: what one leaves is in pieces.
            assert result(await desk.call("takes", 100 << 20)) == 100 << 20
        assert desk.events == [("child_spent", "slot 0: exit code 86")] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may not keep the bound")
async def test_a_task_without_memory_costs_those_behind_it_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, Bounds(memory_bytes_max=400 << 20)) as desk:
        for _ in range(30):
            await desk.call("takes", 1)
            await desk.call("echo", 0)
        jobs = [desk.job("takes", 1 << 30), *(desk.job("echo", number) for number in range(20))]
        desk.pool.put(jobs)
        first, *others = await desk.ended(*jobs)
        assert (first.kind, error(first)["type"]) == ("failed", "MemoryError")
        assert [result(outcome) for outcome in others] == list(range(20))


async def test_a_result_of_too_many_parts_fails(tmp_path: Path) -> None:
    async with opened(tmp_path, Bounds()) as desk:
        assert len(result(await desk.call("returns_parts", 1000))) == 1000
        outcome = await desk.call("returns_parts", PARTS_MAX)
        assert (outcome.kind, outcome.final) == ("failed", True)
        assert f"more than {PARTS_MAX} lists" in error(outcome)["message"]


# -- output --------------------------------------------------------------------------------------------------------


async def test_what_tasks_print_is_passed_on_up_to_a_bound(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with opened(tmp_path, Bounds(output_bytes_max=10_000)) as desk:
        result(await desk.call("prints", 1, "the first words"))
        printed: list[str] = []

        def said(text: str) -> bool:
            printed.append(capfd.readouterr().err)
            return text in "".join(printed)

        await until(lambda: said("the first words"))
        result(await desk.call("prints", 100_000, "too much of it"))
        result(await desk.call("prints", 1, "unheard"))
        assert len(result(await desk.call("environment"))) > 1
    whole = "".join([*printed, capfd.readouterr().err])
    assert whole.count("printed more than 10000 bytes within a minute") == 1
    assert len(whole) < 12_000
    assert "unheard" not in whole


def test_the_bound_on_output_is_renewed_each_minute() -> None:
    kept: list[bytes] = []
    output = Output("slot 0", 10, kept.append)
    assert output.take(b"12345", 100.0)
    assert output.take(b"67890", 100.0)
    assert not output.take(b"more", 101.0)
    assert not output.take(b"and more", 159.0)
    assert (kept[:2], len(kept), output.dropped_bytes) == ([b"12345", b"67890"], 3, 12)
    assert output.take(b"again", 160.5)
    assert not output.take(b"123456789", 160.5)
    assert kept[3:5] == [b"again", b"12345"]
    silent: list[bytes] = []
    assert not Output("slot 0", 0, silent.append).take(b"x", 1.0)
    assert silent == []


async def test_what_a_dead_child_left_in_its_pipe_is_passed_on() -> None:
    kept: list[bytes] = []
    pipe = Pipe(Output("slot 0", 1000, kept.append))
    os.write(pipe.end, b"last words")
    pipe.close()
    pipe.close()
    assert kept == [b"last words"]


# -- the tasks it runs ---------------------------------------------------------------------------------------------


OWN = {"environment", "descriptors", "takes", "piles_up", "prints", "returns_parts", "of.another/name"}


@pytest.mark.parametrize(
    ("allow", "offered"),
    [
        (("primes",), {"primes"}),
        (("bound_tasks.takes", "echo"), {"takes", "echo"}),
        (("bound_tasks",), OWN),
        (("bound_tasks.*",), OWN),
        (("meshq.tasks.pri*", "of.*", "unknown"), {"primes", "of.another/name"}),
    ],
)
async def test_only_what_is_allowed_is_offered(tmp_path: Path, allow: tuple[str, ...], offered: set[str]) -> None:
    async with opened(tmp_path, Bounds(allow=allow)) as desk:
        infos = await desk.pool.start()
        assert {info.name for info in infos} == offered


async def test_a_task_that_is_not_allowed_is_refused_when_it_comes(tmp_path: Path) -> None:
    async with opened(tmp_path, Bounds(allow=("echo",))) as desk:
        outcome = await desk.call("environment")
        assert (outcome.kind, error(outcome)["type"]) == ("failed", "UnknownTask")
        assert "does not allow the task environment (allow)" in error(outcome)["message"]
        assert result(await desk.call("echo", 1)) == 1


async def test_patterns_of_which_none_fits_are_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with opened(tmp_path, Bounds(allow=("prmes", "mytasks.*"))):
            pass
    assert caught.group_contains(ConfigError, match=r"allow = prmes, mytasks\.\*: no task that was loaded fits")


# -- nothing is run because somebody sent its name -----------------------------------------------------------------


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "name",
    ["os.system", "os:system", "subprocess.run", "builtins.eval", "bound_tasks.takes", "__import__", "antigravity"],
)
async def test_the_name_of_a_function_that_is_no_task_runs_and_imports_nothing(tmp_path: Path, name: str) -> None:
    async with opened(tmp_path, Bounds()) as desk:
        outcome = await desk.call(name, f"mkdir {tmp_path / 'made'}")
        assert error(outcome) == {"type": "UnknownTask", "message": f"no task is called {name} here", "traceback": ""}
    assert not (tmp_path / "made").exists()


async def test_a_pickle_is_bytes_or_nothing(tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(str(tmp_path / "made")))
    async with opened(tmp_path, Bounds()) as desk:
        assert result(await desk.call("echo", bomb)) == bomb
        job = Job(id="f" * 32, name="echo", epoch=1, attempt=1, payload=bomb)
        desk.pool.put([job])
        (outcome,) = await desk.ended(job)
        assert "the arguments can't be read" in error(outcome)["message"]
    assert not (tmp_path / "made").exists()


PACKAGE = Path(meshq.__file__).parent
# What makes objects, or runs code, out of data.
RUNS_DATA = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "copyreg", "runpy", "code"}
# Who imports by name: the loaders of users' modules, which the configuration names, and our own when they are needed.
IMPORTERS = {"tasks/registry.py", "tasks/call.py", "cli/main.py", "__init__.py"}
LOADERS = ("registry.load", "registry.load_built_in", "call.offer")


def imported(tree: ast.Module) -> set[str]:
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}


def test_the_loader_of_modules_is_the_only_way_in_and_only_children_use_it() -> None:
    importers, loaders, runners = set(), set(), set()
    for path in PACKAGE.rglob("*.py"):
        tree, name = ast.parse(path.read_text("utf-8")), path.relative_to(PACKAGE).as_posix()
        modules = imported(tree)
        importers |= {name for module in modules if module.partition(".")[0] == "importlib"}
        runners |= {name for module in modules if module.partition(".")[0] in RUNS_DATA}
        called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        plain = {func.id for func in called if isinstance(func, ast.Name)}
        runners |= {name for _ in plain & {"eval", "exec", "compile", "__import__"}}
        loaders |= {name for func in called if ast.unparse(func) in LOADERS}
    assert importers == IMPORTERS
    assert runners == set()
    assert loaders == {"worker/child.py"}


async def test_a_daemon_imports_no_users_module(tmp_path: Path) -> None:
    async with opened(tmp_path, Bounds()) as desk:
        assert result(await desk.call("of.another/name")) == "named"
    assert not {"bound_tasks", "meshq_file_bound_tasks"} & set(sys.modules)
