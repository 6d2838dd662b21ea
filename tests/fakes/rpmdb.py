"""Writes rpm databases: real header blobs in a real SQLite file, a real Berkeley DB file (both readable by rpm itself), or an NDB file.

    database(path, RpmPackage(name="bash", version="5.1.8", release="9.el9", files=("/usr/bin/bash",)))

`header_blob` takes tags as they are, so that a test can lie in any of them. Written from rpm's description of the format, apart from the reader.
"""

from __future__ import annotations

import sqlite3
import struct
import subprocess
import zlib
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

INT32, STRING, BINARY, STRING_ARRAY, I18N_STRING = 4, 6, 7, 8, 9
IMMUTABLE = 63

Tag = tuple[int, int, bytes, int]
"""Number, type, encoded value, count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RpmPackage:
    """One installed package, as rpm would be asked about it."""

    name: str
    version: str
    release: str
    epoch: int | None = None
    arch: str = "x86_64"
    source: str = ""
    vendor: str = ""
    license: str = ""
    modularity: str = ""
    files: tuple[str, ...] = ()


def string(tag: int, text: str) -> Tag:
    """A tag of one string."""
    return (tag, STRING, text.encode() + b"\0", 1)


def strings(tag: int, texts: Iterable[str], kind: int = STRING_ARRAY) -> Tag:
    """A tag of several strings."""
    encoded = [text.encode() + b"\0" for text in texts]
    return (tag, kind, b"".join(encoded), len(encoded))


def numbers(tag: int, values: Iterable[int]) -> Tag:
    """A tag of 32-bit numbers."""
    found = list(values)
    return (tag, INT32, struct.pack(f">{len(found)}I", *found), len(found))


def tags_of(package: RpmPackage) -> list[Tag]:
    """What rpm would note about the package."""
    tags = [
        string(1000, package.name),
        string(1001, package.version),
        string(1002, package.release),
        strings(1004, ["A package"], I18N_STRING),
        numbers(1008, [1_700_000_000]),
        string(1021, "linux"),
        string(1022, package.arch),
    ]
    if package.epoch is not None:
        tags.append(numbers(1003, [package.epoch]))
    for tag, text in (
        (1011, package.vendor),
        (1014, package.license),
        (1044, package.source),
        (5096, package.modularity),
    ):
        if text:
            tags.append(string(tag, text))
    if package.files:
        split = [path.rpartition("/") for path in package.files]
        directories = list(dict.fromkeys(f"{head}/" for head, _, _ in split))
        tags.append(numbers(1116, [directories.index(f"{head}/") for head, _, _ in split]))
        tags.append(strings(1117, [name for _, _, name in split]))
        tags.append(strings(1118, directories))
    return tags


def header_blob(tags: Iterable[Tag]) -> bytes:
    """Index and data, with the region that rpm demands around the tags it must not change."""
    ordered = sorted(tags)
    index, data = b"", b""
    for tag, kind, value, count in ordered:
        if kind == INT32:
            data += bytes(-len(data) % 4)
        index += struct.pack(">IIII", tag, kind, len(data), count)
        data += value
    entries = len(ordered) + 1
    region = struct.pack(">IIII", IMMUTABLE, BINARY, len(data), 16)
    data += struct.pack(">IIiI", IMMUTABLE, BINARY, -16 * entries, 16)
    return struct.pack(">II", entries, len(data)) + region + index + data


def blob(package: RpmPackage) -> bytes:
    """The header of one package."""
    return header_blob(tags_of(package))


def write_database(path: Path, blobs: Iterable[bytes], *, schema: str = "") -> bytes:
    """A database file that holds the blobs; returns its bytes. `schema` replaces rpm's own table."""
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(
            schema
            or "CREATE TABLE IF NOT EXISTS 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL);"
        )
        for blob in blobs:
            database.execute("INSERT INTO Packages (blob) VALUES (?)", (blob,))
    return path.read_bytes()


def database(path: Path, *packages: RpmPackage) -> bytes:
    """A database file of honest packages; returns its bytes."""
    return write_database(path, [blob(package) for package in packages])


_BERKELEY_WRITER = """
use strict; use warnings; use DB_File; use Fcntl;
my ($path, $page, $order) = @ARGV;
my $hash = DB_File::HASHINFO->new;
$hash->{bsize} = $page; $hash->{lorder} = $order;
tie my %packages, 'DB_File', $path, O_RDWR | O_CREAT, 0644, $hash or die $!;
my $number = $order == 1234 ? 'V' : 'N';
binmode STDIN; local $/ = undef;
my $input = <STDIN>; my ($at, $count) = (0, 0);
while ($at < length $input) {
    my $size = unpack('N', substr($input, $at, 4));
    $packages{pack($number, ++$count)} = substr($input, $at + 4, $size);
    $at += 4 + $size;
}
$packages{pack($number, 0)} = pack($number, $count);
untie %packages;
"""


def write_berkeley(path: Path, blobs: Iterable[bytes], *, page_bytes: int = 4096, big_endian: bool = False) -> bytes:
    """A `Packages` file as rpm before 4.16 had it, written by libdb (which perl comes with); returns its bytes."""
    subprocess.run(
        ["perl", "-e", _BERKELEY_WRITER, str(path), str(page_bytes), "4321" if big_endian else "1234"],
        input=b"".join(struct.pack(">I", len(blob)) + blob for blob in blobs),
        check=True,
    )
    return path.read_bytes()


def ndb(blobs: Iterable[bytes]) -> bytes:
    """A `Packages.db` as SUSE's rpm writes it: one page of slots, then the headers in blocks of 16 bytes, each between a head and a tail."""
    slots, data, block = b"", b"", 4096 // 16
    for number, content in enumerate(blobs, start=1):
        blob = struct.pack("<4sIII", b"BlbS", number, 1, len(content)) + content
        blob += bytes(-(len(blob) + 12) % 16)
        blob += struct.pack("<II4s", zlib.adler32(blob), len(content), b"BlbE")
        slots += struct.pack("<4sIII", b"Slot", number, block, len(blob) // 16)
        data += blob
        block += len(blob) // 16
    head = struct.pack("<4sIIII12x", b"RpmP", 0, 1, 1, len(slots) // 16 + 1)
    free = struct.pack("<4sIII", b"Slot", 0, 0, 0)
    page = head + slots
    return page + free * ((4096 - len(page)) // 16) + data
