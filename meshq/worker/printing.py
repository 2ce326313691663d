"""A child's own stdout and stderr: they know whether the present run wrote anything, so that the pool can tell whose
it was. Whatever else writes to the descriptors comes to the same pipe, unseen."""

from __future__ import annotations

import io
import logging
import sys
from typing import TYPE_CHECKING

from meshq.tasks.context import LOGGER

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Printing:
    """Both streams, put in their places; a text that no encoding has is written with escapes, and fails nothing."""

    def __init__(self) -> None:
        self.seen = False
        self._streams = [self._stream(1), self._stream(2)]
        sys.stdout, sys.stderr = self._streams
        self._handler = logging.StreamHandler(self._streams[1])
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOGGER.addHandler(self._handler)
        LOGGER.setLevel(logging.DEBUG)
        LOGGER.propagate = False

    def _stream(self, descriptor: int) -> io.TextIOWrapper:
        buffered = io.BufferedWriter(_Watched(descriptor, self))
        return io.TextIOWrapper(buffered, "utf-8", "backslashreplace", line_buffering=True)

    def flush(self) -> bool:
        """Writes what a run left in the streams' buffers; whether it wrote anything."""
        for stream in self._streams:
            try:
                stream.flush()
            except OSError:  # it closed the descriptor under it
                pass
            except ValueError:
                self._replace(stream)
        seen, self.seen = self.seen, False
        return seen

    def _replace(self, closed: io.TextIOWrapper) -> None:
        """A run closed its stream; the next one shall have one all the same."""
        number = self._streams.index(closed)
        name = ("stdout", "stderr")[number]
        self._streams[number] = stream = self._stream(number + 1)
        if getattr(sys, name) is closed:
            setattr(sys, name, stream)
        if number == 1:
            self._handler.stream = stream  # its setStream would flush the closed one


class _Watched(io.FileIO):
    def __init__(self, descriptor: int, printing: Printing) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._printing = printing

    def write(self, data: ReadableBuffer, /) -> int:
        self._printing.seen = True
        return super().write(data)
