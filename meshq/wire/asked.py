"""What stands in the path and the query of an HTTP request."""

from __future__ import annotations

from aiohttp import web

from meshq.errors import Malformed
from meshq.wire import forms


def query(request: web.Request, *known: str) -> dict[str, str]:
    """The query's parameters.

    Raises:
        Malformed: One is not known here.
    """
    for name in request.query:
        if name not in known:
            raise Malformed(f"unknown parameter {name[:40]!r}; known are {', '.join(known)}")
    return dict(request.query)


def task_id(request: web.Request) -> str:
    """The task that is named in the path.

    Raises:
        Malformed: It can't be an id, or a part of one.
    """
    return forms.task_id(request.match_info["id"])


def wait_s(found: dict[str, str]) -> float:
    """How long to wait at most; 0 where the query does not say.

    Raises:
        Malformed: It is no number, or out of range.
    """
    return float(forms.number("wait_s", found["wait"], float)) if "wait" in found else 0.0


def batch(found: dict[str, str]) -> str | None:
    """The name of a batch, where the query has one.

    Raises:
        Malformed: It can't be one.
    """
    return forms.batch(found["batch"]) if "batch" in found else None


def node_or_this(request: web.Request) -> str:
    """The node that is named in the path; empty for this one, which is `-` there.

    Raises:
        Malformed: It can't be one.
    """
    text = request.match_info["node"]
    return "" if text == "-" else forms.node(text)
