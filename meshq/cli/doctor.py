"""`meshq doctor`: why machines do not meet."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshq.cli import settings
from meshq.cli.common import Command, Local, local_options
from meshq.config import Config

if TYPE_CHECKING:
    from meshq.discovery.seeds import Seed
    from meshq.node.patient import Finding

WIDTH = 80
MARK_CHARS, WHAT_CHARS = 6, 22
PATIENCE_S = 3.0


@click.command(cls=Command)
@click.argument("host", required=False, metavar="[HOST[:PORT]]")
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Settings, in TOML.")
@local_options
def doctor(local: Local, host: str | None, config: Path | None) -> int:
    """Find out why machines do not meet.

    Looks at this machine's daemon, interfaces and multicast, then at HOST, or at all machines that announce themselves
    or are known here: does it answer, has it the same key, cluster and version, does its clock run as fast, have the
    two met? Each is tried, nothing is changed, and the daemon may run or not. Exits with 1 if something is wrong.

    \b
    Examples:
      meshq doctor
      meshq doctor beta
      meshq doctor 192.168.1.20:7373
    """
    found = settings.load(local.data_dir, config)
    other = None if host is None else _machine(host, found.port)
    findings = asyncio.run(_examine(local, found, other))
    well = all(finding.well for finding in findings)
    if local.as_json:
        shown = [{"what": each.what, "well": each.well, "cause": each.cause, "text": each.text} for each in findings]
        click.echo(json.dumps({"findings": shown}))
    elif well:
        click.echo("all is well")
    return 0 if well else 1


def _machine(text: str, port: int) -> Seed:
    """The machine that is meant by `HOST` or `HOST:PORT`; an IPv6 address needs its brackets only before a port.

    Raises:
        click.BadParameter: It is none.
    """
    from meshq.core.addresses import format_address
    from meshq.discovery import seeds
    from meshq.errors import ConfigError

    host = text.strip()
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        ipaddress.ip_address(host)
        alone = True
    except ValueError:
        alone = bool(host) and ":" not in host
    try:
        return seeds.parse(format_address(host, port or Config().port) if alone else text)
    except ConfigError as error:
        raise click.BadParameter(error.message.removeprefix("--seed "), param_hint="HOST") from error


async def _examine(local: Local, config: Config, host: Seed | None) -> list[Finding]:
    from meshq.node.clock import SystemClock
    from meshq.node.doctor import examine
    from meshq.node.patient import admit

    findings = []
    async with local.client(patience_s=PATIENCE_S) as client:
        here = await admit(config, local.data_dir, client)
        async for finding in examine(here, SystemClock(), host):
            findings.append(finding)
            if not local.as_json:
                _tell(finding)
    return findings


def _tell(finding: Finding) -> None:
    mark, color = ("ok", "green") if finding.well else ("wrong", "red")
    indent = MARK_CHARS + WHAT_CHARS
    lines = textwrap.wrap(finding.text, WIDTH - indent, break_long_words=True, break_on_hyphens=False)
    what = textwrap.wrap(finding.what, WIDTH - MARK_CHARS)
    click.echo(click.style(f"{mark:{MARK_CHARS}}", fg=color), nl=False)
    if len(finding.what) < WHAT_CHARS:
        click.echo(f"{finding.what:{WHAT_CHARS}}{lines.pop(0)}")
    else:
        click.echo(f"\n{'':{MARK_CHARS}}".join(what))
    for line in lines:
        click.echo(f"{'':{indent}}{line}")
