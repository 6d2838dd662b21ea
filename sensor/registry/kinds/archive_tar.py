"""What members a tar has, by name: the pure part, over whatever gives the bytes.

Single headers are the standard library's business (IEEE Std 1003.1-2017, pax); the walk over them is not, because `tarfile` takes a
damaged header for the end. Names and links are only ever looked up among the members: nothing is opened or written by them. Leaves the
bytes to `archive_bytes`, and what the members mean to `archive_index`.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from typing import Literal, Protocol

from sensor.errors import DataError
from sensor.limits import MIB, Limits
from sensor.registry.errors import inert
from sensor.scan.tar import BLOCK

STILL_WRITTEN = "it is damaged, or still being written: then it is read when it is whole"

_REGULAR = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})
_HEADER_ONLY = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})
"""Members without content, whatever their size field says."""
_PAX = frozenset({tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE})
_EXTENSIONS = _PAX | {tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
_ONCE = frozenset({"oci-layout", "index.json", "manifest.json"})
"""Where two readers could disagree about which of two members of one name counts, there must not be two."""
_HEAD_BYTES = 4
_MEMBER_COST = 256
"""What a member takes in memory besides its name."""
_MOST_SIZE = 1 << 44


class Source(Protocol):
    """The bytes of a tar. They are read forwards: no offset lies before the start of an earlier read's last byte."""

    def read(self, offset: int, size: int) -> bytes:
        """So many bytes from there on, fewer only at the end."""

    @property
    def length(self) -> int:
        """How long the tar is. Known when a read came short."""


class NotImages(DataError):
    """The file is something else than images in a tar; what it is stands in the message."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the tar: where its content stands, or to which other member it links."""

    kind: Literal["file", "link", "other"]
    offset: int = 0
    size: int = 0
    target: str = ""
    """Of a link: the member that it means; empty when that is outside of the tar."""
    head: bytes = b""
    """The first bytes of a file, by which compressions are told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """What a tar holds. Names have no leading `./`."""

    by_name: dict[str, Member]
    documents: dict[str, bytes]
    """Small JSON files of a compressed tar, so that it need not be inflated for each."""
    refused: int = 0
    """Members that were passed over: absolute names, names with `..`, and too long ones."""
    ended: bool = True
    """Whether the closing blocks are there."""
    cost: int = 0
    """About so many bytes of memory."""

    def find(self, name: str) -> Member:
        """The file of that name, behind one link at most.

        Raises:
            DataError: it leads out of the tar, is not there, or is no file.
        """
        key = safe_name(name)
        member = self.by_name.get(key) if key else None
        if member is not None and member.kind == "link":
            member = self.by_name.get(member.target)
            if member is None or member.kind != "file":
                message = f"{inert(name)!r} is a link to something that is no file of the archive"
                raise DataError(message, "save the image anew")
        if member is None:
            message = f"{inert(name)!r} is not in the archive" if key else f"{inert(name)!r} leads out of the archive"
            raise DataError(message, "save the image anew")
        if member.kind != "file":
            message = f"{inert(name)!r} is no file"
            raise DataError(message, "save the image anew")
        return member


def read_members(source: Source, limits: Limits, *, hold: bool) -> Members:
    """List the members in one pass. `hold` keeps small documents, for a source that is slow to go back in.

    Raises:
        NotImages: this is no tar.
        DataError: it is damaged or cut short (retryable), or larger than the limits allow.
    """
    return _Walk(source, limits, hold=hold).members()


def safe_name(name: str) -> str:
    """A member's name as it is looked up, without `./` parts; empty if it is absolute, goes up, holds a NUL, or is the root itself."""
    parts = [part for part in name.split("/") if part not in {"", "."}]
    return "" if name.startswith("/") or ".." in parts or "\0" in name else "/".join(parts)


def _link_target(name: str, target: str) -> str:
    """The member that a symbolic link means; empty when that is outside of the tar."""
    if target.startswith("/") or "\0" in target:
        return ""
    parts = name.split("/")[:-1]
    for part in target.split("/"):
        if part == "..":
            if not parts:
                return ""
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)


@dataclass(slots=True)
class _Said:
    """What extension headers say about the next member."""

    name: str = ""
    link: str = ""
    size: int | None = None
    sparse: bool = False


