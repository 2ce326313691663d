"""Discovery alone, as a process: prints what the finder finds, one JSON object a line.

Usage: python seeker.py NODE BOOT [SEED...]
"""

from __future__ import annotations

import asyncio
import json
import sys

from meshq.discovery import seeds
from meshq.discovery.finder import Events, Finder


def _say(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


async def _main(node: str, boot: str, *seed_texts: str) -> None:
    finder = Finder(
        node=node,
        boot=boot,
        clusters=lambda: ("test",),
        port=7373,
        seeds=seeds.parse_all(seed_texts),
        events=Events(
            on_candidate=lambda found, addresses: _say("candidate", node=found, addresses=addresses),
            on_foreign=lambda cluster, address: _say("foreign", cluster=cluster, address=address),
            on_twin=lambda twin, addresses: _say("twin", boot=twin, addresses=addresses),
            on_unavailable=lambda reason: _say("unavailable", reason=reason),
            on_seed_failed=lambda seed, reason: _say("seed_failed", seed=str(seed), reason=reason),
        ),
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(finder.run())
        await finder.announced.wait()
        _say("announced", addresses=finder.own_addresses())


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
