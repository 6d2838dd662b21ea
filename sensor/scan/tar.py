"""A push parser for tar: bytes in, one call a member out. Nothing is unpacked and nothing is kept.

Reads what Go's archive/tar reads, because that is what container runtimes unpack layers with: V7, ustar and PAX (IEEE Std 1003.1-2017,
pax, "Interchange Format"), GNU long names, base-256 numbers and sparse files (tar(5)). Where readers differ, Go's answer is taken.

This is the hot path: a large image has several hundred thousand members and gigabytes between them. A member that nobody
wants costs one look at its header and an addition; its content is skipped by offset and never copied. What the members mean is
the visitor's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from isal.isal_zlib import adler32

from sensor.errors import DataError
from sensor.limits import Limits
from sensor.scan.inflate import LimitError

BLOCK = 512
PEEK_BYTES = 16
"""So many first bytes of a file (or all of a shorter one) stand behind its header when the visitor is asked whether it wants it;
fewer only where the tar is cut short."""

_ZEROS = bytes(BLOCK)
_V7, _HARD_LINK, _SYMLINK, _DIRECTORY, _SPARSE = b"\x00125S"
_GLOBAL, _GNU_NAME, _GNU_LINK = b"gLK"
_REGULAR = frozenset(b"0\x007")
_HEADER_ONLY = frozenset(b"123456")
"""Members without content, whatever their size field says (as Go's archive/tar has it)."""
_EXTENSIONS = frozenset(b"xXgLKS")
"""Headers that say something about the next member, or go on behind themselves."""
_SLASH = 0x2F
_NAME_FIELD = 100
_MOST_SIZE = 1 << 63


class Sink(Protocol):
    """Takes the content of one wanted file."""

    def write(self, data: bytes, start: int, end: int) -> None:
        """The next bytes are data[start:end]. `data` never changes and may be kept."""

    def close(self) -> None:
        """That was all of it. Not called for a file that is cut short."""


class Visitor(Protocol):
    """Is told about every member. Paths have no leading slash, no `.` or `..`, and no slash at the end; the root itself is not told."""

    def file(self, path: bytes, size: int, data: bytes, offset: int) -> Sink | None:
        """A regular file of `size` bytes; its first bytes stand at data[offset]. Returns where its content shall go, if anywhere."""

    def directory(self, path: bytes) -> None:
        """A directory."""

    def symlink(self, path: bytes, target: bytes) -> None:
        """A symbolic link; the target is as it was written."""

    def hard_link(self, path: bytes, target: bytes) -> None:
        """Another name for the file at `target`, which is a path like `path`."""

    def special(self, path: bytes) -> None:
        """A device or a pipe."""

    def sparse(self, path: bytes) -> None:
        """A sparse file: its stored bytes are not its content, so it is not offered."""

    def refused(self, kind: str, path: bytes, reason: str) -> None:
        """A member that was passed over: a gap."""


class TarWalker:
    """Feeds on the bytes of one tar. `entries` counts the members met."""

    __slots__ = (
        "_carry",
        "_ended",
        "_left",
        "_limits",
        "_link",
        "_name",
        "_overridden",
        "_padding",
        "_refusal",
        "_sink",
        "_size",
        "_skip",
        "_sparse",
        "_visitor",
        "entries",
    )

    def __init__(self, visitor: Visitor, limits: Limits) -> None:
        self._visitor = visitor
        self._limits = limits
        self._carry = b""
        self._ended = False
        self._sink: Sink | None = None
        self._left = 0
        self._skip = 0
        self._padding = 0
        self.entries = 0
        self._forget()

    def _forget(self) -> None:
        """What extension headers say holds for one member only."""
        self._overridden = False
        self._name = b""
        self._link = b""
        self._size = -1
        self._sparse = False
        self._refusal = ""

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            DataError: a header is damaged.
            LimitError: there are too many members.
        """
        if self._ended:
            return
        position, end = 0, len(data)
        if self._sink is not None:
            position = min(self._left, end)
            self._sink.write(data, 0, position)
            self._left -= position
            if self._left:
                return
            self._close_sink()
        if self._skip:
            if self._skip > end - position:
                self._skip -= end - position
                return
            position += self._skip
            self._skip = 0
        if self._carry:
            data = self._carry + data
            self._carry = b""
        self._walk(data, position, final=False)

    def finish(self) -> None:
        """There are no more bytes. The two closing blocks and the padding of the last member may be missing.

        Raises:
            DataError: the tar ends within a member.
        """
        if self._ended:
            return
        if self._sink is None and self._skip <= self._padding:
            data, self._carry = self._carry, b""
            self._walk(data, 0, final=True)
        if self._sink is not None or self._skip > self._padding:
            raise _damaged("it ends in the middle of a file")
        if self._carry.strip(b"\0") or self._overridden:
            raise _damaged("it ends in the middle of a header")

    def _walk(self, data: bytes, position: int, *, final: bool) -> None:  # noqa: C901, PLR0912 - one tight loop on purpose
        """Read members from data[position:]; carry what is less than a header with its first bytes of content."""
        file, end, most = self._visitor.file, len(data), self._limits.layer_entries
        while (content := position + BLOCK) <= end:
            if not data[position] and data.startswith(_ZEROS, position):
                self._ended = True
                return
            if not _is_sound(data, position):
                raise _damaged("the checksum of a header is wrong")
            flag = data[position + 156]
            if flag in _EXTENSIONS:
                content = self._sparse_end(data, content) if flag == _SPARSE else self._extension(data, content, flag)
                if not content:
                    break
                if flag != _SPARSE:
                    position = content
                    continue
            size = 0 if flag in _HEADER_ONLY else self._size if self._size >= 0 else _size(data, position)
            if end - content < PEEK_BYTES and end - content < size and not final:
                break
            self.entries += 1
            if self.entries > most:
                message = f"the layer has more than {most} members"
                raise LimitError(message)
            path = _name(data, position)
            if path.endswith(b"/"):
                path = path[:-1]
                flag = _DIRECTORY if flag == _V7 else flag
            normal: bytes | None = path
            if self._overridden or not path or path[0] in b"./" or b"/." in path or b"//" in path:
                normal = self._odd_path(path)
            sink = None
            if not normal:
                pass  # refused, or the root itself
            elif flag in _REGULAR and not self._sparse:
                sink = file(normal, size, data, content)
            else:
                self._other(flag, normal, data, position)
            if self._overridden:
                self._forget()
            position = content + ((size + 511) & -512)
            if sink is not None:
                sink.write(data, content, min(content + size, end))
                self._sink, self._left = sink, max(content + size - end, 0)
                if not self._left:
                    self._close_sink()
            self._padding = -size & 511
        if position > end:
            self._skip = position - end - self._left
        else:
            self._carry = data[position:]

    def _close_sink(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.close()

    def _other(self, flag: int, path: bytes, data: bytes, position: int) -> None:
        """Everything that is not a regular file with its content behind it."""
        if flag == _DIRECTORY:
            self._visitor.directory(path)
        elif flag == _SYMLINK:
            self._visitor.symlink(path, self._link or _text(data, position + 157))
        elif flag == _HARD_LINK:
            target = normal_path(self._link or _text(data, position + 157))
            if target is None:
                self._visitor.refused("unreadable", path, "a hard link to a path outside the image")
            else:
                self._visitor.hard_link(path, target)
        elif self._sparse:
            self._visitor.sparse(path)
        else:
            self._visitor.special(path)

    def _odd_path(self, path: bytes) -> bytes | None:
        """The name of a member whose header alone does not tell it in normal form; None if it must not be looked at."""
        path = self._name or path
        if self._refusal:
            self._visitor.refused("limit", path, self._refusal)
            return None
        if len(path) > self._limits.path_bytes:
            self._visitor.refused("limit", path[:100], f"its path is longer than {self._limits.path_bytes} bytes")
            return None
        normal = normal_path(path)
        if normal is None:
            self._visitor.refused("unreadable", path, "its path leads outside the image")
        return normal

    def _extension(self, data: bytes, content: int, flag: int) -> int:
        """Read a header that speaks about the next member; the position after it, or 0 when more bytes are needed."""
        size = _size(data, content - BLOCK)
        following = content + ((size + 511) & -512)
        if size > self._limits.header_bytes:
            # Without it the name of the next member is unknown, so that member is not looked at.
            self._overridden = True
            self._refusal = f"its header is larger than {self._limits.header_bytes} bytes"
            return following
        if following > len(data):
            return 0
        if flag == _GLOBAL:
            # Go hands global headers over as members of their own and applies them to nothing, so no container runtime does.
            return following
        self._overridden = True
        block = data[content : content + size]
        if flag == _GNU_NAME:
            self._name = block.partition(b"\0")[0]
        elif flag == _GNU_LINK:
            self._link = block.partition(b"\0")[0]
        elif b"path=" in block or b"size=" in block or b"GNU.sparse." in block:
            self._pax(block)
        return following

    def _pax(self, block: bytes) -> None:
        """Take the path, linkpath and size of a PAX header (pax, "Extended Header Keywords") and whether it makes a file sparse."""
        for key, value in _pax_records(block):
            if not value:
                continue
            if key in {b"path", b"linkpath", b"GNU.sparse.name"} and b"\0" in value:
                raise _damaged("a path holds a NUL")
            if key in {b"path", b"GNU.sparse.name"}:
                self._name = value
            elif key == b"linkpath":
                self._link = value
            elif key == b"size":
                if not value.isdigit() or len(value) > 19:
                    raise _damaged("a size is not a number")
                self._size = int(value)
            self._sparse = self._sparse or key.startswith(b"GNU.sparse.")

    def _sparse_end(self, data: bytes, content: int) -> int:
        """Where the stored bytes of an old GNU sparse file begin: its map may go on in further blocks. 0 when more bytes are needed."""
        self._overridden = self._sparse = True
        more = data[content - BLOCK + 482]
        start = content
        while more:
            if content + BLOCK > len(data):
                return 0
            if content - start > self._limits.header_bytes:
                raise _damaged("the map of a sparse file does not end")
            more = data[content + 504]
            content += BLOCK
        return content


def normal_path(raw: bytes) -> bytes | None:
    """The path without leading and double slashes and `.` parts; None if it has a `..` part or a NUL. The root is empty."""
    if raw and raw[0] not in b"./" and raw[-1] != _SLASH and not (b"/." in raw or b"//" in raw or b"\0" in raw):
        return raw  # nearly always; where every member has a PAX header, the split below was a twentieth of the walk
    parts = [part for part in raw.split(b"/") if part not in {b"", b"."}]
    return None if b".." in parts or b"\0" in raw else b"/".join(parts)


def _damaged(what: str) -> DataError:
    return DataError(
        f"the layer's tar is damaged: {what}", "push the image again; a container runtime would refuse it, too"
    )


def _text(data: bytes, start: int) -> bytes:
    """A name field of a header: up to its NUL or its end."""
    return data[start : start + _NAME_FIELD].partition(b"\0")[0]


def _name(data: bytes, position: int) -> bytes:
    """The name that a header itself states, without a leading `./`."""
    stop = data.find(b"\0", position, position + _NAME_FIELD)
    name = data[position : stop if stop >= 0 else position + _NAME_FIELD]
    if data[position + 345] and data.startswith(b"ustar\0", position + 257):
        # star keeps times in the last 24 bytes of ustar's prefix field.
        length = 131 if data.startswith(b"tar\0", position + 508) else 155
        name = data[position + 345 : position + 345 + length].partition(b"\0")[0] + b"/" + name
    return name[2:] if name.startswith(b"./") else name


def _size(data: bytes, position: int) -> int:
    """The size field: eleven octal digits nearly always, else twelve, or base-256 (the highest bit of the first byte tells)."""
    field = data[position + 124 : position + 136]
    try:
        if field[0] & 0x80:
            size = int.from_bytes(field, "big") & ~(1 << 95)
        elif field[11] <= 0x20:
            size = int(field[:11], 8)
        else:
            size = int(field, 8)
    except ValueError:
        # Odd padding, or nothing at all, which means zero.
        text = field.strip(b"\0 ").partition(b"\0")[0]
        size = int(text, 8) if text.isdigit() and not text.strip(b"01234567") else -len(text)
    if not 0 <= size < _MOST_SIZE:
        raise _damaged("a size is not a number")
    return size


def _is_sound(data: bytes, position: int) -> bool:
    """Whether the checksum of the header at this position is right."""
    # Adler-32's low half is one plus the sum of all bytes, modulo 65521, at C speed; the checksum's own field counts as spaces.
    field = data[position + 148 : position + 156]
    try:
        difference = (adler32(data[position : position + BLOCK]) & 0xFFFF) + 255 - sum(field) - int(field[:6], 8)
    except ValueError:
        difference = 1
    return difference % 65521 == 0 or _is_checked(data[position : position + BLOCK])


def _is_checked(header: bytes) -> bool:
    """Whether the checksum is right, by the letter: of unsigned bytes, or of signed ones as some old writers had it."""
    text = header[148:156].strip(b"\0 ").partition(b"\0")[0]
    if not text.isdigit() or b"8" in text or b"9" in text:
        return False
    rest = header[:148] + header[156:]
    unsigned = sum(rest) + 8 * 0x20
    return int(text, 8) in {unsigned, unsigned - 256 * sum(byte > 0x7F for byte in rest)}


def _pax_records(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The `length key=value newline` records of a PAX header."""
    position = 0
    while position < len(block):
        space = block.find(b" ", position, position + 20)
        digits = block[position:space]
        if space < 0 or not digits.isdigit():
            raise _damaged("a PAX header is malformed")
        following = position + int(digits)
        key, equals, value = block[space + 1 : following - 1].partition(b"=")
        if following > len(block) or following <= space or not equals or block[following - 1] != 0x0A:
            raise _damaged("a PAX header is malformed")
        yield key, value
        position = following
