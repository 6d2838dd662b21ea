"""Reads the `Field: value` stanzas that dpkg, Python metadata and their kin are written in (RFC 822 in spirit).

Field names are case-insensitive, a line that starts with a space or tab continues the one before, an empty line ends the stanza.
Leaves the meaning of the fields to the catalogers.
"""

from __future__ import annotations

from collections.abc import Iterator

Stanza = dict[str, list[str]]
"""Lower-case field name to its values in the order of the file; a folded value keeps its newlines."""

_BLANKS = (b" ", b"\t")
_MARK = b"\xef\xbb\xbf"


def read_stanza(block: bytes, wanted: frozenset[bytes]) -> Stanza:
    """The wanted fields (lower case) of one stanza. Lines that are not fields are passed over."""
    fields: Stanza = {}
    current: list[str] | None = None
    for line in block.split(b"\n"):
        if line[:1] in _BLANKS:
            if current is not None:
                current[-1] += "\n" + line.strip().decode("utf-8", "replace")
            continue
        key, colon, value = line.partition(b":")
        current = None
        if colon and (key := key.strip().lower()) in wanted:
            current = fields.setdefault(key.decode("ascii", "replace"), [])
            current.append(value.strip().decode("utf-8", "replace"))
    return fields


def read_stanzas(data: bytes, wanted: frozenset[bytes]) -> Iterator[Stanza]:
    """The wanted fields of every stanza that is not blank."""
    for block in _plain(data).split(b"\n\n"):
        if block and not block.isspace():
            yield read_stanza(block, wanted)


def read_header(data: bytes, wanted: frozenset[bytes]) -> Stanza:
    """The wanted fields of the first stanza alone; what follows it (a description) is never looked at."""
    data = data.removeprefix(_MARK).lstrip(b"\r\n")
    ends = [end for end in (data.find(b"\n\n"), data.find(b"\n\r\n")) if end >= 0]
    return read_stanza(_plain(data[: min(ends, default=len(data))]), wanted)


def _plain(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n") if b"\r" in data else data
