"""Image archives on disk: one file, or those of a directory, and which images are in them together.

An archive is read once and then known by its inode, size and time, so that looking again costs one look at the directory. Nobody says when
a file is complete: one that is cut short or changes while it is read is a problem of this moment, told by its name, and of the others all is
used. In the directory links are not followed and hidden files (which copying tools use until they are done) are not looked at.

Everything here blocks and belongs into a thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from sensor.errors import DataError
from sensor.limits import MIB, Limits
from sensor.model.digest import Digest
from sensor.registry.errors import NotARegistry, inert
from sensor.registry.kinds.archive_bytes import Tar
from sensor.registry.kinds.archive_index import Entry, ImageArchive, read_archive
from sensor.registry.kinds.archive_tar import STILL_WRITTEN, Member, NotImages
from sensor.registry.kinds.layout import file_under, repository_of

_ARCHIVE_NAME = re.compile(r".+\.(?:tar(?:\.(?:gz|zst|zstd))?|tgz|tzst|oci)", re.IGNORECASE)
_ENDINGS = re.compile(r"(?:\.(?:tar|tgz|tzst|gz|zst|zstd|oci))+$", re.IGNORECASE)
_MOST_TOLD = 5


class Stamp(NamedTuple):
    """What a file that was not changed is known by."""

    device: int
    inode: int
    changed_ns: int
    size: int


class _Known(NamedTuple):
    stamp: Stamp
    result: ImageArchive | DataError


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """One archive as it was when it was read."""

    path: Path
    stamp: Stamp
    archive: ImageArchive

    @property
    def is_current(self) -> bool:
        """Whether it is still the same file."""
        try:
            return _stamp(os.stat(self.path)) == self.stamp  # noqa: PTH116 - one system call
        except OSError:
            return False

    def open(self) -> BinaryIO:
        """Open it for `pieces`.

        Raises:
            DataError: it is another file by now.
        """
        with told_of(self.path):
            file, stamp = _open(self.path)
            if stamp == self.stamp:
                return file
            file.close()
            raise _changing()

    def pieces(self, file: BinaryIO, member: Member, limits: Limits) -> Iterator[bytes]:
        """The content of a member, from the opened file, in pieces of at most 1 MiB.

        Raises:
            DataError: the file is damaged or was changed.
        """
        with told_of(self.path):
            yield from Tar(file, limits).pieces(member)
            if _stamp(os.fstat(file.fileno())) != self.stamp:
                raise _changing()

    def document(self, digest: Digest, limits: Limits) -> bytes | None:
        """A manifest, not checked; None if the archive does not have it.

        Raises:
            DataError: it is too large for one, or the file is damaged or was changed.
        """
        if digest in self.archive.documents:
            return self.archive.documents[digest]
        member = self.archive.blobs.get(digest)
        if member is None:
            return None
        if member.size > limits.manifest_bytes:
            message = f"{self.path}: {digest} is larger than {limits.manifest_bytes // MIB} MiB"
            raise DataError(message, "a blob of that size is no manifest")
        with self.open() as file:
            return b"".join(self.pieces(file, member, limits))


@dataclass(frozen=True, slots=True)
class Found:
    """An image and the file that it is in."""

    file: ArchiveFile
    entry: Entry


@dataclass(slots=True)
class _Tag:
    """An image under a tag; `file_under` tells images apart by their digest."""

    found: Found

    @property
    def digest(self) -> Digest:
        return self.found.entry.digest


@dataclass(slots=True)
class Gathered:
    """What was found: repository -> tag -> image, over all files."""

    images: dict[str, dict[str, Found]] = field(default_factory=dict)
    files: dict[str, list[ArchiveFile]] = field(default_factory=dict)
    """By repository, the newest first."""
    archives: int = 0
    forms: set[str] = field(default_factory=set)
    refused: int = 0
    passed_over: int = 0
    """What neither is an archive nor is called so, and directories."""
    problems: list[DataError] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    """Names that are in several files with different images."""

    @property
    def reason(self) -> str:
        """Why this is not everything; empty when it is."""
        told = "; ".join(error.message for error in self.problems[:_MOST_TOLD])
        more = len(self.problems) - _MOST_TOLD
        return f"{told}; and {more} more" if more > 0 else told

    def add(self, file: ArchiveFile) -> None:
        """Take the images of a file. Where two have an image of one name, the first keeps the tag and the other gets one of its own."""
        self.archives += 1
        self.forms.add(file.archive.form)
        self.refused += file.archive.refused
        for repository, entries in file.archive.images.items():
            tags = {tag: _Tag(found) for tag, found in self.images.get(repository, {}).items()}
            for tag, entry in entries.items():
                if tag in tags and tags[tag].digest == entry.digest:
                    continue  # the same image again
                under = file_under(tags, tag, _Tag(Found(file, entry)))
                if under != tag:
                    self.doubled.append(f"{repository}:{tag} of {file.path.name} as {under}")
            self.images[repository] = {tag: one.found for tag, one in tags.items()}
            self.files.setdefault(repository, []).append(file)


class ArchiveFolder:
    """A file or a directory of them, and what is known of its archives."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self.root = root
        self._limits = limits
        self._known: dict[Path, _Known] = {}

    def gather(self) -> Gathered:
        """Look at everything that is there now; only what is new is read.

        Raises:
            NotARegistry: there is no such file or directory, or it is something else.
            DataError: the only file cannot be read.
        """
        try:
            if not self.root.is_dir():
                return self._single()
            self._check_directory()
            return self._several()
        except OSError as error:
            message = f"{self.root} cannot be read: {error.strerror}"
            raise NotARegistry(message, "expected an image archive, or a directory of them") from error

    def _single(self) -> Gathered:
        os.stat(self.root)  # noqa: PTH116 - what is missing is told as such
        gathered = Gathered()
        gathered.add(self._read(self.root, {}))
        return gathered

    def _check_directory(self) -> None:
        """Refuse what is a single image in a form of its own, or a layout."""
        if (self.root / "oci-layout").is_file():
            message = f"{self.root} is an OCI image layout, not a directory of archives"
            raise NotARegistry(message, f"write oci:{self.root}")
        version = self.root / "version"
        if (self.root / "manifest.json").is_file() and version.is_file():
            with version.open("rb") as file:
                if file.read(20) == b"Directory Transport ":
                    message = f"{self.root} is a `dir:` copy of skopeo, which has no names"
                    raise NotARegistry(message, f"copy with `skopeo copy dir:{self.root} oci-archive:FILE:NAME`")

    def _several(self) -> Gathered:
        gathered = Gathered()
        known: dict[Path, _Known] = {}
        cost = 0
        for path in self._candidates(gathered):
            try:
                file = self._read(path, known)
            except NotImages as error:
                if _ARCHIVE_NAME.fullmatch(path.name):
                    gathered.problems.append(_anew(error))
                else:
                    gathered.passed_over += 1
                continue
            except DataError as error:
                gathered.problems.append(_anew(error))
                continue
            cost += file.archive.cost
            if cost > self._limits.archive_directory_bytes:
                message = f"older files than {path.name}, and it, are more than are kept in memory"
                gathered.problems.append(DataError(message, "remove old archives, or spread them over directories"))
                break
            gathered.add(file)
        self._known = known
        return gathered

    def _candidates(self, gathered: Gathered) -> list[Path]:
        """The files to look at, the newest first, so that it has the tags which an older one has as well."""
        found: list[tuple[int, str, Path]] = []
        with os.scandir(self.root) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    if not Path(entry.path).resolve().is_relative_to(self.root.resolve()):
                        message = f"{inert(entry.name)}: it is a link out of the directory"
                        gathered.problems.append(DataError(message, "move the file itself into the directory"))
                elif entry.is_file():
                    with contextlib.suppress(FileNotFoundError):
                        found.append((-entry.stat().st_mtime_ns, entry.name, Path(entry.path)))
                else:
                    gathered.passed_over += 1
                if len(found) > self._limits.archive_files:
                    message = (
                        f"{self.root} holds more than {self._limits.archive_files} files; the rest was not looked at"
                    )
                    gathered.problems.append(DataError(message, "remove old archives"))
                    break
        return [path for _, _, path in sorted(found)]

    def _read(self, path: Path, known: dict[Path, _Known]) -> ArchiveFile:
        """What is in a file, from memory if it was not changed. What it is known as is noted in `known`."""
        with told_of(path):
            last = self._known.get(path)
            if last is None or last.stamp != _stamp(os.stat(path)):  # noqa: PTH116 - one system call
                last = self._index(path)
            known[path] = self._known[path] = last
            if isinstance(last.result, DataError):
                raise _anew(last.result)
            return ArchiveFile(path, last.stamp, last.result)

    def _index(self, path: Path) -> _Known:
        file, stamp = _open(path)
        with file:
            result: ImageArchive | DataError
            try:
                name = repository_of(_ENDINGS.sub("", path.name))
                result = read_archive(Tar(file, self._limits), name, self._limits)
            except DataError as error:
                result = _anew(error)
            if _stamp(os.fstat(file.fileno())) != stamp:
                raise _changing()
        return _Known(stamp, result)


@contextlib.contextmanager
def told_of(path: Path) -> Iterator[None]:
    """Errors in the block name the file."""
    try:
        yield
    except OSError as error:
        message = f"{inert(path.name)}: it cannot be read: {error.strerror}"
        raise DataError(message, "look at the rights of the file", retryable=True) from error
    except DataError as error:
        raise _anew(error, f"{inert(path.name)}: ") from error


def _anew(error: DataError, prefix: str = "") -> DataError:
    """The same error without what led to it, so that it can be kept."""
    return type(error)(prefix + error.message, error.advice, retryable=error.retryable)


def _changing() -> DataError:
    return DataError("it was changed while it was read", STILL_WRITTEN, retryable=True)


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


def _open(path: Path) -> tuple[BinaryIO, Stamp]:
    """Open a regular file. A pipe that was put in its place does not make us wait."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb")
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        file.close()
        raise NotImages("it is no file", "expected an image archive, or a directory of them")
    return file, _stamp(found)
