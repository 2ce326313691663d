"""CPython's own tests of executors, on `meshq.Executor`.

The tests are not copied: they are imported from where CPython's test suite is installed (Debian has it in
`libpython3.11-testsuite`). What passes, with that of Python 3.11:

| class | tests |
|---|---|
| `ExecutorTest` | map, map_exception, map_timeout, max_workers_negative, submit, submit_keyword, shutdown_race |
| `ExecutorShutdownTest` | cancel_futures, hang_issue12364, run_after_shutdown |
| `WaitTests` | all ten |
| `AsCompletedTests` | all five |
| `ProcessPoolExecutorTest` | map_chunksize |

What is left out of the first four classes stands in `LEFT_OUT`, each with its reason. Of the pools' own classes only
what is about any executor is taken; the rest is about what stands inside of a pool: its threads and processes, their
queues, initializers that set a process's globals, locks and events that are inherited or pickled.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from meshq import Executor

SUITE = "test.test_concurrent_futures"
# Until Python 3.11 it is one module, later a package.
PARTS = ("executor", "test_shutdown", "test_wait", "test_as_completed", "test_process_pool", "util")
CLASSES = ("ExecutorTest", "ExecutorShutdownTest", "WaitTests", "AsCompletedTests")
TAKEN = {("ProcessPoolExecutorTest", "test_map_chunksize")}
ABSTRACT = (
    "its script takes the executor by its class's name out of concurrent.futures; tests/unit/test_executor.py has it"
)
LEFT_OUT = {
    "test_no_stale_references": "sends a method of an object that only this process has; a TypeError says so",
    "test_free_reference": "its function returns an object of a class of its own, and no value",
    "test_interpreter_shutdown": ABSTRACT,
    "test_submit_after_interpreter_shutdown": ABSTRACT,
    "test_hang_gh83386": ABSTRACT,
    "test_hang_gh94440": "is about the threads of a process pool",
    "test_swallows_falsey_exceptions": "its exception is of a class of its own, which comes back as TaskFailed",
}
# What the tests have called.
ALLOWED = ("builtins:pow", "builtins:divmod", "builtins:abs", "builtins:str", "time:sleep")


class NotInstalled(Exception):
    """There is no CPython test suite here."""


@contextmanager
def installed(folder: Path | None) -> Iterator[list[ModuleType]]:
    """The modules of the test suite.

    Args:
        folder: A `test` folder of the same version of Python; None for the interpreter's own.

    Raises:
        NotInstalled: It is not there; with what to do.
    """
    with tempfile.TemporaryDirectory(prefix="meshq-suite-") as made:
        if folder is not None:
            _join(Path(made) / "test", folder)
            # The daemon's children find it in the same way: they get this process's path.
            sys.path.insert(0, made)
        try:
            whole = importlib.import_module(SUITE)
            parts = [f"{SUITE}.{part}" for part in PARTS] if hasattr(whole, "__path__") else []
            yield [whole, *map(importlib.import_module, parts)]
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("test"):
                raise
            raise NotInstalled(
                f"CPython's test suite is not installed for this Python ({error.name} is missing): on Debian "
                "apt install libpython3.11-testsuite, or name its folder: --suite DIR/test"
            ) from error
        finally:
            if folder is not None:
                sys.path.remove(made)


def _join(made: Path, folder: Path) -> None:
    """One package out of the interpreter's own `test`, which has the support modules, and that folder."""
    own = Path(importlib.import_module("test").__path__[0])
    made.mkdir()
    for source in (folder, own):
        for entry in source.iterdir():
            link = made / entry.name
            if not link.exists() and entry.name != "__pycache__":
                link.symlink_to(entry.resolve())
    for name in [name for name in sys.modules if name == "test" or name.startswith("test.")]:
        del sys.modules[name]


def cases(modules: list[ModuleType], **where: Any) -> tuple[unittest.TestSuite, dict[str, str]]:
    """The tests to run, and those that are left out with the reason.

    Args:
        modules: Of the test suite.
        where: Arguments of each executor beside `max_workers`.
    """
    mixin, base = _named(modules, "ExecutorMixin"), _named(modules, "BaseTestCase")
    ours = {"executor_type": Executor, "executor_kwargs": where}
    suite, left_out = unittest.TestSuite(), {}
    for name in (*CLASSES, *sorted({of for of, _ in TAKEN})):
        tests = _named(modules, name)
        cls = type(f"Meshq{name}", (tests, mixin, base), ours)
        for test in sorted(vars(tests) if name not in CLASSES else dir(tests)):
            if not test.startswith("test"):
                continue
            if name in CLASSES and test in LEFT_OUT:
                left_out[f"{name}.{test}"] = LEFT_OUT[test]
            elif name in CLASSES or (name, test) in TAKEN:
                suite.addTest(cls(test))
    return suite, left_out


def allowed(modules: list[ModuleType]) -> list[str]:
    """The daemon's `allow`."""
    return [*ALLOWED, *(f"{module.__name__}:*" for module in modules)]


def _named(modules: list[ModuleType], name: str) -> Any:
    return next(getattr(module, name) for module in modules if hasattr(module, name))
