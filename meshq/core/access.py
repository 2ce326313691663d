"""What the bearer of a credential may do, and what it sees: the one place where that stands.

A credential is for those who hand in tasks and are not to have the cluster's key. Its name is the `owner` of the tasks
that were submitted with it. An empty owner stands for whoever has the key, and may do everything.
"""

from __future__ import annotations

import re
from dataclasses import replace

from meshq.core.limits import CREDENTIAL_NAME_CHARS_MAX
from meshq.core.reports import CredentialView
from meshq.core.requests import (
    Cancel,
    CancelBatch,
    HealthQuery,
    LogQuery,
    NamesQuery,
    Request,
    Retry,
    RetryFailed,
    Submit,
    TaskQuery,
    TasksQuery,
    TaskStoryQuery,
    WaitQuery,
)
from meshq.errors import Forbidden, Malformed

# What is about the sender's own tasks.
_OWNED = (
    TaskQuery, WaitQuery, TasksQuery, Cancel, CancelBatch, Retry, RetryFailed, TaskStoryQuery, LogQuery,
)  # fmt: skip
# What somebody with a credential may ask for; each of them, but for the last two, sees its own tasks only.
MAY: frozenset[type] = frozenset({Submit, *_OWNED, NamesQuery, HealthQuery})
# Neither an option nor a part of a path that means another one.
_NAME = re.compile(rf"[a-zA-Z0-9][a-zA-Z0-9._-]{{0,{CREDENTIAL_NAME_CHARS_MAX - 1}}}")


def is_name(text: str) -> bool:
    """Whether a credential may be called so."""
    return _NAME.fullmatch(text) is not None


def check_name(text: str) -> str:
    """The name of a credential, as somebody wrote it.

    Raises:
        Malformed: It can't be one.
    """
    if not is_name(text):
        raise Malformed(
            f"{text[:CREDENTIAL_NAME_CHARS_MAX]!r} is no name of a credential: it has 1 to {CREDENTIAL_NAME_CHARS_MAX} "
            "of the characters a-z, A-Z, 0-9, '.', '_' and '-', and begins with a letter or digit"
        )
    return text


def check(kind: type, owner: str) -> None:
    """Whether this caller may send requests of this class.

    Args:
        kind: The request's class; any other class for what is no request.
        owner: The caller's credential; empty for who has the cluster's key.

    Raises:
        Forbidden: It may not.
    """
    if owner and kind not in MAY:
        raise Forbidden(
            f"the credential {owner} is for submitting tasks, and for seeing, cancelling and retrying those; "
            "everything else needs the cluster's key"
        )


def check_listed(owner: str, found: CredentialView | None) -> None:
    """Whether this credential is valid.

    Args:
        owner: Its name.
        found: What the list says of it; None where it says nothing.

    Raises:
        Forbidden: It is not.
    """
    if found is None:
        raise Forbidden(f"this cluster has issued no credential {owner}")
    if found.revoked_ms is not None:
        raise Forbidden(f"the credential {owner} was revoked; ask for one of another name")


def narrowed(request: Request, owner: str) -> Request:
    """The request as this caller may mean it, whatever it says itself: about its own tasks.

    Args:
        request: Any.
        owner: The caller's credential; empty for who has the cluster's key.

    Raises:
        Forbidden: It would put a credential's tasks before those of the key's holders.
    """
    if isinstance(request, Submit):
        tasks = request.tasks
        if owner and any(spec.priority > 0 for spec in tasks):
            raise Forbidden("the tasks of a credential go before no others: their priority is 0 at most")
        if any(spec.owner != owner for spec in tasks):
            tasks = tuple(replace(spec, owner=owner) for spec in tasks)
        return Submit(tasks=tasks)
    if isinstance(request, _OWNED) and request.owner != owner:
        return replace(request, owner=owner)
    return request


def bearer(request: Request) -> str:
    """With which credential a request was sent, which `narrowed` wrote into it.

    What a node's outbox delivers is brought by that node, whoever the tasks belong to.
    """
    if isinstance(request, Submit):
        return request.tasks[0].owner if request.tasks and not request.late else ""
    return request.owner if isinstance(request, _OWNED) else ""
