"""Signals that end a command which has something to clean up."""

from __future__ import annotations

import asyncio
import signal


def end_like_ctrl_c() -> None:
    """Whatever ends this process from now on, its clean-up is done; to be called in a running event loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            loop.add_signal_handler(number, signal.raise_signal, signal.SIGINT)
