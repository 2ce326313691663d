"""What children get of this machine, and what they may make of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from meshq.config import ENV_PREFIX

# What a program needs to find its files and to speak the user's language; nothing that could be a secret.
ENVIRONMENT: Final = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TMPDIR", "TZ", "PYTHONPATH", "VIRTUAL_ENV",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The bounds of each child.

    Args:
        env: Variables of the daemon's environment that it gets beside `ENVIRONMENT`; patterns such as `CUDA_*`.
        memory_bytes_max: How much memory each of its processes may take; 0 for any amount.
        output_bytes_max: How much of what it prints in a minute is kept.
        allow: Which tasks it may run, by name or module, as `Registry.allowed` reads it; empty for all.
    """

    env: Sequence[str] = ()
    memory_bytes_max: int = 0
    output_bytes_max: int = 1 << 20
    allow: Sequence[str] = ()

    def environment(self, daemon: Mapping[str, str]) -> dict[str, str]:
        """What a child gets of the daemon's environment. No setting of meshq is among it: one of them is the key."""
        patterns = (*ENVIRONMENT, *self.env)
        return {
            name: value
            for name, value in daemon.items()
            if not name.upper().startswith(ENV_PREFIX) and any(fnmatchcase(name, pattern) for pattern in patterns)
        }


def hold_to_memory(bytes_max: int) -> None:
    """Bounds the memory of this process, and of each that it starts; 0 leaves it as it is.

    What counts on Linux is what it can write to and shares with nobody: address space is also reserved and never used.
    """
    if not bytes_max:
        return
    import resource

    kind = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    _, hard = resource.getrlimit(kind)
    most = bytes_max if hard == resource.RLIM_INFINITY else min(bytes_max, hard)
    resource.setrlimit(kind, (most, most))
