"""The children that run tasks: one for each slot, always there, replaced when they die.

Users' code can do anything to its process. So a child's death costs the run that it was in one attempt, its slot a
restart, and nothing else; what it had not begun or not handed in runs again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from meshq.core.infos import TaskInfo
from meshq.core.limits import CHECKPOINT_BYTES_MAX, FRAME_BYTES_MAX, NOTE_CHARS_MAX
from meshq.core.requests import Job, Outcome, RunProgress
from meshq.errors import ConfigError, MeshqError, Stopping
from meshq.tasks.primes import LIMIT_MAX, LIMIT_VARIABLE
from meshq.worker import frames
from meshq.worker.backlog import Backlog, Durations, Run
from meshq.worker.bounds import Bounds
from meshq.worker.contact import OnEvent
from meshq.worker.failures import pack_error
from meshq.worker.output import to_stderr
from meshq.worker.process import Process
from meshq.worker.slot import Frame, Printer, Slot
from meshq.worker.tray import Tray

GRACE_S = 2.0
# A frame takes about 20 ms; one that takes longer than this is in a run that is longer than its name promised.
URGE_S = 0.05
RESTART_FIRST_S, RESTART_LAST_S = 0.1, 10.0
STARTS_MAX = 3

log = logging.getLogger("meshq")


def log_event(name: str, detail: str) -> None:
    """What happens to events where nobody counts them."""
    log.info("%s %s", name, detail, extra={"event": name})


class ChildPool:
    """The pool of this node; `core.ports.Pool`, for real.

    `run()` must be running, in the node's task group, while `start()` is awaited and until `close()` returns.

    Args:
        slots: How many children; 0 for none.
        modules: The users' modules and files that each child loads, besides meshq's own tasks.
        result_bytes_max: The largest packed result.
        primes_max_limit: What the task `primes` takes.
        bounds: What each child gets of this machine, and which tasks it runs.
        on_event: Is told `child_died`, `child_spent`, `child_failed_to_start` and `timed_out`, with a line about it.
        on_printed: Takes what a task's runs print, with the task's id; None to let it go to stderr.
    """

    def __init__(
        self,
        slots: int,
        modules: Sequence[str] = (),
        *,
        result_bytes_max: int = 8 << 20,
        primes_max_limit: int = LIMIT_MAX,
        bounds: Bounds | None = None,
        on_event: OnEvent = log_event,
        on_printed: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self._bounds = bounds or Bounds()
        self._keep_printed = on_printed
        output_bytes_max, apart = self._bounds.output_bytes_max, on_printed is not None
        self._slots = [Slot(number, output_bytes_max, self._on_printed, apart) for number in range(slots)]
        self._idle: list[Slot] = []
        self._modules = list(modules)
        self._result_bytes_max = min(result_bytes_max, FRAME_BYTES_MAX // 2)
        self._environ = {**self._bounds.environment(os.environ), LIMIT_VARIABLE: str(primes_max_limit)}
        self._on_event = on_event
        self._tray = Tray()
        self._durations = Durations()
        self._backlog = Backlog(self._durations)
        self._infos: tuple[TaskInfo, ...] | None = None
        self._broken: MeshqError | None = None
        self._last_words = ""
        self._started = asyncio.Event()
        self._draining = self._drained = False
        self._quiet = asyncio.Event()
        self._closed = asyncio.Event()
        self._running = False
        self._ended = asyncio.Event()

    @property
    def slots(self) -> int:
        """How many tasks run at once."""
        return len(self._slots)

    async def start(self) -> tuple[TaskInfo, ...]:
        """Waits for the first child's report and tells which tasks it knows; none where there are no slots.

        Raises:
            ConfigError: A module fails to load; with its full traceback.
        """
        if self._slots:
            await self._started.wait()
        if self._broken is not None:
            raise self._broken
        return self._infos or ()

    def put(self, jobs: Sequence[Job]) -> None:
        """Takes runs; those beyond the free slots wait in order. After `close` they come back as `released`."""
        for job in jobs:
            self._backlog.add(self._tray.add(job))
        self._release_unbegun()
        self._dispatch()

    def held(self) -> tuple[Job, ...]:
        """All runs that were put and have no outcome yet, in the order in which they came."""
        return tuple(run.job for run in self._tray.runs())

    def progress(self) -> tuple[RunProgress, ...]:
        """What those of them that are on have told, the newest of each."""
        runs = [run for slot in self._slots if slot.frame is not None for run in slot.frame.undone.values()]
        return tuple(run.told for run in runs if run.told is not None and self._tray.has(run))

    def drain(self, on: bool) -> None:
        """From now on, what is not begun, and what is put, comes back as `released`; or not any more."""
        self._drained = on
        self._release_unbegun()

    def _release_unbegun(self) -> None:
        if self._draining or self._drained:
            for run in self._backlog.clear():
                self._tray.end(run, "released")

    def free(self) -> int:
        """How many slots have nothing to do, and nothing waiting for them."""
        return max(0, len(self._idle) - len(self._backlog))

    def running(self) -> int:
        """How many slots run something."""
        return sum(slot.frame is not None for slot in self._slots)

    def kill(self, tasks: Collection[str]) -> None:
        """Ends these runs, with their process groups, or drops them unbegun. They get no outcome."""
        killed = self._tray.drop(tasks)
        if not killed:
            return
        self._backlog.drop(killed)
        for slot in self._slots:
            if slot.frame is not None and not killed.isdisjoint(slot.frame.undone.values()):
                slot.kill()

    async def outcomes(self) -> list[Outcome]:
        """The outcomes since the last call, and before them what runs kept; waits until there is at least one."""
        return await self._tray.take()

    async def close(self, drain_s: float) -> None:
        """Takes no more, drops what is unbegun as `released`, lets the rest run up to `drain_s`, then kills it.

        What runs is told, so that it can save what it has and end as `released`.
        """
        self._draining = True
        self._release_unbegun()
        for slot in self._slots:
            if slot.frame is not None and slot.process is not None:
                slot.process.send(frames.STOP)
        self._quiet.clear()
        self._check_quiet()
        try:
            async with asyncio.timeout(drain_s):
                await self._quiet.wait()
        except TimeoutError:
            self._on_event("drain_cut", f"{self.running()} slots were still busy after {drain_s:g} s")
        finally:
            self._closed.set()
            for slot in self._slots:
                slot.kill()
        if self._running:
            await self._ended.wait()

    async def run(self) -> None:
        """Keeps the children alive until `close`."""
        self._running = True
        try:
            async with asyncio.TaskGroup() as group:
                for slot in self._slots:
                    group.create_task(self._serve(slot), name=f"slot-{slot.number}")
        finally:
            self._closed.set()
            self._broken = self._broken or (Stopping() if self._infos is None and self._slots else None)
            self._started.set()
            for run in self._tray.runs():
                self._tray.end(run, "released")
            self._ended.set()

    # -- one slot ------------------------------------------------------------------------------------------

    async def _serve(self, slot: Slot) -> None:
        failures = 0
        while not self._closed.is_set():
            failures = 0 if await self._one_child(slot) else failures + 1
            if not failures:
                continue
            if self._infos is None and failures >= STARTS_MAX:
                self._give_up(ConfigError(f"the processes that run tasks {self._last_words}"))
            try:
                async with asyncio.timeout(min(RESTART_FIRST_S * 2.0 ** (failures - 1), RESTART_LAST_S)):
                    await self._closed.wait()
            except TimeoutError:
                pass

    async def _one_child(self, slot: Slot) -> bool:
        """Starts a child and sees it through to its end; False if it never became ready."""
        slot.renew()
        try:
            process = await Process.spawn(lambda message: self._on_message(slot, message), self._environ, slot.output)
        except OSError as error:
            self._last_words = f"can't be started: {error}"
            self._on_event("child_failed_to_start", f"slot {slot.number}: {error}")
            return False
        slot.process = process
        try:
            if not self._closed.is_set():
                allow, memory_bytes_max = list(self._bounds.allow), self._bounds.memory_bytes_max
                process.send(frames.LOAD, self._modules, self._result_bytes_max, allow, memory_bytes_max)
                await process.gone()
        except asyncio.CancelledError:
            self._closed.set()
            raise
        finally:
            slot.dying = True
            if slot in self._idle:
                self._idle.remove(slot)
            code = await process.end()
            # Only now, after the last words of the child were read, is it known what it left undone.
            slot.process = None
            how = process.ending(code)
            self._last_words = f"die while they load the tasks: {how}"
            self._on_death(slot, process.marks(), how, spent=code == frames.SPENT)
            process.forget()
        return slot.ready

    def _on_message(self, slot: Slot, message: list[Any]) -> None:
        match message:
            case [frames.OUTCOMES, ended]:
                self._on_outcomes(slot, ended)
            case [frames.PROGRESS, int(index), float(done), float(total), str(note)]:
                self._on_progress(slot, index, done, total, note[:NOTE_CHARS_MAX])
            case [frames.CHECKPOINT, int(index), bytes(data)]:
                self._on_checkpoint(slot, index, data[:CHECKPOINT_BYTES_MAX])
            case [frames.RECALLED, int(index)]:
                self._on_recalled(slot, index)
            case [frames.READY, infos]:
                slot.ready = True
                if self._infos is None:
                    self._infos = msgspec.convert(infos, tuple[TaskInfo, ...])
                    self._started.set()
                self._on_idle(slot)
            case [frames.BROKEN, str(text)]:
                self._on_event("child_failed_to_start", f"slot {slot.number}: {text}")
                if self._infos is None:
                    self._give_up(ConfigError(text))
                slot.kill()
            case _:
                raise ValueError("a message that no child sends")

    def _give_up(self, error: ConfigError) -> None:
        self._broken = self._broken or error
        self._started.set()
        self._closed.set()
        for slot in self._slots:
            slot.kill()

    def _on_progress(self, slot: Slot, index: int, done: float, total: float, note: str) -> None:
        if slot.frame is not None:
            run = slot.frame.undone[index]
            run.told = RunProgress(task=run.job.id, done=done, total=total, note=note)

    def _on_checkpoint(self, slot: Slot, index: int, data: bytes) -> None:
        if slot.frame is not None:
            self._tray.keep(slot.frame.undone[index], data)

    def _on_printed(self, printer: Printer | None, data: bytes) -> None:
        if printer is None or self._keep_printed is None:
            to_stderr(data)
            return
        task, name = printer
        self._backlog.go_alone(name)
        self._keep_printed(task, data)

    def _on_outcomes(self, slot: Slot, ended: list[tuple[int, int, bytes, float]]) -> None:
        frame = slot.frame
        if frame is None or slot.process is None:
            return
        slot.process.drain()  # as long as it is known whose it is
        if frame.timed_out:
            # It answered the SIGTERM of its time limit; what it says comes too late.
            slot.kill()
            return
        for index, code, blob, run_s in ended:
            run = frame.undone.pop(index)
            self._durations.add(run.job.name, run_s)
            if code == frames.DONE:
                self._tray.end(run, "done", result=blob, run_s=run_s)
            elif code == frames.STOPPED:
                self._tray.end(run, "released")
            else:
                self._tray.end(run, "failed", error=blob, run_s=run_s, final=code == frames.FAILED_FINALLY)
        self._check_done(slot)

    def _on_recalled(self, slot: Slot, index: int) -> None:
        frame = slot.frame
        if frame is None or slot.condemned:
            return
        back = [frame.undone.pop(key) for key in sorted(frame.undone) if key >= index]
        self._put_back(back)
        self._check_done(slot)
        self._dispatch()

    def _check_done(self, slot: Slot) -> None:
        if slot.frame is not None and not slot.frame.undone:
            self._end_frame(slot)
            self._on_idle(slot)

    def _end_frame(self, slot: Slot) -> None:
        slot.clear()
        self._check_quiet()

    def _on_idle(self, slot: Slot) -> None:
        if not slot.condemned and not slot.dying:
            self._idle.append(slot)
            self._dispatch()

    def _dispatch(self) -> None:
        while self._idle and len(self._backlog):
            slot = self._idle.pop()
            assert slot.process is not None
            slot.frames += 1
            runs = self._backlog.cut(len(self._slots))
            slot.frame = frame = Frame(runs, slot.frames)
            loop = asyncio.get_running_loop()
            if len(runs) > 1:
                frame.timer = loop.call_later(URGE_S, self._on_urge_due, slot, frame)
            elif (timeout_s := runs[0].job.timeout_s) is not None:
                frame.timer = loop.call_later(timeout_s, self._on_timeout_due, slot, frame)
            slot.process.send(frames.RUN, [run.given() for run in runs])

    def _on_urge_due(self, slot: Slot, frame: Frame) -> None:
        if slot.frame is frame and slot.process is not None:
            slot.process.send(frames.URGE)

    def _on_timeout_due(self, slot: Slot, frame: Frame) -> None:
        if slot.frame is frame and slot.process is not None and not slot.condemned:
            frame.timed_out = True
            self._on_event("timed_out", f"task {frame.undone[0].job.id} {frame.undone[0].job.name}")
            slot.process.signal(signal.SIGTERM)
            frame.timer = asyncio.get_running_loop().call_later(GRACE_S, slot.kill)

    def _on_death(self, slot: Slot, marks: tuple[int, int, int], how: str, *, spent: bool) -> None:
        """Decides about each run that the child took with it."""
        frame = slot.frame
        if not self._closed.is_set() and not slot.condemned and not (frame is not None and frame.timed_out):
            self._on_event("child_spent" if spent else "child_died", f"slot {slot.number}: {how}")
        if frame is None:
            return
        begun, ended = marks[:2] if marks[2] == frame.number else (0, 0)
        back = []
        for index, run in sorted(frame.undone.items()):
            if self._closed.is_set() and not frame.timed_out:
                self._tray.end(run, "released")
            elif frame.timed_out:
                text = f"timed out after {run.job.timeout_s:g} s"
                self._tray.end(run, "failed", error=pack_error("TimedOut", text), run_s=run.job.timeout_s or 0.0)
            elif slot.condemned or (not run.again and not ended <= index < begun):
                # A second child that dies with it is its fault, whatever the marks say: its code can write to them.
                run.again = not slot.condemned
                back.append(run)
            else:
                text = f"the child that ran it died: {how}"
                self._tray.end(run, "crashed", error=pack_error("ChildDied", text))
        self._put_back(back)
        self._end_frame(slot)
        self._dispatch()

    def _put_back(self, runs: list[Run]) -> None:
        self._backlog.back([run for run in runs if self._tray.has(run)])
        self._release_unbegun()

    def _check_quiet(self) -> None:
        if not self.running():
            self._quiet.set()
