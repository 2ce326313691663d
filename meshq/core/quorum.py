"""Majorities: how many make one, and what one of them holds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping


def majority(count: int) -> int:
    """How many of `count` replicas make a majority."""
    return count // 2 + 1


def is_majority(voters: Collection[str], members: Collection[str]) -> bool:
    """Whether those of `voters` who are members make a majority of the members; never for no members."""
    return bool(members) and sum(member in voters for member in members) >= majority(len(members))


def held_by_majority(values: Iterable[float], count: int) -> float:
    """The highest value that a majority of `count` replicas has reached; -inf where too few are known."""
    known = sorted(values, reverse=True)
    needed = majority(count)
    return known[needed - 1] if len(known) >= needed else float("-inf")


def merge(*vectors: Mapping[str, int]) -> dict[str, int]:
    """The least vector that covers all of these."""
    merged: dict[str, int] = {}
    for vector in vectors:
        for writer, seq in vector.items():
            if seq > merged.get(writer, 0):
                merged[writer] = seq
    return merged


def covers(vector: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Whether whoever holds `vector` holds everything that `other` names."""
    return all(vector.get(writer, 0) >= seq for writer, seq in other.items())


def is_stale(vector: Mapping[str, int], dropped: Mapping[str, int]) -> bool:
    """Whether whoever holds `vector` may lack a tombstone that was dropped, so that it has to take a full copy."""
    return not covers(vector, dropped)
