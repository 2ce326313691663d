"""What a person does when machines are gone for good: recover, forget, leave. Each is refused where it would harm."""

from __future__ import annotations

from dataclasses import replace

from meshq.core import quorum
from meshq.core.ports import Clock
from meshq.errors import Conflict, NoLeader
from meshq.node import journal, keyring
from meshq.node.elector import Elector
from meshq.node.keyring import Keyring
from meshq.node.leadership import Leadership
from meshq.node.peers import Peers
from meshq.node.replicator import Replicator
from meshq.store import feed, peers
from meshq.store.feed import Pen


class Recovery:
    """One node's part in these.

    Args:
        replicator: Its copy and roster.
        elector: Knows whether a majority is there.
        peers: The other nodes.
        leadership: The steward, where this node leads.
        keyring: Its keys; None on a node that talks to no other.
        clock: Chance, for a new key.
    """

    def __init__(
        self,
        replicator: Replicator,
        elector: Elector,
        peers: Peers,
        leadership: Leadership,
        keyring: Keyring | None,
        clock: Clock,
    ) -> None:
        self._replicator = replicator
        self._elector = elector
        self._peers = peers
        self._leadership = leadership
        self._keyring = keyring
        self._clock = clock

    async def recover(self) -> None:
        """Makes this node's copy the cluster: it alone is on the roster, whose recovery counter goes first.

        Raises:
            Conflict: This node belongs to no cluster, or holds no copy of its queue, or a majority can be reached.
        """
        me, roster = self._replicator.me, self._replicator.roster
        if not roster.genesis:
            raise Conflict("this node belongs to no cluster yet: there is nothing to recover")
        if leader := self._elector.majority_leader():
            raise Conflict(f"{self._peers.name_of(leader)} leads a majority: there is nothing to recover")
        if me not in roster.members and not self._replicator.vector:
            names = ", ".join(self._peers.name_of(node) for node in roster.members)
            raise Conflict(
                f"this node only works and holds no copy of the queue: run `meshq recover` on one of {names}. If none "
                "of them is left, `meshq leave` and then `meshq up`, on all machines that are, begin a new cluster"
            )
        there = [node for node in roster.members if node not in self._peers.missing()]
        if quorum.is_majority(there, roster.members):
            raise Conflict(
                f"{len(there)} of {len(roster.members)} replicas answer, which is a majority: they elect a leader by "
                "themselves within seconds; recover would only cut the others off"
            )
        alone = replace(roster, recovery=roster.recovery + 1, members=(me,), version=roster.version + 1, into="")
        epoch = max(self._elector.promised_epoch, self._replicator.row_epoch, roster.epoch)
        pen = Pen(node=me, epoch=epoch, majority=False, version=self._replicator.version())
        await self._replicator.database.write(lambda conn: feed.write_roster(conn, pen, alone))
        await self._replicator.reload()
        journal.warn("recovered", "this machine's copy is the cluster now; others join it when they come back")

    async def forget(self, text: str) -> None:
        """As leader: takes a node off the roster that never comes back, and forgets where it was.

        Raises:
            NotFound, Ambiguous: No node is called so, or several.
            Conflict: It is up, leads, or is the only replica.
            NotLeader: There is no majority here.
        """
        node = self._peers.find(text)
        reign = await self._leadership.leading_majority()
        await reign.steward.forget(node)
        self._peers.book.pop(node, None)
        await self._replicator.database.write(lambda conn: peers.forget(conn, node))

    def change_key(self, step: str, *, force: bool) -> None:
        """Begins (`rotate`) or ends (`finish`) a change of the cluster's key.

        Raises:
            Conflict: There is no key, or none that is being changed, or one that is; or somebody lacks the new one.
            StoreError: It can't be written.
        """
        ring = self._keyring
        if ring is None:
            raise Conflict("this node talks to no other, and has no key")
        if step == "rotate":
            ring.rotate(keyring.make(self._clock.random_bits))
            return
        lacking = [
            node
            for node in self._peers.around_here()
            if (hello := self._peers.said(node)) is None or ring.names()[-1] not in hello.keys
        ]
        if ring.offered and lacking and not force:
            names = ", ".join(self._peers.name_of(node) for node in lacking)
            raise Conflict(
                f"{names} can't be told the new key now, and would be shut out: start what is missing, or run "
                "`meshq forget` for what never comes back, or shut it out with: meshq key finish --force"
            )
        ring.finish()

    def check_leave(self) -> None:
        """Whether this node can leave for good.

        Raises:
            Conflict: It is the only replica, or too few of the others are there.
            NoLeader: There is no majority that could take it off the roster.
        """
        me, members = self._replicator.me, self._replicator.roster.members
        if me not in members:
            return
        if members == (me,):
            raise Conflict("this is the only copy of the queue: `meshq down` stops it, `meshq backup` keeps it")
        missing = self._peers.missing()
        names = ", ".join(self._peers.name_of(node) for node in missing)
        if self._elector.majority_leader() is None:
            raise NoLeader(
                f"no majority is there that could take this node off the roster: it waits for {names or 'a leader'}; "
                "`meshq down` stops it for a while"
            )
        others = [node for node in members if node != me]
        if not quorum.is_majority([node for node in others if node not in missing], others):
            raise Conflict(
                f"this node stays on the roster: without it, and while {names} can't be reached, the others are no "
                "majority. Start what is missing, or take it off with `meshq forget` if it never comes back; "
                "`meshq down` stops this node for a while"
            )
