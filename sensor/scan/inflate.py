"""Incremental inflate of a layer: gzip, zstd or nothing, told apart by its first bytes and never by the media type.

Bytes go in as they arrive, pieces of bounded size come out, so that a megabyte which inflates to a gigabyte never exists as a
whole. Follows RFC 1952 (several members, section 2.2) and RFC 8878 (several frames, skippable frames, section 3.1.2). Leaves the meaning of the
bytes to `scan.tar`, and where they come from to `scan.child`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Protocol

from isal import igzip_lib

from sensor.errors import DataError
from sensor.limits import MIB, Limits

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_TAIL = b"\x2a\x4d\x18"
"""The last three bytes of the sixteen magic numbers of skippable zstd frames (RFC 8878 section 3.1.2)."""

PIECE_BYTES = MIB // 2
"""Most bytes of one piece that comes out. Half and twice as much were measured: within 3 %."""
_WINDOW_LOG = 27
"""zstd may demand windows of 2 GiB; 128 MiB is what `zstd` itself accepts without being asked."""
_RATIO_FROM = 64 * MIB
"""Inflated bytes before the ratio is looked at: small files of zeros are legitimate."""


_DAMAGE: tuple[type[Exception], ...] = (igzip_lib.IsalError, zstd.ZstdError, EOFError, ValueError)  # type: ignore[assignment]
"""What the decompressors raise (isal's stubs declare its exception as a value)."""


class LimitError(DataError):
    """A bound of `Limits` was hit: what was read so far counts, the rest was not looked at."""


class _Member(Protocol):
    """One gzip member or zstd frame being decoded."""

    @property
    def eof(self) -> bool:
        """Whether its end was met."""

    @property
    def unused_data(self) -> bytes:
        """What came after its end."""

    def pieces(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Decode; yields pieces of at most PIECE_BYTES."""


class _GzipMember:
    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        # Unlike isal_zlib.decompressobj it keeps the input that is left over to itself, and says when it wants more.
        self._decoder = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)

    @property
    def eof(self) -> bool:
        return bool(self._decoder.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._decoder.unused_data)

    def pieces(self, data: bytes | memoryview) -> Iterator[bytes]:
        decoder = self._decoder
        yield decoder.decompress(data, PIECE_BYTES)
        while not decoder.eof and not decoder.needs_input:
            yield decoder.decompress(b"", PIECE_BYTES)


class _ZstdFrame:
    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def pieces(self, data: bytes | memoryview) -> Iterator[bytes]:
        decoder = self._decoder
        yield decoder.decompress(data, PIECE_BYTES)
        while not decoder.eof and not decoder.needs_input:
            yield decoder.decompress(b"", PIECE_BYTES)


class Inflater:
    """Turns a layer's stored bytes into the bytes of its tar.

    `compressed_bytes` and `inflated_bytes` count what went in and came out.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._head = b""
        self._begin: Callable[[], _Member] | None = None
        self._member: _Member | None = None
        self._sniffed = False
        self._padded = False
        self.compressed_bytes = 0
        self.inflated_bytes = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes; yields pieces of at most PIECE_BYTES. The iterator must be exhausted before the next call.

        Raises:
            DataError: the compression is broken.
            LimitError: the layer inflates to too much, or at a ratio that only a bomb has.
        """
        if not self._sniffed:
            data = self._head + data
            if len(data) < len(ZSTD_MAGIC):
                self._head = data
                return
            self._sniff(data)
        yield from self._bounded(data)

    def finish(self) -> Iterator[bytes]:
        """There are no more bytes. Yields what a very short input held back.

        Raises:
            DataError: the stream ends in the middle of a member or frame.
        """
        if not self._sniffed:
            data, self._head = self._head, b""
            self._sniff(data)
            yield from self._bounded(data)
        if self._member is not None or self._head:
            raise DataError(
                "the compressed layer is cut short", "it may have been damaged in the registry; push it again"
            )

    def _sniff(self, data: bytes) -> None:
        self._sniffed = True
        self._head = b""
        if data.startswith(GZIP_MAGIC):
            self._begin = _GzipMember
        elif data.startswith(ZSTD_MAGIC) or _is_skippable(data):
            self._begin = _ZstdFrame

    def _bounded(self, data: bytes) -> Iterator[bytes]:
        limits = self._limits
        source = memoryview(data)
        for start in range(0, len(source), PIECE_BYTES):
            part = source[start : start + PIECE_BYTES]
            self.compressed_bytes += len(part)
            for piece in self._decoded(part):
                self.inflated_bytes += len(piece)
                if self.inflated_bytes > limits.layer_bytes:
                    yield piece[: limits.layer_bytes - self.inflated_bytes]
                    self.inflated_bytes = limits.layer_bytes
                    message = f"the layer inflates to more than {limits.layer_bytes} bytes"
                    raise LimitError(message)
                if (
                    self.inflated_bytes > _RATIO_FROM
                    and self.inflated_bytes > limits.layer_ratio * self.compressed_bytes
                ):
                    message = f"the layer inflates to more than {limits.layer_ratio} times its size"
                    raise LimitError(message)
                if piece:
                    yield piece

    def _decoded(self, part: memoryview) -> Iterator[bytes]:
        if self._begin is None:
            yield bytes(part)
            return
        rest: bytes | memoryview = part
        try:
            while rest:
                if self._member is None:
                    rest = self._next_member(rest)
                    if self._member is None:
                        return
                yield from self._member.pieces(rest)
                if not self._member.eof:
                    return
                rest = self._member.unused_data
                self._member = None
        except _DAMAGE as error:
            message = f"the layer's compression is damaged: {str(error)[:200]}"
            raise DataError(message, "push the image again") from error

    def _next_member(self, rest: bytes | memoryview) -> bytes:
        """Open the next member if one begins here; zeros after the last member are padding (tape blocks), anything else is not."""
        data = self._head + bytes(rest)
        self._head = b""
        if self._padded or data.startswith(b"\0"):
            self._padded = True
            if data.strip(b"\0"):
                raise DataError(
                    "the compressed layer is followed by bytes that belong to nothing", "push the image again"
                )
            return b""
        if len(data) < len(ZSTD_MAGIC):
            self._head = data
            return b""
        if not (data.startswith((GZIP_MAGIC, ZSTD_MAGIC)) or _is_skippable(data)):
            raise DataError("the compressed layer is followed by bytes that belong to nothing", "push the image again")
        begin = self._begin
        if begin is not None:
            self._member = begin()
        return data


def _is_skippable(data: bytes) -> bool:
    return data[1:4] == _SKIPPABLE_TAIL and data[0] & 0xF0 == 0x50
