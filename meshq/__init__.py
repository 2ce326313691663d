"""meshq: one task queue out of the machines that you already have."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshq.client.aio import AsyncClient
    from meshq.client.executor import Executor
    from meshq.client.options import Options
    from meshq.client.sync import Client
    from meshq.tasks.context import Final, Run, Stopped, current, eager
    from meshq.tasks.registry import task

__version__ = "0.1.0"
__all__ = [
    "AsyncClient",
    "Client",
    "Executor",
    "Final",
    "Options",
    "Run",
    "Stopped",
    "__version__",
    "current",
    "eager",
    "task",
]

# Loaded when first used, so that a command that needs none of them starts at once.
_HOMES = {
    "AsyncClient": "meshq.client.aio",
    "Client": "meshq.client.sync",
    "Executor": "meshq.client.executor",
    "Options": "meshq.client.options",
    **dict.fromkeys(("Final", "Run", "Stopped", "current", "eager"), "meshq.tasks.context"),
    "task": "meshq.tasks.registry",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'meshq' has no attribute {name!r}")
