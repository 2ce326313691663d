"""What the tests of the executor have called on a daemon."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meshq import task


def add(first: int, second: int = 0) -> int:
    return first + second


def same(value: Any) -> Any:
    return value


def taken(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def slow(value: int, wait_s: float) -> int:
    time.sleep(wait_s)
    return value


async def waits(value: int) -> int:
    await asyncio.sleep(0)
    return value


def mark(path: str, wait_s: float = 0.0) -> None:
    """Leaves a line in a file at its beginning, and one at its end."""
    with Path(path).open("a") as file:
        file.write("begun\n")
        file.flush()
        time.sleep(wait_s)
        file.write("ended\n")


def opens(path: str) -> bytes:
    return Path(path).read_bytes()


class Own(Exception):
    """An exception that only this module knows."""


def fails(kind: str, *args: Any) -> None:
    kinds: dict[str, type[BaseException]] = {
        "KeyError": KeyError, "ValueError": ValueError, "UnicodeDecodeError": UnicodeDecodeError, "Own": Own,
        "SystemExit": SystemExit, "StopIteration": StopIteration,
    }  # fmt: skip
    raise kinds[kind](*args)


def group() -> None:
    raise ExceptionGroup("two", [ValueError("a"), KeyError("b")])


def dies() -> None:
    os._exit(9)


def makes_object(_: int) -> object:
    return object()


class Thing:
    """Has methods of each kind."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def method(self) -> int:
        return self.value

    @classmethod
    def of_class(cls, value: int) -> tuple[str, int]:
        return cls.__name__, value

    @staticmethod
    def static(value: int) -> int:
        return -value


class Heir(Thing):
    """Has them handed down."""


def _decorated(function: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(function)
    def wrapped(*args: int) -> int:
        return 10 * function(*args)

    return wrapped


@_decorated
def tenfold(value: int) -> int:
    return value


hidden = _decorated(add)


@task
def executor_task(value: int) -> int:
    """A task, which needs no entry in `allow`."""
    return value + 1000
