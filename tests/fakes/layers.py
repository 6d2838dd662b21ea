"""Builders of layer tars: files, directories, links, whiteouts, in every header format, compressed in every way.

    blob = layer(directory("etc"), file("etc/os-release", b"ID=debian\n"), whiteout("var/lib/old"), compression="zstd")

Names may hold bytes that are not UTF-8, as surrogate escapes. Nothing here checks what it is told to write: hostile names are welcome.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import tarfile
from dataclasses import dataclass, field
from typing import Literal

from sensor.model.digest import Digest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Compression = Literal["none", "gzip", "zstd", "members", "frames"]
"""`members` is a gzip of several members (pigz, stargz), `frames` a zstd of several frames (zstd:chunked)."""

Format = Literal["pax", "gnu", "ustar"]

_FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One member of a tar, as it is to be written."""

    path: str
    kind: bytes = tarfile.REGTYPE
    data: bytes = b""
    target: str = ""
    mode: int = 0o644
    pax: dict[str, str] = field(default_factory=dict)


def file(path: str, data: bytes = b"", *, mode: int = 0o644, pax: dict[str, str] | None = None) -> Entry:
    """A regular file."""
    return Entry(path=path, data=data, mode=mode, pax=pax or {})


def directory(path: str) -> Entry:
    """A directory (written with a trailing slash, as tar does)."""
    return Entry(path=path, kind=tarfile.DIRTYPE, mode=0o755)


def symlink(path: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(path=path, kind=tarfile.SYMTYPE, target=target, mode=0o777)


def hardlink(path: str, target: str) -> Entry:
    """A hard link to another path of the image."""
    return Entry(path=path, kind=tarfile.LNKTYPE, target=target)


def device(path: str) -> Entry:
    """A character device."""
    return Entry(path=path, kind=tarfile.CHRTYPE)


def whiteout(path: str) -> Entry:
    """The marker that deletes `path` of the layers below."""
    head, slash, name = path.rpartition("/")
    return file(f"{head}{slash}.wh.{name}")


def opaque(path: str) -> Entry:
    """The marker that hides what the layers below put in the directory `path` ("" is the root)."""
    return file(f"{path}/.wh..wh..opq" if path else ".wh..wh..opq")


def layer_tar(*entries: Entry, format: Format = "pax", prefix: str = "") -> bytes:  # noqa: A002 - tarfile's own word
    """An uncompressed tar. `prefix` goes before every path (`./`)."""
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=_FORMATS[format], encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for entry in entries:
            member = tarfile.TarInfo(prefix + entry.path)
            member.type, member.mode, member.linkname = entry.kind, entry.mode, entry.target
            member.size = len(entry.data)
            member.pax_headers = dict(entry.pax)
            archive.addfile(member, io.BytesIO(entry.data))
    return buffer.getvalue()


def compressed(data: bytes, compression: Compression = "gzip") -> bytes:
    """The bytes as a registry would store them."""
    half = len(data) // 2
    match compression:
        case "none":
            return data
        case "gzip":
            return gzip.compress(data, compresslevel=1, mtime=0)
        case "members":
            return compressed(data[:half], "gzip") + compressed(data[half:], "gzip")
        case "zstd":
            return zstd.compress(data, level=1)
        case "frames":
            return compressed(data[:half], "zstd") + compressed(data[half:], "zstd")


def layer(*entries: Entry, compression: Compression = "gzip", format: Format = "pax") -> bytes:  # noqa: A002
    """A layer blob: tar and compression in one call."""
    return compressed(layer_tar(*entries, format=format), compression)


def digest_of(blob: bytes) -> Digest:
    """The digest under which a registry stores the blob."""
    return Digest("sha256:" + hashlib.sha256(blob).hexdigest())
