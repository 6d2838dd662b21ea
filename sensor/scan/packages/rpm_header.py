"""Reads the header blob that an rpm database keeps for every installed package, whatever file format holds it.

Big endian: entries (u32), bytes of data (u32), then 16 bytes per entry (tag, type, offset, count), then the data. Every number comes from
an image and is checked before it is used. rpm's own documentation: "RPM header format"; its bounds are those of lib/header.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from sensor.errors import DataError
from sensor.limits import Limits
from sensor.scan.packages.ecosystem import is_metadata_name, is_program_directory

NAME, VERSION, RELEASE, EPOCH = 1000, 1001, 1002, 1003
VENDOR, LICENSE, ARCH, SOURCERPM = 1011, 1014, 1022, 1044
DIRINDEXES, BASENAMES, DIRNAMES = 1116, 1117, 1118
MODULARITYLABEL = 5096

_WANTED = frozenset(
    {NAME, VERSION, RELEASE, EPOCH, VENDOR, LICENSE, ARCH, SOURCERPM, DIRINDEXES, BASENAMES, DIRNAMES, MODULARITYLABEL}
)
_INT32, _STRING, _STRING_ARRAY, _I18N_STRING = 4, 6, 8, 9
_TEXTS = frozenset({_STRING, _STRING_ARRAY, _I18N_STRING})
_START = struct.Struct(">II")
_ENTRY = struct.Struct(">IIII")


class RpmHeader:
    """The wanted tags of one package. Raises DataError when the blob is not a header or breaks a bound."""

    __slots__ = ("_data", "_entries")

    def __init__(self, blob: bytes, limits: Limits) -> None:
        if len(blob) < _START.size:
            raise DataError("the header is cut off")
        entries, data_bytes = _START.unpack_from(blob)
        start = _START.size + _ENTRY.size * entries
        if entries > limits.rpm_index_entries or start + data_bytes > len(blob):
            raise DataError("the header claims more entries or data than it has")
        self._data = blob[start : start + data_bytes]
        self._entries: dict[int, tuple[int, int, int]] = {}
        for tag, kind, offset, count in _ENTRY.iter_unpack(blob[_START.size : start]):
            if tag in _WANTED:
                if offset >= data_bytes or not count:
                    message = f"tag {tag} points outside of the header"
                    raise DataError(message)
                self._entries[tag] = (kind, offset, count)

    def text(self, tag: int) -> str:
        """The first string of a tag; empty when there is none."""
        if tag not in self._entries:
            return ""
        kind, offset, _ = self._entries[tag]
        end = self._data.find(b"\0", offset)
        if kind not in _TEXTS or end < 0:
            message = f"tag {tag} is not a string"
            raise DataError(message)
        return self._data[offset:end].decode("utf-8", "replace")

    def number(self, tag: int) -> int:
        """The first 32-bit number of a tag; 0 when there is none."""
        numbers = self._numbers(tag)
        return numbers[0] if numbers else 0

    def telling_files(self) -> Iterator[str]:
        """Paths of the package's files that other catalogers could report too, without a leading slash.

        File i is DIRNAMES[DIRINDEXES[i]] + BASENAMES[i]. Raises DataError when the three do not fit together.
        """
        names, indexes = self._texts(BASENAMES), self._numbers(DIRINDEXES)
        directories = [name.decode("utf-8", "replace").strip("/") for name in self._texts(DIRNAMES)]
        if len(names) != len(indexes) or (indexes and max(indexes) >= len(directories)):
            raise DataError("its lists of files and directories do not fit together")
        holds_programs = [is_program_directory(directory) for directory in directories]
        for raw, index in zip(names, indexes, strict=True):
            name = raw.decode("utf-8", "replace")
            if holds_programs[index] or is_metadata_name(name):
                directory = directories[index]
                yield f"{directory}/{name}" if directory else name

    def _texts(self, tag: int) -> list[bytes]:
        if tag not in self._entries:
            return []
        kind, offset, count = self._entries[tag]
        found = self._data[offset:].split(b"\0", count) if count <= len(self._data) - offset else []
        if kind not in _TEXTS or len(found) != count + 1:
            message = f"tag {tag} does not hold the {count} strings that it claims"
            raise DataError(message)
        return found[:count]

    def _numbers(self, tag: int) -> tuple[int, ...]:
        if tag not in self._entries:
            return ()
        kind, offset, count = self._entries[tag]
        if kind != _INT32 or offset + 4 * count > len(self._data):
            message = f"tag {tag} does not hold the {count} numbers that it claims"
            raise DataError(message)
        return struct.unpack_from(f">{count}I", self._data, offset)
