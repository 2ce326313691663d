"""The smallest task there is: to try a cluster out, and to measure it."""

from __future__ import annotations

from typing import Any

from meshq.tasks.registry import task


@task
def echo(value: Any = None) -> Any:
    """Gives its argument back."""
    return value
