"""How much of this node each caller takes at once, and all together: no share is so large that others get nothing."""

from __future__ import annotations

from collections import Counter

from meshq.wire.security import Role, Subject


class Share:
    """One thing that callers take and give back.

    Args:
        most: For all together.
        each: For one caller.
    """

    def __init__(self, most: int, each: int) -> None:
        self._most = most
        self._each = each
        self._taken = 0
        self._by_caller: Counter[str] = Counter()

    def take(self, caller: str, amount: int = 1) -> bool:
        """Takes so much for a caller; False, and nothing is taken, where that is too much."""
        if self._taken + amount > self._most or self._by_caller[caller] + amount > self._each:
            return False
        self._taken += amount
        self._by_caller[caller] += amount
        return True

    def give(self, caller: str, amount: int = 1) -> None:
        """Gives back what was taken."""
        self._taken -= amount
        self._by_caller[caller] -= amount
        if not self._by_caller[caller]:
            del self._by_caller[caller]

    def of(self, caller: str) -> int:
        """How much a caller has at present."""
        return self._by_caller[caller]


def account(subject: Subject | None, host: str) -> str:
    """Who a share is counted for: a node or a credential wherever it is; else whoever calls from one host.

    Args:
        subject: Whom the caller's certificate names; None where it shows none.
        host: Where it calls from; empty for this machine's Unix socket.
    """
    # All who hold the key are one subject, and one of them must not keep the others out.
    return f"at {host}" if subject is None or subject.role == Role.HOLDER else subject.uri
