"""Stdout that can't be written: nobody reads it any more, or the disk is full."""

from __future__ import annotations

import errno
import os
import sys

_CAUSES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def is_unwritten(error: OSError) -> bool:
    """Whether this is what a write fails with. (A file that can't be opened has a name in its error.)"""
    return error.errno in _CAUSES and error.filename is None


def discard() -> None:
    """What is left in the buffers is not written at exit either, where nothing could be said about it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
