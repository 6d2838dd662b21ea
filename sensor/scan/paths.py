r"""Paths of a layer: their text, their compact list, and their way through symbolic links.

Paths in inventories are text without a leading slash. Bytes that are not UTF-8 become `\xNN`, so that two names which differ stay
two names (whiteouts are compared byte for byte). Leaves the rules of layers to `scan.squash`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MOST_HOPS = 40
"""Symbolic links followed for one path; Linux's own bound (path_resolution(7))."""
_MOST_STEPS = 256
"""Parts looked at for one path, those of link targets included; far above real ones, and what keeps hostile chains cheap."""
_MOST_CHARACTERS = 4096
_BATCH = 4096
_PIECE_BYTES = 1 << 20


def path_text(path: bytes) -> str:
    """The path as text that can be stored and sent."""
    return path.decode("utf-8", "backslashreplace")


class PathList:
    """Collects the paths of a layer in the order of its tar; memory holds only a batch and the compressed rest."""

    __slots__ = ("_compressor", "_done", "_pending")

    def __init__(self) -> None:
        self._compressor = zstd.ZstdCompressor(level=3)
        self._done: list[bytes] = []
        self._pending: list[bytes] = []

    def add(self, path: bytes) -> None:
        """Take the next path; a directory ends in a slash."""
        self._pending.append(path)
        if len(self._pending) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._pending.append(b"")
            self._done.append(self._compressor.compress(b"\0".join(self._pending)))
            self._pending.clear()

    def finish(self) -> bytes:
        """All of them: every path followed by a NUL, as one zstd frame. Empty if there are none."""
        self._flush()
        if not self._done:
            return b""
        self._done.append(self._compressor.flush())
        return b"".join(self._done)


def listed_paths(blob: bytes) -> Iterator[list[bytes]]:
    """The paths of a `PathList`, some thousands at a time, in their order. Directories end in a slash."""
    if not blob:
        return
    decoder = zstd.ZstdDecompressor()
    data, rest = blob, b""
    while not decoder.eof:
        text = decoder.decompress(data, _PIECE_BYTES)
        if not text and decoder.needs_input:
            return
        data = b""
        *paths, rest = (rest + text).split(b"\0")
        yield paths


def resolved_parent(path: str, symlinks: Mapping[str, str]) -> str:
    """Where a path really lies when its directories may be symbolic links; its own last part is not followed.

    Like a runtime that unpacks inside the image's root: absolute targets begin there, and `..` does not lead out. A loop leaves
    the path as it is written, because then nothing can be reached through it.
    """
    head, slash, name = path.rpartition("/")
    if not slash:
        return path
    directory = _followed(head, symlinks)
    if directory is None:
        return path
    return f"{directory}/{name}" if directory else name


def resolved(path: str, symlinks: Mapping[str, str]) -> str | None:
    """Where a path leads when everything is followed, or None in a loop."""
    return _followed(path, symlinks)


def _followed(path: str, symlinks: Mapping[str, str]) -> str | None:
    todo = path.split("/")[::-1]
    done: list[str] = []
    hops = steps = 0
    while todo:
        part = todo.pop()
        steps += 1
        if part in {"", "."}:
            continue
        if part == "..":
            if done:
                done.pop()
            continue
        done.append(part)
        here = "/".join(done)
        target = symlinks.get(here)
        if target is None:
            continue
        hops += 1
        if hops > MOST_HOPS or steps > _MOST_STEPS or len(here) > _MOST_CHARACTERS:
            return None
        done.pop()
        if target.startswith("/"):
            done.clear()
        todo.extend(target.split("/")[::-1])
    return "/".join(done)
