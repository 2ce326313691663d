"""Who asks: over the Unix socket this machine's user, at the port whom the certificate names."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from meshq.core import access
from meshq.core.ids import short
from meshq.errors import Forbidden
from meshq.wire import security
from meshq.wire.security import HOLDER, Role, Subject


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Args:
        subject: What it may do.
        local: Whether it came over the Unix socket.
    """

    subject: Subject
    local: bool

    @property
    def owner(self) -> str:
        """The credential that it brings, to whose tasks it is confined; empty for who has the cluster's key."""
        return self.subject.name if self.subject.role == Role.SUBMIT else ""


_UCRED: Final = struct.Struct("3i")


def caller_of(request: web.Request, trusted: Callable[[], Collection[str]] | None) -> Caller:
    """Who sent a request.

    Args:
        trusted: The names of the keys that open something now; None where callers at the port prove nothing.

    Raises:
        Forbidden: Another user of this machine, a certificate that names nobody, or one of a key that was dropped
            after its connection was opened.
    """
    transport = request.transport
    raw = transport.get_extra_info("socket") if transport is not None else None
    if raw is not None and raw.family == socket.AF_UNIX:
        if (uid := _uid(raw)) not in (None, 0, os.getuid()):
            raise Forbidden(f"this daemon belongs to another user (uid {os.getuid()}, not {uid})")
        return Caller(HOLDER, local=True)
    if trusted is None:
        return Caller(HOLDER, local=False)
    shown = transport.get_extra_info("peercert") if transport is not None else None
    subject = security.subject_of(shown)
    # One without a name would be taken for whoever has the key.
    if subject is None or (subject.role == Role.SUBMIT and not access.is_name(subject.name)):
        raise Forbidden("the certificate names nobody that this cluster knows")
    if security.key_of(shown) not in trusted():
        raise Forbidden("the cluster's key was changed; connect anew with the present one")
    return Caller(subject, local=False)


def _uid(raw: socket.socket) -> int | None:
    """Who is at the other end of a Unix socket; None where the system does not tell, and the file's mode must do."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    _, uid, _ = _UCRED.unpack(raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)


def check_node(caller: Caller, node: str) -> None:
    """Whether a caller may speak for a node as its worker.

    Raises:
        Forbidden: It is another node.
    """
    if caller.subject.role == Role.NODE and caller.subject.name != node:
        raise Forbidden(f"…{short(caller.subject.name)} can't speak for …{short(node)}")
