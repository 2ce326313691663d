"""Stopping the daemon of this machine, for a while or for good."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from meshq.cli.common import Local, listens, note
from meshq.errors import NoDaemon

CHECK_S = 0.1
TELL_S = 2.0


async def stopped(local: Local, timeout_s: float, *, leave: bool) -> int:
    """Stops the daemon and waits until it is gone.

    Args:
        local: Which one.
        timeout_s: How long to wait.
        leave: Whether it leaves its cluster for good.

    Returns:
        Its pid.

    Raises:
        NoDaemon: None is there, or it is still there after that time.
        MeshqError: Why it does not leave.
    """
    async with local.client() as client:
        pid = (await client.health()).pid
        with suppress(NoDaemon):
            # A daemon that has nothing to finish may be gone before it answers.
            await (client.leave() if leave else client.stop())
    loop = asyncio.get_running_loop()
    began_s = told_s = loop.time()
    while listens(local.data_dir) or _lives(pid):
        if loop.time() - began_s >= timeout_s:
            raise NoDaemon(f"the daemon (pid {pid}) still stops after {timeout_s:g} s; end it with: kill -9 {pid}")
        if loop.time() - told_s >= TELL_S:
            told_s = loop.time()
            note(f"stopping: tasks that run here may finish ({told_s - began_s:.0f} s)")
        await asyncio.sleep(CHECK_S)
    return pid


def _lives(pid: int) -> bool:
    """Whether a process still works. One that ended and was not yet collected by its parent does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()
