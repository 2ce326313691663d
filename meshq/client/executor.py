"""`meshq.Executor`: the machines of the cluster as an executor of `concurrent.futures`."""

from __future__ import annotations

import concurrent.futures
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from meshq.client.aio import AsyncClient
from meshq.client.engine import Engine
from meshq.client.future import Call, Future
from meshq.client.options import Options, new_ids
from meshq.errors import Unencodable
from meshq.tasks import call, registry
from meshq.tasks.call import Address
from meshq.wire import values

P = ParamSpec("P")
T = TypeVar("T")


class Executor(concurrent.futures.Executor):
    """Runs functions on the machines of the cluster. Its futures are those of `concurrent.futures`.

    A function travels by its name, so the machines must have the same module, and allow that it is called: by an entry
    `MODULE:*` or `MODULE:FUNCTION` in their `allow`, or because it is a `@task` that they loaded. Arguments and results
    are values as for `Client.submit`; nothing is pickled.

    What was submitted runs even if this program dies. A call runs again where its machine was lost, so that it may run
    twice. To cancel a future ends a call that runs, too.

    Args:
        max_workers: At most so many of its calls are in the cluster at a time; None: all of them.
        options: How its calls are run, as for any task: priority, timeout_s, retries and so on; no key.
        data_dir, connect_timeout_s, to, key, credential: Which daemon, and how it is reached; see `AsyncClient`.

    Raises:
        ValueError: `max_workers` is no positive number, or the options have a key.
        ConfigError: The daemon can't be meant; see `AsyncClient`.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        options: Options | None = None,
        data_dir: Path | str | None = None,
        connect_timeout_s: float = 10.0,
        to: str | None = None,
        key: str | None = None,
        credential: str | None = None,
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if options is not None and options.key is not None:
            raise ValueError("options: a key would make all calls one task")
        client = AsyncClient(data_dir, connect_timeout_s=connect_timeout_s, to=to, key=key, credential=credential)
        self._max_workers = max_workers
        self._batch = None if options is None else options.batch
        self._engine = engine = Engine(client.with_options(options or Options()), max_workers)
        # Without it the calls go on all the same.
        weakref.finalize(self, engine.close).atexit = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Has a function called on one of the machines.

        Args:
            fn: A function of a module.
            args, kwargs: What it is called with.

        Returns:
            Its future. Where no machine allows the call its exception is UnknownTask, which says what to do.

        Raises:
            TypeError: The function can't travel; the text says what to do.
            Unencodable: An argument can't.
            RuntimeError: The executor was shut down.
        """
        return self._engine.submit([_call(fn, args, kwargs)])[0]

    def map(
        self, fn: Callable[..., T], /, *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """The results of `map(fn, *iterables)`, in that order; all calls are submitted at once.

        Where the iterator ends early (a call raised, the time is over, it was closed), the calls that are left are
        cancelled.

        Args:
            fn: A function of a module.
            iterables: Their items side by side are the arguments; they are read at once.
            timeout: Seconds from now until all are finished; None: however long it takes.
            chunksize: How many calls make one task; with more than one each task costs less for each, and what raises
                takes the results of its task with it.

        Raises:
            TypeError, Unencodable, RuntimeError: As for `submit`.
            ValueError: `chunksize` is less than 1.
            TimeoutError: From the iterator: not all are finished by then.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        end_s = None if timeout is None else self._engine.now_s() + timeout
        batch = new_ids(1)[0] if self._batch is None else None
        items = zip(*iterables, strict=False)
        if chunksize == 1 or _task_of(call.unwrapped(fn, (), {})[0]) is not None:
            calls = [_call(fn, args, {}, batch) for args in items]
            return self._results(self._engine.submit(calls), batch, end_s, chunked=False)
        return self._results(
            self._engine.submit(list(_chunks(fn, items, chunksize, batch))), batch, end_s, chunked=True
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls.

        Args:
            wait: Whether to return only when all futures are done. Else they are done later, and the program does not
                end before that.
            cancel_futures: Whether calls that have not begun are cancelled; with `max_workers` those have begun that
                are in the cluster.
        """
        self._engine.close(cancel=cancel_futures)
        if wait:
            self._engine.join()

    def _results(
        self, futures: list[Future[Any]], batch: str | None, end_s: float | None, *, chunked: bool
    ) -> Generator[Any, None, None]:
        futures.reverse()
        try:
            while futures:
                left_s = None if end_s is None else end_s - self._engine.now_s()
                result = futures[-1].result(left_s)
                # Nobody is to hold what was handed out.
                futures.pop()
                if chunked:
                    yield from result
                else:
                    yield result
                del result
        finally:
            self._engine.drop(futures, batch)


def _call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: str | None = None) -> Call:
    function, args, kwargs = call.unwrapped(fn, args, kwargs)
    if (name := _task_of(function)) is not None:
        return Call(name, values.pack_arguments(args, kwargs), _itself, None, batch)
    where = call.address(function)
    try:
        payload = _packed(where, [[args, kwargs]])
    except Unencodable:
        # Says where it is among the arguments as they were given.
        values.pack_arguments(args, kwargs)
        raise
    return Call(where.task, payload, _only, where, batch)


def _chunks(fn: Callable[..., Any], items: Iterator[tuple[Any, ...]], size: int, batch: str | None) -> Iterator[Call]:
    function, first, kwargs = call.unwrapped(fn, (), {})
    where = call.address(function)
    while chunk := list(islice(items, size)):
        calls = [[(*first, *args), kwargs] for args in chunk]
        yield Call(where.task, _packed(where, calls), _itself, where, batch)


def _packed(where: Address, calls: list[list[Any]]) -> bytes:
    return values.pack_arguments([where.qualname, calls], {})


def _task_of(function: Callable[..., Any]) -> str | None:
    """The task that this very function is; None where it is none."""
    names = registry.DEFAULT.names()
    name = getattr(function, "__name__", "")
    if name in names and registry.resolve(name) is function:
        return str(name)
    return next((each for each in names if registry.resolve(each) is function), None)


def _itself(result: Any) -> Any:
    return result


def _only(results: list[Any]) -> Any:
    return results[0]
