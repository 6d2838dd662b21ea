"""Reads of an ELF file what finding data in it takes: sections by name, and addresses to file offsets.

Both word sizes and both byte orders. Every offset comes from an image and is checked. System V ABI, chapters 4 and 5.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from sensor.errors import DataError

ELF_MAGIC = b"\x7fELF"
_PT_LOAD = 1
_SHT_NOBITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Bytes of the file that are loaded at an address."""

    address: int
    offset: int
    size: int


class Elf:
    """The tables of one ELF file. Raises DataError when they are cut off or contradict themselves."""

    __slots__ = ("_order", "_view", "_wide", "segments")

    def __init__(self, view: memoryview) -> None:
        if len(view) < 16 or view[:4] != ELF_MAGIC or view[4] not in (1, 2) or view[5] not in (1, 2):
            raise DataError("not an ELF file")
        self._view = view
        self._wide = view[4] == 2
        self._order = "<" if view[5] == 1 else ">"
        self.segments = self._read_segments()

    def unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        """Numbers at an offset, in the byte order of the file."""
        try:
            return struct.unpack_from(self._order + layout, self._view, offset)
        except (struct.error, OverflowError):
            raise DataError("the ELF file is cut off") from None

    def offset_of(self, address: int, size: int) -> int:
        """Where `size` bytes that are loaded at `address` stand in the file."""
        for segment in self.segments:
            if segment.address <= address and address + size <= segment.address + segment.size:
                return segment.offset + address - segment.address
        message = f"address {address:#x} is in no segment of the ELF file"
        raise DataError(message)

    def section(self, name: bytes) -> Extent | None:
        """The first section of that name which has bytes in the file; None when there is none or the table was stripped."""
        if self._wide:
            (table,), (entry_size, count, names_index) = self.unpack("Q", 40), self.unpack("HHH", 58)
            layout, entry_bytes = "IIQQQQ", 64
        else:
            (table,), (entry_size, count, names_index) = self.unpack("I", 32), self.unpack("HHH", 46)
            layout, entry_bytes = "IIIIII", 40
        if not table or not count or names_index >= count or entry_size < entry_bytes:
            return None
        _, _, _, _, names_offset, names_size = self.unpack(layout, table + entry_size * names_index)
        found = re.search(re.escape(b"\0" + name + b"\0"), self._view[names_offset : names_offset + names_size])
        if found is None:
            return None
        for index in range(count):
            at, kind, _, address, offset, size = self.unpack(layout, table + entry_size * index)
            if at == found.start() + 1 and kind != _SHT_NOBITS and offset + size <= len(self._view):
                return Extent(address=address, offset=offset, size=size)
        return None

    def _read_segments(self) -> tuple[Extent, ...]:
        if self._wide:
            (table,), (entry_size, count) = self.unpack("Q", 32), self.unpack("HH", 54)
        else:
            (table,), (entry_size, count) = self.unpack("I", 28), self.unpack("HH", 42)
        found = []
        for index in range(count):
            start = table + entry_size * index
            if self._wide:
                kind, _, offset, address, _, size = self.unpack("IIQQQQ", start)
            else:
                kind, offset, address, _, size = self.unpack("IIIII", start)
            if kind == _PT_LOAD and offset + size <= len(self._view):
                found.append(Extent(address=address, offset=offset, size=size))
        return tuple(found)
