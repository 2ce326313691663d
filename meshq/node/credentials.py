"""The list of credentials, as one node has it in its copy; as the leader of a majority it writes it, too."""

from __future__ import annotations

from meshq.core import access
from meshq.core.messages import Done
from meshq.core.ports import Clock
from meshq.core.reports import Credentials, CredentialView
from meshq.core.requests import CredentialAdd, CredentialRevoke, CredentialsQuery
from meshq.core.split import Term
from meshq.errors import NoLeader
from meshq.node import journal
from meshq.node.replicator import Replicator
from meshq.store import credentials
from meshq.store.database import Connection
from meshq.store.feed import Pen


class Register:
    """The credentials. Nothing of it is kept in memory: a row that comes counts from the next look on.

    Args:
        replicator: This node's copy, and how it is written.
        clock: The wall clock.
    """

    def __init__(self, replicator: Replicator, clock: Clock) -> None:
        self._replicator = replicator
        self._clock = clock

    async def find(self, name: str) -> CredentialView | None:
        """The credential of this name; None where this copy knows none."""
        return await self._replicator.database.read(lambda conn: credentials.find(conn, name))

    async def told(self, query: CredentialsQuery) -> Credentials:
        """The list, or what it says of one name."""
        if not query.name:
            return Credentials(credentials=await self._replicator.database.read(credentials.every))
        found = await self.find(query.name)
        return Credentials(credentials=() if found is None else (found,))

    async def change(self, term: Term, request: CredentialAdd | CredentialRevoke) -> Done:
        """Adds to the list, or revokes; answers once that is committed.

        Raises:
            Malformed: That is no name.
            NoLeader: No majority is behind this leadership.
            Conflict: The name was given before, or too many were.
            NotFound: None of this name is there to be revoked.
        """
        name = access.check_name(request.name)
        if term.split:
            # Two parts could give the same name, and one that revokes could not tell the other.
            raise NoLeader("no majority is here: credentials are issued and revoked when it is back")
        change = credentials.add if isinstance(request, CredentialAdd) else credentials.revoke
        now_ms = self._clock.wall_ms()

        def work(conn: Connection, pen: Pen) -> None:
            change(conn, pen, name, now_ms)

        _, seq = await self._replicator.write(term, work)
        await self._replicator.commit(seq, term)
        done = "issued" if isinstance(request, CredentialAdd) else "revoked"
        journal.tell(f"credential_{done}", f"{done} the credential {name}", credential=name)
        return Done()
