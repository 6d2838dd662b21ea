"""Holds the content of one wanted file while it streams by, until a cataloger has read it.

Small files stay in memory as references to the pieces they came in; files for random access go to one anonymous temporary file when they
grow. Bytes that only count when they contain a needle are searched as they pass. Leaves the choice of files to `scan.stream`.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import BinaryIO

from sensor.errors import DataError


class Spool:
    """One temporary file without a name, made when it is first needed and used again for every large file of the layer.

    It is cut to size only for a reader that asks for its path: to overwrite is cheaper than to free and allocate again.
    """

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._length = 0

    def _open(self) -> BinaryIO:
        if self._file is None:
            from tempfile import TemporaryFile  # noqa: PLC0415 - costs a fifth of the child's start, and most layers need none

            self._file = TemporaryFile(buffering=0, prefix="harborguard-")  # noqa: SIM115 - lives as long as the layer
        return self._file

    def append(self, pieces: list[memoryview]) -> None:
        """Write at the end.

        Raises:
            OSError: the disk is full, or there is no directory for temporary files.
        """
        file = self._open()
        for piece in pieces:
            rest = piece
            while rest:
                rest = rest[file.write(rest) :]
            self._length += len(piece)

    def map(self) -> mmap.mmap:
        """The whole content in the address space, read only."""
        return mmap.mmap(self._open().fileno(), self._length, access=mmap.ACCESS_READ)

    def path(self) -> str:
        """A path that opens the file as long as the spool lives."""
        file = self._open()
        file.truncate(self._length)
        return f"/proc/self/fd/{file.fileno()}"

    def clear(self) -> None:
        """Forget the content."""
        self._length = 0
        if self._file is not None:
            self._file.seek(0)

    def close(self) -> None:
        """Give the file up."""
        self._length = 0
        if self._file is not None:
            self._file.close()
            self._file = None


class SpooledContent:
    """Content of a file that a cataloger wants at random: in memory while it is small, else in the spool."""

    def __init__(self, size: int, pieces: list[memoryview], spool: Spool, *, spilled: bool) -> None:
        self._size = size
        self._pieces = pieces
        self._spool = spool
        self._spilled = spilled
        self._data: bytes | mmap.mmap | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    def _whole(self) -> bytes | mmap.mmap:
        if self._data is None:
            self._data = self._spool.map() if self._spilled and self._size else b"".join(self._pieces)
        return self._data

    def read(self) -> bytes:
        """Everything, in memory."""
        return bytes(self._whole()[:])

    def view(self) -> memoryview:
        """Everything, without a copy where it was spooled."""
        return memoryview(self._whole())

    def path(self) -> str:
        """A path under /proc/self/fd."""
        if not self._spilled:
            self._spool.append(self._pieces)
            self._spilled = True
        return self._spool.path()

    def release(self) -> None:
        """Unmap and empty the spool. A view that a cataloger still holds keeps its pages until it goes."""
        data, self._data = self._data, None
        if isinstance(data, mmap.mmap):
            try:
                data.close()
            except BufferError:
                # Truncating under a live map would turn its next read into SIGBUS: leave that file to the view and take a new one.
                self._spool.close()
        self._pieces = []
        self._spool.clear()


class Capture:
    """Takes the content of one file from the tar. `found` are the needles met; `failure` says why the content could not be held."""

    __slots__ = (
        "_finished",
        "_hold",
        "_in_memory",
        "_needles",
        "_spool",
        "_spool_from",
        "_tail",
        "failure",
        "found",
        "pieces",
        "size",
        "spilled",
    )

    def __init__(
        self,
        *,
        needles: frozenset[bytes],
        hold: bool,
        spool: Spool | None,
        spool_from: int,
        in_memory: bool = False,
        finished: Callable[[Capture], None],
    ) -> None:
        self._needles = set(needles)
        self._hold = hold
        self._spool = spool
        self._spool_from = spool_from
        self._in_memory = in_memory
        self._finished = finished
        self._tail = b""
        self.pieces: list[memoryview] = []
        self.size = 0
        self.spilled = False
        self.found: set[bytes] = set()
        self.failure = ""

    def write(self, data: bytes, start: int, end: int) -> None:
        """Search and keep data[start:end]."""
        if self._needles:
            self._search(data, start, end)
        if not self._hold:
            return
        self.pieces.append(memoryview(data)[start:end])
        self.size += end - start
        if self._spool is not None and (self.spilled or self.size > self._spool_from):
            self._spill(self._spool)

    def _spill(self, spool: Spool) -> None:
        """Move what is held to the temporary file. Without one, a file that is not too large stays in memory."""
        try:
            spool.append(self.pieces)
        except OSError as error:
            if self._in_memory and not self.spilled:
                spool.clear()
                self._spool = None
                return
            self._hold = False
            self.failure = f"no room for a temporary file: {os.strerror(error.errno or 0)}"
        self.pieces = []
        self.spilled = True

    def _search(self, data: bytes, start: int, end: int) -> None:
        longest = max(map(len, self._needles)) - 1
        for needle in tuple(self._needles):
            border = self._tail + data[start : min(end, start + len(needle) - 1)] if self._tail else b""
            if needle in border or data.find(needle, start, end) >= 0:
                self.found.add(needle)
                self._needles.discard(needle)
        self._tail = (self._tail + data[max(start, end - longest) : end])[-longest:] if longest else b""

    def close(self) -> None:
        """The file is complete."""
        self._finished(self)
        if self.spilled and self._spool is not None:
            self._spool.clear()
        self.pieces = []

    def data(self) -> bytes:
        """What was held in memory.

        Raises:
            DataError: it could not be held.
        """
        if self.failure:
            raise DataError(self.failure, "give the sensor a larger directory for temporary files (TMPDIR)")
        return b"".join(self.pieces)
