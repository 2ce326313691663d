"""What a run tells of itself on its way to the pool: as often as it likes here, as often as somebody looks there.

Of progress and of checkpoints only the newest counts. So what comes too soon after the last one waits, in the place of
what waited before, and a thread sends it when it is due; a checkpoint leaves before its run's outcome in any case.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from time import monotonic, sleep

from meshq.tasks.context import Run
from meshq.worker import frames

PROGRESS_S = 0.2
# So many checkpoints go at once, for each in a row a run earns another one after so long.
CHECKPOINTS_AT_ONCE = 8.0
CHECKPOINT_S = 0.1


class Teller:
    """The home of the runs of one child.

    Args:
        send: Sends a message to the pool; called with the lock held.
        lock: Guards the connection.
    """

    def __init__(self, send: Callable[..., None], lock: threading.Lock) -> None:
        self._send, self._lock = send, lock
        self._pid = os.getpid()
        self._run: Run | None = None
        self._index = 0
        self._progress: tuple[float, float, str] | None = None
        self._progress_due_s = 0.0
        self._checkpoint: bytes | None = None
        self._credit, self._credit_s = CHECKPOINTS_AT_ONCE, 0.0
        self._wake = threading.Event()
        self._armed = False
        self._thread: threading.Thread | None = None

    def begin(self, run: Run, index: int) -> None:
        """This run, of this index in its frame, is on from now."""
        self._run, self._index = run, index
        self._credit = CHECKPOINTS_AT_ONCE

    def end(self) -> None:
        """It is over: sends the checkpoint that waits, and forgets how far it was."""
        self._progress = None
        self._progress_due_s = 0.0
        if self._checkpoint is not None:
            with self._lock:
                self._send_checkpoint()
        self._run = None

    def on_progress(self, run: Run, done: float, total: float, note: str) -> None:
        """How far a run is; of one that is over it is dropped."""
        if run is not self._run:
            return
        self._progress = (done, total, note)
        if self._armed:
            return
        self._check_process()
        if monotonic() < self._progress_due_s:
            self._arm()
            return
        with self._lock:
            self._send_progress()

    def on_checkpoint(self, run: Run, data: bytes) -> None:
        """What a run keeps; of one that is over it is dropped."""
        self._check_process()
        now_s = monotonic()
        earned = (now_s - self._credit_s) / CHECKPOINT_S
        self._credit, self._credit_s = min(CHECKPOINTS_AT_ONCE, self._credit + earned), now_s
        with self._lock:
            if run is not self._run:
                return
            self._checkpoint = data
            if self._credit >= 1:
                self._send_checkpoint()
                return
        self._arm()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            # The socket is shared with the original: two who write to it at once would spoil it.
            raise RuntimeError("progress and checkpoints are told by the task's own process, and not by its forks")

    def _arm(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._tell_later, name="meshq-tell", daemon=True)
            self._thread.start()
        if not self._armed:
            self._armed = True
            self._wake.set()

    def _tell_later(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            sleep(CHECKPOINT_S if self._checkpoint is not None else PROGRESS_S)
            # Before it looks: what comes later arms it anew.
            self._armed = False
            with self._lock:
                if self._checkpoint is not None:
                    self._send_checkpoint()
                self._send_progress()

    def _send_progress(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None and self._run is not None:
            self._progress_due_s = monotonic() + PROGRESS_S
            self._send(frames.PROGRESS, self._index, *progress)

    def _send_checkpoint(self) -> None:
        data, self._checkpoint = self._checkpoint, None
        if data is not None and self._run is not None:
            self._credit -= 1
            self._send(frames.CHECKPOINT, self._index, data)
