"""Reads the `Field: value` stanzas that dpkg, Python metadata and their kin are written in (RFC 822 in spirit).

Field names are case-insensitive, a line that starts with a space or tab continues the one before, an empty line ends the stanza.
Leaves the meaning of the fields to the catalogers. Nothing here takes more than linear time or keeps more than the wanted fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO

Stanza = dict[str, list[str]]
"""Lower-case field name to its values in the order of the file; a folded value keeps its newlines."""

_MOST_LINES = 1_000
"""Of one folded value, and values of one field, that are kept. A licence text has about 700 lines; nobody asks for more than the first."""
_BLANKS = (b" ", b"\t")
_MARK = b"\xef\xbb\xbf"
_BETWEEN = re.compile(rb"\n\n+")


def blocks(data: bytes) -> Iterator[bytes]:
    """The stanzas that are not blank, as they are written but for Windows' line ends."""
    data = _plain(data)
    start = 0
    for match in _BETWEEN.finditer(data):
        block, start = data[start : match.start()], match.end()
        if block and not block.isspace():
            yield block
    if data[start:].strip():
        yield data[start:]


def read_stanza(block: bytes, wanted: frozenset[bytes]) -> Stanza:
    """The wanted fields (lower case) of one stanza. Lines that are not fields are passed over."""
    fields: dict[bytes, list[list[bytes]]] = {}
    lines: list[bytes] | None = None
    for line in BytesIO(block):
        if line[:1] in _BLANKS:
            if lines is not None and len(lines) < _MOST_LINES:
                lines.append(line.strip())
            continue
        key, colon, value = line.partition(b":")
        lines = None
        if colon and (key := key.strip().lower()) in wanted:
            values = fields.setdefault(key, [])
            lines = [value.strip()]
            if len(values) < _MOST_LINES:
                values.append(lines)
    return {
        key.decode("ascii", "replace"): [b"\n".join(lines).decode("utf-8", "replace") for lines in values]
        for key, values in fields.items()
    }


def read_header(data: bytes, wanted: frozenset[bytes]) -> Stanza:
    """The wanted fields of the first stanza alone; what follows it (a description) is never looked at."""
    data = data.removeprefix(_MARK).lstrip(b"\r\n")
    ends = [end for end in (data.find(b"\n\n"), data.find(b"\n\r\n")) if end >= 0]
    return read_stanza(_plain(data[: min(ends, default=len(data))]), wanted)


def _plain(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n") if b"\r" in data else data
