"""Where a daemon's Unix socket is: for the daemon itself, and for every command, which loads nothing else for it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

SOCKET_NAME: Final = "meshq.sock"
# The kernel's limit is 108 bytes on Linux and 104 on macOS, the final zero included.
SOCKET_PATH_BYTES_MAX: Final = 100
_SHARED: Final = Path("/tmp")


def socket_path(data_dir: Path) -> Path:
    """The Unix socket of the daemon that has this data directory; the same for the daemon and for whoever calls it.

    It is in the data directory, unless its path there is too long: then in the user's runtime directory, or in /tmp
    where there is none. The environments of the two may differ (a service has no `XDG_RUNTIME_DIR`), so a socket that
    is there already is found in all of these places.
    """
    whole = data_dir.expanduser().resolve()
    path = whole / SOCKET_NAME
    if _short_enough(path):
        return path
    name = hashlib.sha256(os.fsencode(whole)).hexdigest()[:16] + ".sock"
    paths = [folder / name for folder in _runtime_folders() if _short_enough(folder / name)]
    return next(filter(_is_mine, paths), paths[0])


def squatter(path: Path) -> int | None:
    """The other user whose folder such a socket is in, where it is one that anybody could have made first."""
    if path.parent.parent != _SHARED:
        return None
    try:
        owner = path.parent.stat().st_uid
    except OSError:
        return None
    return owner if owner != os.getuid() else None


def _runtime_folders() -> list[Path]:
    uid = os.getuid()
    roots = [Path(root) for root in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{uid}") if root]
    usable = [root / "meshq" for root in roots if root.is_absolute() and os.access(root, os.W_OK | os.X_OK)]
    return [*usable, _SHARED / f"meshq-{uid}"]


def _is_mine(path: Path) -> bool:
    try:
        return path.is_socket() and path.parent.stat().st_uid == os.getuid()
    except OSError:
        return False


def _short_enough(path: Path) -> bool:
    return len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX
