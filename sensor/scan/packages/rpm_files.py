"""Takes the headers out of the file formats in which rpm kept its database before SQLite: Berkeley DB (rpm before 4.16) and NDB (SUSE).

Only `Packages` itself is read, one header for every package; the indexes beside it are made from it. Every offset comes from an image: none is
followed out of the file, no page is read twice for one header, and together headers cannot be larger than the file. Leaves what stands in
a header to `rpm_header`. Berkeley DB: dbinc/db_page.h of its distribution; NDB: rpm's lib/backend/ndb.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from sensor.errors import DataError
from sensor.limits import Limits
from sensor.scan.packages.ecosystem import Findings

Header = tuple[int, bytes]
"""Number of the package and its header."""

_BERKELEY_ORDERS = {b"\x61\x15\x06\x00": "<", b"\x00\x06\x15\x61": ">"}
"""The magic of the hash access method, at byte 12, tells the byte order of the machine that wrote the file."""
_PAGE_SIZES = frozenset(1 << power for power in range(9, 17))
_PAGE_BYTES = 26
"""Before the content of every page: log number (8), own, previous and next page (4 each), entries and length (2 each), level, type."""
_HASH_META, _HASH_PAGES, _OVERFLOW = 8, frozenset({2, 13}), 7
_IN_PAGE, _OFF_PAGE = 1, 3
_OFF_PAGE_BYTES = 12
_NUMBER_BYTES = 4

_NDB_MAGIC = b"RpmP"
_NDB_HEAD = struct.Struct("<4sIIII")
_NDB_SLOT = struct.Struct("<4sIII")
_NDB_FIRST_SLOT, _NDB_PAGE_BYTES, _NDB_BLOCK_BYTES = 32, 4096, 16


def header_reader(view: memoryview) -> Callable[[Limits, Findings], Iterator[Header]] | None:
    """What reads the headers of this file; None for a file of neither format.

    The reader notes a record that cannot be read in the findings, and raises DataError when the file as a whole makes no sense.
    """
    if view[:4] == _NDB_MAGIC:
        return partial(_ndb_headers, view)
    order = _BERKELEY_ORDERS.get(bytes(view[12:16]))
    return partial(_berkeley_headers, view, order) if order else None


@dataclass(slots=True, kw_only=True)
class _Budget:
    """What honest records of one file can come to. Records are counted whether they can be read or not."""

    bytes_left: int
    records_left: int
    findings: Findings

    def is_spent(self) -> bool:
        """Take one record; when there were too many, that is noted and nothing more is to be read."""
        self.records_left -= 1
        if self.records_left == -1:
            self.findings.gap(
                "limit", "the database has more packages than the limit of one layer; the rest is not read"
            )
        return self.records_left < 0

    def take(self, size: int) -> None:
        """Take the bytes of one header."""
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise DataError("the records of the rpm database overlap, which no rpm has written")


def _berkeley_headers(view: memoryview, order: str, limits: Limits, findings: Findings) -> Iterator[Header]:
    file = _BerkeleyFile.open(view, order)
    budget = _Budget(bytes_left=len(view), records_left=limits.packages_per_layer, findings=findings)
    for page in range(1, file.pages):
        for number, item in file.records(page):
            if budget.is_spent():
                return
            if number == 0:  # how many packages there have been
                continue
            try:
                header = file.value(item)
            except DataError as error:
                findings.gap("unreadable", f"record {number}: {error.message}")
                continue
            budget.take(len(header))
            yield number, header


@dataclass(frozen=True, slots=True, kw_only=True)
class _BerkeleyFile:
    """A hash database. Pages are numbered from 0, which describes the file."""

    view: memoryview
    order: str
    page_bytes: int
    pages: int

    @classmethod
    def open(cls, view: memoryview, order: str) -> _BerkeleyFile:
        """Raises DataError when the first page does not describe a hash database."""
        if len(view) < _PAGE_BYTES or view[25] != _HASH_META:
            raise DataError("the Berkeley DB file has no first page of a hash database")
        (page_bytes,) = struct.unpack_from(f"{order}I", view, 20)
        if page_bytes not in _PAGE_SIZES or page_bytes > len(view):
            message = f"the Berkeley DB file claims pages of {page_bytes} bytes"
            raise DataError(message)
        return cls(view=view, order=order, page_bytes=page_bytes, pages=len(view) // page_bytes)

    def records(self, page: int) -> Iterator[tuple[int, memoryview]]:
        """Number and value item of every record on a page; none for a page that holds other things."""
        content = self._page(page)
        if content[25] not in _HASH_PAGES:
            return
        (count,) = struct.unpack_from(f"{self.order}H", content, 20)
        count = min(count, (self.page_bytes - _PAGE_BYTES) // 2)
        starts = struct.unpack_from(f"{self.order}{count}H", content, _PAGE_BYTES)
        ends = (self.page_bytes, *starts)  # items are written from the end of the page to its middle
        for place in range(0, count - 1, 2):
            key = content[starts[place] : ends[place]]
            is_number = len(key) == 1 + _NUMBER_BYTES and key[0] == _IN_PAGE
            number = struct.unpack_from(f"{self.order}I", key, 1)[0] if is_number else -1
            yield number, content[starts[place + 1] : ends[place + 1]]

    def value(self, item: memoryview) -> bytes:
        """The bytes of a value, which nearly always lie on overflow pages. Raises DataError when it leads nowhere."""
        kind = item[0] if item else 0
        if kind == _IN_PAGE:
            return bytes(item[1:])
        if kind != _OFF_PAGE or len(item) < _OFF_PAGE_BYTES:
            raise DataError("its value is of an unknown kind")
        page, size = struct.unpack_from(f"{self.order}II", item, 4)
        if size > len(self.view):
            raise DataError("its value claims to be larger than the file")
        parts: list[memoryview] = []
        left = size
        while left > 0:
            content = self._page(page) if 0 < page < self.pages else None
            if content is None or content[25] != _OVERFLOW:
                raise DataError("its value leads to a page that is not there")
            (length,) = struct.unpack_from(f"{self.order}H", content, 22)
            if not 0 < length <= min(left, self.page_bytes - _PAGE_BYTES):
                raise DataError("its value does not have the length that it claims")
            parts.append(content[_PAGE_BYTES : _PAGE_BYTES + length])
            left -= length
            (page,) = struct.unpack_from(f"{self.order}I", content, 16)
        return b"".join(parts)

    def _page(self, number: int) -> memoryview:
        return self.view[number * self.page_bytes : (number + 1) * self.page_bytes]


def _ndb_headers(view: memoryview, limits: Limits, findings: Findings) -> Iterator[Header]:
    if len(view) < _NDB_FIRST_SLOT:
        raise DataError("the NDB file is cut off")
    _, version, _, pages, _ = _NDB_HEAD.unpack_from(view)
    if version:
        message = f"the rpm database is of version {version} of the NDB format, which is not known"
        raise DataError(message)
    end = pages * _NDB_PAGE_BYTES
    if end > len(view):
        raise DataError("the NDB file claims more slots than it has")
    budget = _Budget(bytes_left=len(view), records_left=limits.packages_per_layer, findings=findings)
    for magic, number, block, _ in _NDB_SLOT.iter_unpack(view[_NDB_FIRST_SLOT:end]):
        if not block:
            continue
        if budget.is_spent():
            return
        start = block * _NDB_BLOCK_BYTES
        content = start + _NDB_SLOT.size
        found, owner, _, size = _NDB_SLOT.unpack_from(view, start) if content <= len(view) else (b"", 0, 0, 0)
        if magic != b"Slot" or found != b"BlbS" or owner != number or content + size > len(view):
            findings.gap("unreadable", f"record {number}: its slot does not lead to a header")
            continue
        budget.take(size)
        yield number, bytes(view[content : content + size])
