"""Catalogs the modules that a Go program was built from, as its linker recorded them.

The record starts with a magic of 14 bytes, then the word size and flags. Since Go 1.18 two strings follow (toolchain, modules) in place; before, two
pointers to strings. Go's own reader: debug/buildinfo; the text of the modules: runtime/debug.BuildInfo. A program that was packed (UPX) or had
the record removed (garble) does not contain the magic and is not offered. Which versions are comparable is decided by `scan.match`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

from sensor.errors import DataError
from sensor.limits import Limits
from sensor.model.package import Evidence
from sensor.scan.packages.ecosystem import Content, Ecosystem, Findings
from sensor.scan.packages.elf import ELF_MAGIC, Elf, Extent

NEEDLE = b"\xff Go buildinf:"
_PE_MAGIC = b"MZ"
_MACH_O_MAGICS = (b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe")
_FIND = re.compile(re.escape(NEEDLE)).finditer

_HEADER_BYTES = 32
_ALIGNMENT = 16
_MOST_CANDIDATES = 1_000
"""Places that are tried in one file; a program has one record, and one that reads such records perhaps two."""
_BIG_ENDIAN, _INLINE = 1, 2
_SENTINEL_BYTES = 16
_MOST_VARINT_BYTES = 10

DEVELOPMENT = "(devel)"
"""What Go itself says of a module that was built from a working tree: it has no version."""
_NO_TAG = re.compile(r"v0\.0\.0-\d{14}-[0-9a-f]{12}(\+\w+)*")
"""The stamp of a main module that was built from a shallow clone: it tells the commit, but nothing about the release."""
_RELEASE = re.compile(r"go(\d+(?:\.\d+)*(?:(?:alpha|beta|rc)\d+)?)(?=[ -]|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Module:
    """One line of the record."""

    name: str
    version: str
    is_main: bool = False


def _read(path: str, content: Content, limits: Limits) -> Evidence:
    findings = Findings(ECOSYSTEM.name, path, limits)
    view = content.view()
    record = _find_record(view, limits)
    if record is None:  # the magic is there as data: a program that looks for Go programs
        return findings.evidence()
    toolchain, modules = record
    findings.package("golang", "stdlib", _toolchain(toolchain))
    for module in _modules(modules, findings):
        findings.package("golang", module.name, _version(module))
    return findings.evidence()


def _find_record(view: memoryview, limits: Limits) -> tuple[str, str] | None:
    """Toolchain and module text of the first record that can be read; None when the magic is only data.

    The named section is asked first; without a section table the record is looked for at the alignment that the linker gives it.
    """
    elf, section = _tables(view)
    named = [section.offset] if section else []
    # Lazy: a program of 100 MB lies in a mapped file, and whoever looks at all of it has all of it in memory.
    aligned = (start for match in _FIND(view) if (start := match.start()) % _ALIGNMENT == 0 and start not in named)
    fault: DataError | None = None
    for start in chain(named, islice(aligned, _MOST_CANDIDATES)):
        if view[start : start + len(NEEDLE)] != NEEDLE:
            continue
        try:
            return _read_record(view, elf, start, limits)
        except DataError as error:
            fault = fault or error
    if fault is not None:
        raise fault
    return None


def _tables(view: memoryview) -> tuple[Elf | None, Extent | None]:
    """The tables of an ELF file, as far as they can be read: the record of Go 1.18 and later is found without them."""
    elf: Elf | None = None
    try:
        elf = Elf(view)
        return elf, elf.section(b".go.buildinfo")
    except DataError:
        return elf, None


def _read_record(view: memoryview, elf: Elf | None, start: int, limits: Limits) -> tuple[str, str]:
    if start + _HEADER_BYTES > len(view):
        raise DataError("the build information of the Go program is cut off")
    word_size, flags = view[start + 14], view[start + 15]
    if flags & _INLINE:
        toolchain, end = _inline_text(view, start + _HEADER_BYTES, limits)
        modules, _ = _inline_text(view, end, limits)
    elif elf is None:
        raise DataError(
            "the build information of Go before 1.18 is read of whole ELF files only, not of this Go program"
        )
    elif word_size not in (4, 8):
        message = f"the build information of the Go program claims words of {word_size} bytes"
        raise DataError(message)
    else:
        words = _Words(view=view, elf=elf, size=word_size, order="big" if flags & _BIG_ENDIAN else "little")
        toolchain = words.text(words.number(start + 16), limits)
        modules = words.text(words.number(start + 16 + word_size), limits)
    if not toolchain:
        raise DataError("the build information of the Go program names no toolchain")
    return toolchain.decode("utf-8", "replace"), _unwrapped(modules).decode("utf-8", "replace")


def _inline_text(view: memoryview, start: int, limits: Limits) -> tuple[bytes, int]:
    """A text with its length before it as a base-128 number, low bits first, and the offset behind it."""
    length = 0
    for index, byte in enumerate(view[start : start + _MOST_VARINT_BYTES]):
        length |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            begin = start + index + 1
            return _cut(view, begin, length, limits), begin + length
    raise DataError("the build information of the Go program has no end")


def _cut(view: memoryview, start: int, length: int, limits: Limits) -> bytes:
    if length > limits.metadata_file_bytes or start + length > len(view):
        raise DataError("the build information of the Go program claims more text than there is")
    return bytes(view[start : start + length])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """Pointers in an ELF file, as Go before 1.18 wrote them."""

    view: memoryview
    elf: Elf
    size: int
    order: str

    def number(self, offset: int) -> int:
        """One word of the program."""
        word = bytes(self.view[offset : offset + self.size])
        return int.from_bytes(word, "big" if self.order == "big" else "little")

    def text(self, address: int, limits: Limits) -> bytes:
        """The string whose header (data, length) is loaded at an address; empty for no address."""
        if not address:
            return b""
        header = self.elf.offset_of(address, 2 * self.size)
        data, length = self.number(header), self.number(header + self.size)
        if not length:
            return b""
        return _cut(self.view, self.elf.offset_of(data, length), length, limits)


def _unwrapped(modules: bytes) -> bytes:
    """The module text without the two sentinels that the linker puts around it; empty when the program was built without modules."""
    is_wrapped = len(modules) >= 2 * _SENTINEL_BYTES + 1 and modules[-_SENTINEL_BYTES - 1] == 0x0A
    return modules[_SENTINEL_BYTES:-_SENTINEL_BYTES] if is_wrapped else b""


def _modules(text: str, findings: Findings) -> Iterator[_Module]:
    """The modules that were linked: a replacement stands in the line below the module that it replaces, and counts instead of it."""
    waiting: _Module | None = None
    for line in text.split("\n"):
        word, *columns = line.split("\t")
        if word == "=>" and waiting is not None:
            waiting = _replaced(waiting, *columns[:2])
        elif word in {"mod", "dep"}:
            if waiting is not None:
                yield waiting
            waiting = None
            if len(columns) >= 2:
                waiting = _Module(name=columns[0], version=columns[1] or DEVELOPMENT, is_main=word == "mod")
            else:
                findings.gap("unreadable", f"a line of the build information names no version: {line[:100]!r}")
    if waiting is not None:
        yield waiting


def _replaced(module: _Module, name: str = "", version: str = "") -> _Module:
    """The module that took the place. A directory has no version and no name of its own."""
    if not name or name.startswith((".", "/")) or "\\" in name:
        return _Module(name=module.name, version=DEVELOPMENT, is_main=module.is_main)
    return _Module(name=name, version=version or DEVELOPMENT, is_main=module.is_main)


def _version(module: _Module) -> str:
    """As Go writes it. A main module without a tag has none."""
    return DEVELOPMENT if module.is_main and _NO_TAG.fullmatch(module.version) else module.version


def _toolchain(text: str) -> str:
    """The release of `go1.19.8`, `go1.20.4-fips`, `go1.22.3 X:boringcrypto`; a development build stays as it is, for it has none."""
    match = _RELEASE.match(text)
    return match[1] if match else text


ECOSYSTEM = Ecosystem(
    name="golang",
    version=1,
    read=_read,
    magics=(ELF_MAGIC, _PE_MAGIC, *_MACH_O_MAGICS),
    needle=NEEDLE,
    spooled=True,
    most_bytes=lambda limits: limits.spool_bytes,
)
