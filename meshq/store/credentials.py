"""The list of credentials: rows of `payloads`, which are replicated like any others. Plain functions of a connection.

`credential/NAME` says that a name was given, `credential/NAME/revoked` that it is valid no more. Neither is ever
changed or deleted. So whatever meets, copies, parts or two clusters, a name that was revoked anywhere stays so.
"""

from __future__ import annotations

import msgspec

from meshq.core.limits import CREDENTIALS_MAX
from meshq.core.reports import CredentialView
from meshq.errors import Conflict, NotFound
from meshq.store.database import Connection
from meshq.store.feed import Pen, write_payload
from meshq.store.rows import UNREADABLE, pack

_PREFIX = "credential/"
_REVOKED = "/revoked"


class _When(msgspec.Struct, frozen=True):
    """What such a row holds: when it was written, by the wall clock."""

    at_ms: int


_decoder = msgspec.msgpack.Decoder(_When)


def find(conn: Connection, name: str) -> CredentialView | None:
    """The credential of this name; None where none was ever issued."""
    ref = _PREFIX + name
    rows = conn.execute("SELECT ref, body FROM payloads WHERE ref IN (?, ?)", (ref, ref + _REVOKED))
    return _view(name, dict(rows.fetchall()))


def every(conn: Connection) -> tuple[CredentialView, ...]:
    """All that were issued, by name; those too that were revoked."""
    # "0" is what comes after "/".
    rows = dict(conn.execute("SELECT ref, body FROM payloads WHERE ref > 'credential/' AND ref < 'credential0'"))
    names = sorted({ref.removeprefix(_PREFIX).partition("/")[0] for ref in rows})
    return tuple(view for view in (_view(name, rows) for name in names) if view is not None)


def add(conn: Connection, pen: Pen, name: str, now_ms: int) -> None:
    """Puts a name on the list.

    Args:
        conn: In one transaction.
        pen: As whom the leader of a majority writes.
        name: A name of a credential.
        now_ms: The wall clock.

    Raises:
        Conflict: It was given before, or too many were.
    """
    found = find(conn, name)
    if found is not None:
        revoked = "" if found.revoked_ms is None else " and revoked"
        raise Conflict(f"the name {name} was given before{revoked}, and none is given twice: choose another")
    if len(every(conn)) >= CREDENTIALS_MAX:
        raise Conflict(f"{CREDENTIALS_MAX} credentials were issued, as many as there may be; let people share one")
    write_payload(conn, pen, _PREFIX + name, pack(_When(now_ms)))


def revoke(conn: Connection, pen: Pen, name: str, now_ms: int) -> None:
    """Lets a credential be valid no more; one that was revoked before stays as it is. Arguments as for `add`.

    Raises:
        NotFound: There is none of this name.
    """
    found = find(conn, name)
    if found is None:
        raise NotFound(f"no credential is called {name}; see: meshq key list")
    if found.revoked_ms is None:
        write_payload(conn, pen, _PREFIX + name + _REVOKED, pack(_When(now_ms)))


def _view(name: str, rows: dict[str, bytes]) -> CredentialView | None:
    issued, revoked = rows.get(_PREFIX + name), rows.get(_PREFIX + name + _REVOKED)
    if issued is None and revoked is None:
        return None
    return CredentialView(name=name, issued_ms=_at_ms(issued), revoked_ms=None if revoked is None else _at_ms(revoked))


def _at_ms(body: bytes | None) -> int:
    """When a row was written; 0 where it can't be read, for it is what it is called that counts."""
    try:
        return 0 if body is None else _decoder.decode(body).at_ms
    except UNREADABLE:
        return 0
