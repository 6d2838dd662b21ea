"""The bytes of an image archive: a plain tar, or one that is compressed as a whole by gzip or zstd (told by its first bytes).

Nothing is unpacked to disk. In a plain tar members are sought; a compressed one is inflated up to where the wanted bytes stand, each time
anew, because nothing of it is kept. Everything here blocks and belongs into a thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import BinaryIO, TypeVar

from sensor.errors import DataError
from sensor.limits import MIB, Limits
from sensor.model.digest import Digest
from sensor.registry.kinds.archive_tar import (
    STILL_WRITTEN,
    Member,
    Members,
    NotImages,
    Source,
    cut_short,
    read_members,
)
from sensor.scan.inflate import GZIP_MAGIC, ZSTD_MAGIC, Inflater, LimitError
from sensor.scan.tar import BLOCK

_OTHER_COMPRESSIONS = {b"\xfd7zXZ\x00": "xz", b"BZh": "bzip2", b"PK\x03\x04": "zip"}

_Key = TypeVar("_Key")


class Tar:
    """The tar in an open file. The file is the caller's, who closes it to end whatever reads from it."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        file.seek(0)
        head = file.read(BLOCK)
        if not head:
            raise NotImages("the file is empty", STILL_WRITTEN, retryable=True)
        for magic, name in _OTHER_COMPRESSIONS.items():
            if head.startswith(magic):
                message = f"it is compressed by {name}, which is not read"
                raise NotImages(message, "leave it plain, or compress it by gzip or zstd")
        self._file = file
        self._limits = limits
        self.compressed = head.startswith((GZIP_MAGIC, ZSTD_MAGIC))

    def members(self) -> Members:
        """List the members.

        Raises:
            NotImages: this is no tar.
            DataError: it is damaged or cut short (retryable), or larger than the limits allow.
        """
        return read_members(self._source(), self._limits, hold=self.compressed)

    def documents(self, wanted: Iterable[tuple[_Key, Member]]) -> Iterator[tuple[_Key, bytes]]:
        """Read members as a whole, in one pass and in the order in which they stand. The caller has looked at their sizes.

        Raises:
            DataError: the tar is cut short.
        """
        source, last, data = self._source(), None, b""
        for key, member in sorted(wanted, key=lambda one: one[1].offset):
            if member != last:  # two images may share a document, and the source does not go back
                last, data = member, b"".join(_pieces(source, member))
            yield key, data

    def digests(self, wanted: Iterable[Member]) -> dict[Member, Digest]:
        """The SHA-256 of members, in one pass.

        Raises:
            DataError: the tar is cut short.
        """
        source, found = self._source(), {}
        for member in sorted(set(wanted), key=lambda one: one.offset):
            sha256 = hashlib.sha256()
            for piece in _pieces(source, member):
                sha256.update(piece)
            found[member] = Digest(f"sha256:{sha256.hexdigest()}")
        return found

    def pieces(self, member: Member) -> Iterator[bytes]:
        """The content of a file in pieces of at most 1 MiB.

        Raises:
            DataError: the tar is cut short.
        """
        return _pieces(self._source(), member)

    def _source(self) -> Source:
        return _Inflated(self._file, self._limits) if self.compressed else _Plain(self._file)


class _Plain:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)

    @property
    def length(self) -> int:
        return self._file.seek(0, 2)


class _Inflated:
    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self._inflating = _inflate(file, limits)
        self._begin = 0
        self._piece = b""

    def read(self, offset: int, size: int) -> bytes:
        while offset >= self.length and self._next():
            pass
        found = bytearray(self._piece[offset - self._begin :][:size])
        while len(found) < size and self._next():
            found += self._piece[: size - len(found)]
        return bytes(found)

    def _next(self) -> bool:
        piece = next(self._inflating, b"")
        if piece:
            self._begin, self._piece = self.length, piece
        return bool(piece)

    @property
    def length(self) -> int:
        return self._begin + len(self._piece)


def _inflate(file: BinaryIO, limits: Limits) -> Iterator[bytes]:
    inflater = Inflater(replace(limits, layer_bytes=limits.archive_inflated_bytes))
    file.seek(0)
    try:
        while data := file.read(MIB):
            yield from inflater.feed(data)
        yield from inflater.finish()
    except LimitError as error:
        message = (
            f"it inflates to more than {limits.archive_inflated_bytes} bytes, or to {limits.layer_ratio} times its size"
        )
        raise DataError(message, "the limit protects the sensor from bombs; keep the archive uncompressed") from error
    except DataError as error:
        raise DataError("its compression is damaged or cut short", STILL_WRITTEN, retryable=True) from error


def _pieces(source: Source, member: Member) -> Iterator[bytes]:
    done = 0
    while done < member.size:
        piece = source.read(member.offset + done, min(MIB, member.size - done))
        if not piece:
            raise cut_short()
        done += len(piece)
        yield piece