class _Walk:
    """One pass over the headers."""

    def __init__(self, source: Source, limits: Limits, *, hold: bool) -> None:
        self._source = source
        self._limits = limits
        self._hold = hold
        self._found: dict[str, Member] = {}
        self._documents: dict[str, bytes] = {}
        self._refused = 0
        self._cost = 0

    def members(self) -> Members:
        position = end = 0
        said = _Said()
        for _ in range(self._limits.archive_members + 1):
            block = self._source.read(position, BLOCK)
            if not block.strip(b"\0"):
                # the padding of the last member and the closing blocks may be missing, as everywhere
                whole = bool(block) or self._source.length >= end
                return self._finish(ended=len(block) == BLOCK, whole=whole and said == _Said())
            if len(block) < BLOCK:
                raise (
                    NotImages("it is shorter than a tar", STILL_WRITTEN, retryable=True)
                    if not position
                    else cut_short()
                )
            info = _header(block, position)
            content = position + BLOCK
            size = 0 if info.type in _HEADER_ONLY else info.size if said.size is None else said.size
            if not 0 <= size < _MOST_SIZE:
                raise _damaged(position)
            if info.type in _EXTENSIONS:
                size = info.size
                self._extension(info.type, content, size, said)
            else:
                self._member(info, content, size, said)
                said = _Said()
            end = content + size
            position = content + (size + BLOCK - 1) // BLOCK * BLOCK
        message = f"it has more than {self._limits.archive_members} members"
        raise NotImages(message, "a root file system (`docker export`) is no archive of images: use `docker save`")

    def _finish(self, *, ended: bool, whole: bool) -> Members:
        if not whole:
            raise cut_short()
        return Members(
            by_name=self._found, documents=self._documents, refused=self._refused, ended=ended, cost=self._cost
        )

    def _extension(self, kind: bytes, content: int, size: int, said: _Said) -> None:
        if size > self._limits.header_bytes:
            message = f"a header in it is larger than {self._limits.header_bytes} bytes"
            raise DataError(message, "no tool writes such a one; save the image anew")
        data = self._source.read(content, size)
        if len(data) < size:
            raise cut_short()
        if kind in _PAX:
            _read_pax(data, content, said)
        elif kind != tarfile.XGLTYPE:  # global headers mean nothing here, as in Go's archive/tar
            text = data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
            if kind == tarfile.GNUTYPE_LONGNAME:
                said.name = text
            else:
                said.link = text

    def _member(self, info: tarfile.TarInfo, content: int, size: int, said: _Said) -> None:
        raw = said.name or info.name
        if said.sparse or info.type == tarfile.GNUTYPE_SPARSE:
            message = f"{inert(raw)!r} in it is stored as a sparse file"
            raise DataError(message, "make the tar without --sparse")
        name = safe_name(raw)
        if not name or len(name) > self._limits.path_bytes:
            self._refused += bool(raw.strip("./")) or ".." in raw
            return
        if name in _ONCE and name in self._found:
            message = f"it holds {name} twice"
            raise DataError(message, "save the images anew; which of the two counts is anybody's guess")
        link = said.link or info.linkname
        if info.type in _REGULAR:
            head = self._source.read(content, min(size, _HEAD_BYTES))
            member = Member("file", offset=content, size=size, head=head)
            self._hold_document(name, member)
        elif info.type == tarfile.SYMTYPE:
            member = Member("link", target=_link_target(name, link))
        elif info.type == tarfile.LNKTYPE:
            member = Member("link", target=safe_name(link))
        else:
            member = Member("other")
        self._found[name] = member
        self._cost += _MEMBER_COST + len(name) + len(member.target)
        if self._cost > self._limits.archive_index_bytes:
            message = f"the names in it take more than {self._limits.archive_index_bytes // MIB} MiB"
            raise DataError(message, "save fewer images into one file")

    def _hold_document(self, name: str, member: Member) -> None:
        """Keep what looks like JSON while it is at hand; what finds no room is read in another pass."""
        room = self._limits.archive_index_bytes // 2 - self._cost
        if self._hold and member.head[:1] in {b"{", b"["} and member.size <= min(self._limits.manifest_bytes, room):
            rest = self._source.read(member.offset + len(member.head), member.size - len(member.head))
            if len(rest) < member.size - len(member.head):
                raise cut_short()
            self._documents[name] = member.head + rest
            self._cost += member.size


def _header(block: bytes, position: int) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        if position == 0:
            raise NotImages("it is no tar", "expected what `docker save` or `skopeo copy` writes") from error
        raise _damaged(position) from error


def _read_pax(data: bytes, content: int, said: _Said) -> None:
    """The `length key=value newline` records of a PAX header (pax, "Extended Header Keywords")."""
    position = 0
    while position < len(data):
        digits = data[position : position + 20].partition(b" ")[0]
        start = position + len(digits) + 1
        following = position + int(digits) if digits.isdigit() else 0
        key, equals, value = data[start : following - 1].partition(b"=")
        if not equals or not start < following <= len(data) or data[following - 1] != 0x0A:
            raise _damaged(content)
        text = value.decode("utf-8", "surrogateescape")
        match key:
            case b"path":
                said.name = text
            case b"linkpath":
                said.link = text
            case b"size":
                if not value.isdigit() or len(value) > 15:
                    raise _damaged(content)
                said.size = int(value)
            case _:
                said.sparse = said.sparse or key.startswith(b"GNU.sparse.")
        position = following


def _damaged(position: int) -> DataError:
    message = f"it is damaged: no header of a tar stands at byte {position}"
    return DataError(message, STILL_WRITTEN, retryable=True)


def cut_short() -> DataError:
    """The error for a tar that ends too soon."""
    return DataError("it is cut short", STILL_WRITTEN, retryable=True)
