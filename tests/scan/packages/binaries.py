"""Makes small ELF files and the build records of Go programs in them, in every word size and byte order."""

from __future__ import annotations

import struct

from sensor.scan.packages.golang import NEEDLE

ADDRESS = 0x400000
"""Where the body of every file is loaded."""
_START = bytes.fromhex("3077af0c9274080241e1c107e6d618e6")
_END = bytes.fromhex("f932433186182072008242104116d8f2")


def wrapped(text: str) -> bytes:
    """Module lines between the linker's two sentinels."""
    return _START + text.encode() + _END


def inline_record(toolchain: str, modules: bytes) -> bytes:
    """The record of Go 1.18 and later."""
    return (NEEDLE + b"\x00\x02").ljust(32, b"\0") + _counted(toolchain.encode()) + _counted(modules)


def _counted(text: bytes) -> bytes:
    length, head = len(text), b""
    while length >= 0x80:
        head += bytes([length & 0x7F | 0x80])
        length >>= 7
    return head + bytes([length]) + text


def pointer_record(toolchain: str, modules: bytes, *, wide: bool, big: bool) -> bytes:
    """The record of Go before 1.18, for a body that is loaded at `ADDRESS`: two pointers, two string headers, two texts."""
    word = (">" if big else "<") + ("Q" if wide else "I")
    size = 8 if wide else 4
    headers, texts = 32, 32 + 4 * size
    record = (NEEDLE + bytes([size, big])) + struct.pack(word, ADDRESS + headers)
    record += struct.pack(word, ADDRESS + headers + 2 * size)
    record = record.ljust(headers, b"\0")
    for start, text in ((texts, toolchain.encode()), (texts + len(toolchain), modules)):
        record += struct.pack(word, ADDRESS + start) + struct.pack(word, len(text))
    return record + toolchain.encode() + modules


def elf(
    body: bytes,
    *,
    wide: bool = True,
    big: bool = False,
    section: bool = True,
    padded: bool = True,
    section_type: int = 1,
    section_bytes: int | None = None,
    segment_bytes: int | None = None,
    names_index: int = 2,
) -> bytes:
    """A file of one loaded segment, which is the section `.go.buildinfo` unless the table of sections was stripped.

    Without `padded` the body is the end of the file. The other sizes and numbers are lies to be told.
    """
    order = ">" if big else "<"
    head_bytes, program_bytes, entry_bytes = (64, 56, 64) if wide else (52, 32, 40)
    names = b"\0.go.buildinfo\0.shstrtab\0"
    sections_at = head_bytes + program_bytes
    names_at = sections_at + 3 * entry_bytes
    body_at = -(-(names_at + len(names)) // 16) * 16
    size = len(body) + (64 if padded else 0)
    table, count = (sections_at, 3) if section else (0, 0)
    word = "Q" if wide else "I"
    head = b"\x7fELF" + bytes([2 if wide else 1, 2 if big else 1, 1]).ljust(12, b"\0")
    head += struct.pack(f"{order}HHI{word}{word}{word}I", 2, 62, 1, ADDRESS, head_bytes, table, 0)
    head += struct.pack(f"{order}6H", head_bytes, program_bytes, 1, entry_bytes, count, names_index)
    loaded = segment_bytes or size
    if wide:
        program = struct.pack(f"{order}IIQQQQQQ", 1, 6, body_at, ADDRESS, ADDRESS, loaded, loaded, 4096)
    else:
        program = struct.pack(f"{order}8I", 1, body_at, ADDRESS, ADDRESS, loaded, loaded, 6, 4096)
    layout = f"{order}IIQQQQIIQQ" if wide else f"{order}10I"
    sections = struct.pack(layout, *[0] * 10)
    sections += struct.pack(layout, 1, section_type, 3, ADDRESS, body_at, section_bytes or size, 0, 0, 16, 0)
    sections += struct.pack(layout, 15, 3, 0, 0, names_at, len(names), 0, 0, 1, 0)
    tables = sections if section else bytes(len(sections))
    return (head + program + tables + names).ljust(body_at, b"\0") + body + bytes(64 if padded else 0)
