"""Reading an archive of advisories, a zip file or a directory of record files, within limits. What a record means is left to `feeds`."""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sensor.advisories.feeds import FEEDS
from sensor.advisories.feeds.feed import Feed
from sensor.errors import AdvisoryError
from sensor.limits import Limits

_COMPRESSIONS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_ENCRYPTED = 1
"""Bit of a zip member's general purpose flags (APPNOTE 4.4.4)."""


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
                contents = _zip(archive, zipped, sha256, limits)
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
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OverflowError) as error:
        raise broken(archive, error) from error


def _feed_of(name: str) -> Feed | None:
    return next((feed for feed in FEEDS if feed.reads(name)), None)


def _zip(archive: Archive, zipped: zipfile.ZipFile, sha256: str, limits: Limits) -> Contents:
    infos = zipped.infolist()
    if len(infos) > limits.advisory_records:
        raise broken(archive, f"it has {len(infos)} members, more than {limits.advisory_records}")
    chosen = [(info, feed) for info in infos if (feed := _feed_of(info.filename))]
    if any(info.flag_bits & _ENCRYPTED or info.compress_type not in _COMPRESSIONS for info, _ in chosen):
        raise broken(archive, "it is encrypted, or compressed in an unusual way")
    # the reader stops at the declared size and then compares the checksum, so declared sizes bound what is inflated
    if sum(info.file_size for info, _ in chosen) > limits.advisory_inflated_bytes:
        raise broken(archive, f"it inflates to more than {limits.advisory_inflated_bytes} bytes")

    def files() -> Iterator[File]:
        for info, feed in chosen:
            read = partial(_read, archive, partial(zipped.read, info))
            yield File(name=info.filename, feed=feed, size=info.file_size, read=read)

    return Contents(sha256=sha256, total=len(chosen), files=files())


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
