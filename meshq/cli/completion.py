"""`meshq completion`: for the shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from meshq.cli.common import Command

VARIABLE = "_MESHQ_COMPLETE"


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print what makes a shell complete meshq's commands.

    Options are completed, too, and where a daemon answers at once, names of tasks, ids of the newest ones, batches and
    machines.

    \b
    Examples:
      meshq completion bash >> ~/.bashrc
      meshq completion zsh >> ~/.zshrc
      meshq completion fish > ~/.config/fish/completions/meshq.fish
    """
    # Loaded here: that module loads this one.
    from meshq.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None
    made = found(cli, {}, "meshq", VARIABLE)
    click.echo(made.source_template % made.source_vars())
    return 0
