"""`meshq up` on a machine whose clock runs at another rate than all others.

Usage: python fast_clock.py RATE [OPTIONS OF meshq up]
"""

from __future__ import annotations

import asyncio
import sys

from meshq.cli import settings
from meshq.cli.up import up
from meshq.node import logs
from meshq.node.clock import SystemClock
from meshq.node.daemon import Daemon, serve


class FastClock(SystemClock):
    """A clock that was right when it was made.

    Args:
        rate: Seconds that it counts in a second.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self._rate = rate
        self._made_s = super().boot_s()

    def boot_s(self) -> float:
        """Seconds as this machine counts them."""
        return self._made_s + self._rate * (super().boot_s() - self._made_s)


def main(rate: str, *options: str) -> None:
    """Runs the daemon until a signal stops it."""
    given = up.make_context("meshq up", list(options)).params
    config = settings.load(given["data_dir"], None, {name: given[name] for name in ("name", "slots", "log_format")})
    logs.set_up(config.log_format)
    daemon = Daemon(config, given["data_dir"])
    daemon.clock = FastClock(float(rate))
    asyncio.run(serve(daemon))


if __name__ == "__main__":
    main(*sys.argv[1:])
