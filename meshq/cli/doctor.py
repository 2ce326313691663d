"""`meshq doctor`: why machines do not meet."""

from __future__ import annotations

import asyncio
import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshq.cli import settings
from meshq.cli.common import Command, Local, local_options

if TYPE_CHECKING:
    from meshq.node.doctor import Finding

WIDTH = 80
MARK_CHARS, WHAT_CHARS = 6, 22


@click.command(cls=Command)
@click.argument("host", required=False, metavar="[HOST[:PORT]]")
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Settings, in TOML.")
@local_options
def doctor(local: Local, host: str | None, config: Path | None) -> int:
    """Find out why machines do not meet.

    Looks at this machine's interfaces and multicast, then at HOST, or at all that announce themselves: is the port
    open, is it the same key and cluster, do the versions fit, does its clock run as fast? Each is tried, nothing is
    changed, and the daemon may run or not. Exits with 1 if something is wrong.

    \b
    Examples:
      meshq doctor
      meshq doctor beta
      meshq doctor 192.168.1.20:7373
    """
    findings = asyncio.run(_examine(local, config, host))
    if local.as_json:
        shown = [{"what": found.what, "well": found.well, "text": found.text} for found in findings]
        click.echo(json.dumps({"findings": shown}))
    return 0 if all(found.well for found in findings) else 1


async def _examine(local: Local, config: Path | None, host: str | None) -> list[Finding]:
    from meshq.node import doctor as examination
    from meshq.node.clock import SystemClock
    from meshq.store import identity, keyfile

    found = settings.load(local.data_dir, config)
    patient = examination.Patient(
        config=found, keys=keyfile.read(local.data_dir).keys, node=identity.read_id(local.data_dir) or ""
    )
    findings = []
    async for finding in examination.examine(patient, SystemClock(), host):
        findings.append(finding)
        if not local.as_json:
            _tell(finding)
    return findings


def _tell(finding: Finding) -> None:
    mark, color = ("ok", "green") if finding.well else ("wrong", "red")
    begin = MARK_CHARS + max(WHAT_CHARS, len(finding.what) + 1)
    first, *rest = textwrap.wrap(finding.text, max(WIDTH - begin, 20), break_long_words=False) or [""]
    click.echo(f"{click.style(f'{mark:{MARK_CHARS}}', fg=color)}{finding.what:{begin - MARK_CHARS}}{first}")
    for line in rest:
        click.echo(f"{'':{begin}}{line}")
