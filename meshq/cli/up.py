"""`meshq up`: the daemon."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from meshq.cli import settings
from meshq.cli.common import Command, Local, Number, local_options
from meshq.errors import BadKey


@click.command(cls=Command)
@click.option("--name", metavar="NAME", help="What this node is called.  [default: the host's name]")
@click.option(
    "--key", metavar="KEY", help="The cluster's key; `-` asks for it, or reads it from a pipe.  [env: MESHQ_KEY]"
)
@click.option("--insecure", is_flag=True, help="No key: anyone on this network can run tasks here.")
@click.option("--cluster", metavar="NAME", help="Nodes with the same cluster name find each other.  [default: meshq]")
@click.option(
    "--port", type=Number(whole=True), metavar="PORT", help="TCP port for other nodes; 0: any.  [default: 7373]"
)
@click.option("--seed", "seeds", multiple=True, metavar="HOST:PORT", help="A node to ask for others.  [repeatable]")
@click.option(
    "--slots",
    type=Number(whole=True),
    metavar="N",
    help="How many tasks run here at once; 0: none.  [default: processors]",
)
@click.option("--replica", metavar="auto|never", help="Whether this node may hold a copy of the queue.")
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Settings, in TOML.")
@click.option("--tasks", multiple=True, metavar="FILE|MODULE", help="Where tasks of your own are.  [repeatable]")
@click.option("--log-format", metavar="text|json", help="How events are written.")
@local_options
def up(
    local: Local,
    name: str | None,
    key: str | None,
    insecure: bool,
    cluster: str | None,
    port: int | None,
    seeds: tuple[str, ...],
    slots: int | None,
    replica: str | None,
    config: Path | None,
    tasks: tuple[str, ...],
    log_format: str | None,
) -> int:
    """Run the daemon here, in the foreground.

    Machines on one network that run it find each other. Ctrl-C stops it in stages: it takes no new work, lets tasks
    finish for a while, hands over and leaves. A second Ctrl-C ends it at once.

    \b
    Examples:
      meshq up
      meshq up --key mq1-2v6k-…              join the machine that made this key
      meshq up --key -                       the same, and the key is seen nowhere
      meshq up --slots 0                     take part, but run no tasks
      meshq up --seed 192.168.1.20:7373      where multicast does not work
      meshq up --tasks mytasks.py            with tasks of your own
      meshq up --data-dir /tmp/b --port 0    a second one on this machine
    """
    if key is not None and key != "-":
        _hide(key)
    found = settings.load(
        local.data_dir,
        config,
        {
            "name": name, "key": _typed(key), "insecure": insecure or None, "cluster": cluster, "port": port,
            "seeds": seeds or None, "slots": slots, "replica": replica, "tasks": tasks or None,
            "log_format": "json" if local.as_json else log_format,
        },
    )  # fmt: skip
    # Loaded last: a wrong option is answered at once.
    from meshq.node.daemon import run_daemon

    return run_daemon(found, local.data_dir)


def _hide(key: str) -> None:
    """Takes the key out of what every user of this machine sees of its processes."""
    from setproctitle import setproctitle

    if key:
        setproctitle(shlex.join(argument.replace(key, "KEY") for argument in sys.orig_argv))


def _typed(key: str | None) -> str | None:
    """The key, asked for without an echo where that was wanted: so it stands in no history and no list of processes.

    Raises:
        BadKey: There is none: a new one is made only where none was meant to be given.
    """
    if key == "-":
        key = _prompted() if sys.stdin.isatty() else sys.stdin.readline()
    if key is not None and not key.strip():
        raise BadKey("--key: the key is empty; meshq key show prints it on a machine of the cluster")
    return key


def _prompted() -> str:
    try:
        return str(click.prompt("The cluster's key", hide_input=True, err=True, type=str))
    except click.Abort:
        raise KeyboardInterrupt from None
