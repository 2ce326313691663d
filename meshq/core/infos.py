"""What is told about tasks that can be submitted: by the nodes that run them, and to people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """A parameter of a task: `kind` is inspect's (`POSITIONAL_OR_KEYWORD` …), `type` a word of signature.TYPES.

    `default` is how the default is written in Python, where there is one.
    """

    name: str
    kind: str
    required: bool
    type: str = "any"
    choices: tuple[str, ...] = ()
    default: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo:
    """What a node says about a task that it knows; the options are for submits that leave them open."""

    name: str
    doc: str = ""
    params: tuple[Param, ...] = ()
    priority: int | None = None
    timeout_s: float | None = None
    retries: int | None = None
    max_running: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A task that can be submitted, and the nodes that run it."""

    info: TaskInfo
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """All of them, by name."""

    names: tuple[Name, ...]
