"""What a value from outside may be made of: a bounded number of containers, and keys that were not made to collide.

A byte on the wire may become a container of eighty bytes in memory, and Python's hash of a number or a date is no
secret: a set of numbers with one hash takes quadratic time to build. Texts and bytes are hashed with a secret.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from meshq.core.limits import SAME_HASH_MAX

_NO_BRACKET_OR_QUOTE: Final = bytes(set(range(256)) - set(b'"[{'))


class Parts:
    """Counts the containers of one value, or of several together.

    Args:
        most: How many there may be; None for any number.
        whose: Who has them, in the refusal.
    """

    __slots__ = ("_left", "_most", "_whose")

    def __init__(self, most: int | None, whose: str = "it has") -> None:
        self._most, self._whose = most, whose
        self._left = float("inf") if most is None else most

    def more(self, count: int = 1) -> None:
        """There are so many more.

        Raises:
            ValueError: There are too many.
        """
        self._left -= count
        if self._left < 0:
            raise ValueError(
                f"{self._whose} more than {self._most} lists, maps and sets; large data can be sent as bytes"
            )

    def of_json(self, text: bytes) -> None:
        """Counts the arrays and objects of a JSON text, before any of them is made; raises as `more` does."""
        if text.count(b"[") + text.count(b"{") > self._left:
            # Brackets inside of texts open nothing: every second piece between quotes is a text.
            plain = text.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _NO_BRACKET_OR_QUOTE)
            self.more(sum(map(len, plain.split(b'"')[::2])))


def check_keys(keys: Sequence[Any]) -> None:
    """Whether these can become the keys of a dict, or the items of a set, in reasonable time.

    Raises:
        ValueError: Many different ones have the same hash.
        TypeError: One can't be a key.
    """
    if len(keys) <= SAME_HASH_MAX:
        return
    crowded = {value for value, count in Counter(map(hash, keys)).items() if count > SAME_HASH_MAX}
    if crowded:
        _check_crowded(keys, crowded)


def _check_crowded(keys: Iterable[Any], crowded: set[int]) -> None:
    found: dict[int, list[Any]] = {value: [] for value in crowded}
    for key in keys:
        group = found.get(hash(key))
        if group is not None and key not in group:
            group.append(key)
            if len(group) > SAME_HASH_MAX:
                raise ValueError(f"more than {SAME_HASH_MAX} keys of a map, or items of a set, have the same hash")
