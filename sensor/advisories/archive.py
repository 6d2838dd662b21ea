"""Reading an archive of advisories, a zip file or a directory of record files, within limits. What a record means is left to `feeds`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from isal import igzip_lib, isal_zlib

from sensor.advisories.feeds import FEEDS
from sensor.advisories.feeds.feed import Feed
from sensor.errors import AdvisoryError
from sensor.limits import Limits

_COMPRESSIONS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_ENCRYPTED, _UTF8 = 0x1, 0x800
"""Bits of a zip member's general purpose flags (APPNOTE 4.4.4)."""
_LOCAL_HEADER = struct.Struct("<4s22xHH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """Records that belong together: a zip file or a directory. `name` is the ecosystem in the bulk layout, `origin` where it came from."""

    name: str
    path: Path
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of an archive that a feed reads. `read` is called at most once, and only if `size` is within the limits."""

    name: str
    feed: Feed
    size: int
    read: Callable[[], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """An open archive: its checksum and its records, in the order in which they stand."""

    sha256: str
    total: int
    files: Iterator[File]


@contextlib.contextmanager
def opened(archive: Archive, limits: Limits) -> Iterator[Contents]:
    """Open an archive and take its checksum.

    Raises:
        AdvisoryError: it cannot be read, is damaged, or breaks a limit; also out of `File.read`.
    """
    with contextlib.ExitStack() as stack:
        with _translated(archive):
            if archive.path.is_dir():
                contents = _directory(archive, limits)
            else:
                # one descriptor for the checksum and the records: they cannot come from different files
                file = stack.enter_context(archive.path.open("rb"))
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                zipped = stack.enter_context(zipfile.ZipFile(file))
                contents = _zip(archive, file, zipped.infolist(), sha256, limits)
        yield contents


def check_archive(archive: Archive, limits: Limits) -> None:
    """Read an archive to its end, so that a damaged one is noticed before it takes a good one's place.

    Raises:
        AdvisoryError: it is damaged, breaks a limit, or holds no record.
    """
    with opened(archive, limits) as contents:
        if not contents.total:
            raise broken(archive, "it holds no records")
        for file in contents.files:
            if file.size <= limits.advisory_record_bytes:
                file.read()


def broken(archive: Archive, reason: object) -> AdvisoryError:
    """The error for an archive that cannot be used."""
    return AdvisoryError(
        f"the advisory archive {archive.origin} is broken: {reason}", "fetch it again; the old advisories stay in use"
    )


@contextlib.contextmanager
def _translated(archive: Archive) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"cannot read the advisory archive {archive.origin}: {error.strerror or error}"
        raise AdvisoryError(message, "check the path and its mode") from error
    except (zipfile.BadZipFile, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        raise broken(archive, error) from error


def _feed_of(name: str) -> Feed | None:
    return next((feed for feed in FEEDS if feed.reads(name)), None)


def _zip(archive: Archive, file: BinaryIO, infos: list[zipfile.ZipInfo], sha256: str, limits: Limits) -> Contents:
    if len(infos) > limits.advisory_records:
        raise broken(archive, f"it has {len(infos)} members, more than {limits.advisory_records}")
    chosen = [(info, feed) for info in infos if (feed := _feed_of(info.filename))]
    if any(info.flag_bits & _ENCRYPTED or info.compress_type not in _COMPRESSIONS for info, _ in chosen):
        raise broken(archive, "it is encrypted, or compressed in an unusual way")
    # no member gives more than its declared size, so these bound what is inflated
    if sum(info.file_size for info, _ in chosen) > limits.advisory_inflated_bytes:
        raise broken(archive, f"it inflates to more than {limits.advisory_inflated_bytes} bytes")

    def files() -> Iterator[File]:
        for info, feed in chosen:
            read = partial(_read, archive, partial(_inflated, file, info))
            yield File(name=info.filename, feed=feed, size=info.file_size, read=read)

    return Contents(sha256=sha256, total=len(chosen), files=files())


def _inflated(file: BinaryIO, info: zipfile.ZipInfo) -> bytes:
    """One member (APPNOTE 4.3.7), never more than its declared size. The standard library's reader takes twice as long for files this small."""
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    signature, name_size, extra_size = _LOCAL_HEADER.unpack(header.ljust(_LOCAL_HEADER.size, b"\0"))
    name = file.read(name_size).decode("utf-8" if info.flag_bits & _UTF8 else "cp437", "replace")
    if signature != b"PK\x03\x04" or name != info.orig_filename:
        raise zipfile.BadZipFile("a header does not agree with the directory at the end")
    if info.compress_size > info.file_size + info.file_size // 64 + 1024:
        raise zipfile.BadZipFile("a record is larger packed than unpacked")
    file.seek(extra_size, os.SEEK_CUR)
    data = file.read(info.compress_size)
    if info.compress_type == zipfile.ZIP_DEFLATED:
        try:
            data = isal_zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, info.file_size + 1)
        except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stubs declare it as a value
            raise zipfile.BadZipFile("a record is damaged") from error
    if len(data) != info.file_size or isal_zlib.crc32(data) != info.CRC:
        raise zipfile.BadZipFile("a record has another size or checksum than declared")
    return data


def _directory(archive: Archive, limits: Limits) -> Contents:
    paths = [
        (path, feed) for path in sorted(archive.path.rglob("*")) if (feed := _feed_of(path.name)) and path.is_file()
    ]
    if len(paths) > limits.advisory_records:
        raise broken(archive, f"it has {len(paths)} files, more than {limits.advisory_records}")
    digest = hashlib.sha256()
    for path, _ in paths:
        digest.update(f"{path.relative_to(archive.path)}\0{path.stat().st_size}\0".encode(errors="surrogateescape"))
        if path.stat().st_size <= limits.advisory_record_bytes:
            digest.update(hashlib.sha256(path.read_bytes()).digest())

    def files() -> Iterator[File]:
        for path, feed in paths:
            with _translated(archive):
                size = path.stat().st_size
            name = str(path.relative_to(archive.path))
            yield File(name=name, feed=feed, size=size, read=partial(_read, archive, path.read_bytes))

    return Contents(sha256=digest.hexdigest(), total=len(paths), files=files())


def _read(archive: Archive, read: Callable[[], bytes]) -> bytes:
    with _translated(archive):
        return read()


def sources_of(archives: Iterable[Archive], limits: Limits) -> list[tuple[str, str]]:
    """Name and checksum of each archive.

    Raises:
        AdvisoryError: one cannot be read.
    """
    sources = []
    for archive in archives:
        with opened(archive, limits) as contents:
            sources.append((archive.name, contents.sha256))
    return sources
