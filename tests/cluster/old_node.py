"""`meshq up` on a machine whose meshq is older or newer: it speaks other protocol versions.

Usage: python old_node.py OLDEST NEWEST [OPTIONS OF meshq up]
"""

from __future__ import annotations

import asyncio
import sys

from meshq.cli import settings
from meshq.cli.up import up
from meshq.node import logs
from meshq.node.daemon import Daemon, serve


def main(oldest: str, newest: str, *options: str) -> None:
    """Runs the daemon until a signal stops it."""
    given = up.make_context("meshq up", list(options)).params
    data_dir = given["data_dir"]
    names = ("name", "cluster", "port", "slots", "replica", "log_format")
    lists = {name: given[name] or None for name in ("seeds", "tasks")}
    config = settings.load(data_dir, given["config"], {name: given[name] for name in names} | lists)
    logs.set_up(config.log_format)
    asyncio.run(serve(Daemon(config, data_dir, speaks=(int(oldest), int(newest)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
