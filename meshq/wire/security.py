"""Who belongs to a cluster."""

from __future__ import annotations

import hashlib

HASH_CHARS = 16


def cluster_hash(name: str) -> str:
    """What a cluster is called in announcements and greetings: 16 hexadecimal digits that don't tell its name."""
    return hashlib.sha256(b"meshq cluster\0" + name.encode()).hexdigest()[:HASH_CHARS]
