from __future__ import annotations

import gzip
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import DataError
from sensor.limits import DEFAULT_LIMITS, MIB, Limits
from sensor.scan.inflate import PIECE_BYTES, Inflater, LimitError
from tests.fakes.layers import Compression, compressed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSIONS: list[Compression] = ["none", "gzip", "members", "zstd", "frames"]
SKIPPABLE = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"


def inflated(data: bytes, *, step: int = 1 << 20, limits: Limits = DEFAULT_LIMITS) -> bytes:
    inflater = Inflater(limits)
    pieces = []
    for start in range(0, len(data), step):
        pieces += inflater.feed(data[start : start + step])
    pieces += inflater.finish()
    result = b"".join(pieces)
    assert inflater.compressed_bytes == len(data)
    assert inflater.inflated_bytes == len(result)
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
    return result


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000), st.sampled_from(COMPRESSIONS), st.sampled_from([1, 2, 3, 7, 64, 100_000]))
def test_whatever_the_compression_and_the_steps_the_bytes_come_back(
    data: bytes, compression: Compression, step: int
) -> None:
    # What is stored plain must not look compressed: the first bytes decide.
    data = b"plain" + data
    assert inflated(compressed(data, compression), step=step) == data


def test_the_first_bytes_decide_and_short_input_is_plain() -> None:
    for data in (b"", b"a", b"abc", b"\x28\xb5\x2f"):
        assert inflated(data) == data
        assert inflated(data, step=1) == data


def test_large_data_comes_in_bounded_pieces() -> None:
    data = bytes(range(256)) * (5 * MIB // 256)
    for compression in COMPRESSIONS:
        assert inflated(compressed(data, compression), step=3 * MIB) == data


def test_zeros_behind_the_last_member_are_padding() -> None:
    blob = gzip.compress(b"abc")
    for step in (1, 5, 10_000):
        assert inflated(blob + bytes(1000), step=step) == b"abc"
    assert inflated(zstd.compress(b"abc") + bytes(9)) == b"abc"


@pytest.mark.parametrize(
    "junk", [b"junk that is no member", b"j", b"\0\0\0junk", gzip.compress(b"x")[:3] + b"\xff" * 30]
)
@pytest.mark.parametrize("step", [1, 4, 1000])
def test_bytes_behind_the_last_member_are_an_error_after_the_content(junk: bytes, step: int) -> None:
    inflater = Inflater(DEFAULT_LIMITS)
    blob = gzip.compress(b"abc") + junk
    pieces: list[bytes] = []
    with pytest.raises(DataError):  # noqa: PT012 - where it comes up depends on the steps
        for start in range(0, len(blob), step):
            pieces.extend(inflater.feed(blob[start : start + step]))
        pieces.extend(inflater.finish())
    assert b"".join(pieces) == b"abc"


@pytest.mark.parametrize("compression", ["gzip", "members", "zstd", "frames"])
@pytest.mark.parametrize("cut", [1, 5, 9, 20])
def test_a_stream_that_is_cut_short_is_an_error(compression: Compression, cut: int) -> None:
    data = bytes(range(256)) * 10
    with pytest.raises(DataError, match="cut short"):
        inflated(compressed(data, compression)[:-cut])


def test_damage_is_an_error() -> None:
    blob = bytearray(gzip.compress(bytes(range(256)) * 10))
    blob[-6] ^= 1
    with pytest.raises(DataError, match="damaged"):
        inflated(bytes(blob))
    frame = bytearray(zstd.compress(bytes(range(256)) * 10))
    frame[6] ^= 0xFF
    with pytest.raises(DataError):
        inflated(bytes(frame))


def test_skippable_frames_hold_nothing() -> None:
    frame = zstd.compress(b"abc")
    for blob in (SKIPPABLE + frame, frame + SKIPPABLE, frame + SKIPPABLE + frame):
        assert inflated(blob) in {b"abc", b"abcabc"}
        assert inflated(blob, step=1) in {b"abc", b"abcabc"}


def test_a_window_of_a_gigabyte_is_refused() -> None:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 30})
    blob = compressor.compress(b"abc" * 100) + compressor.flush()
    with pytest.raises(DataError, match="memory"):
        inflated(blob)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_bomb_stops_at_the_ratio(compression: Compression) -> None:
    blob = compressed(bytes(96 * MIB), compression)
    inflater = Inflater(replace(DEFAULT_LIMITS, layer_ratio=100))
    count = 0
    with pytest.raises(LimitError, match="100 times"):  # noqa: PT012
        for piece in inflater.feed(blob):
            count += len(piece)
    assert 63 * MIB <= count <= 65 * MIB


def test_small_files_may_have_any_ratio() -> None:
    assert len(inflated(compressed(bytes(8 * MIB)), limits=replace(DEFAULT_LIMITS, layer_ratio=2))) == 8 * MIB


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_the_inflated_size_is_bounded_exactly(compression: Compression) -> None:
    blob = compressed(b"x" * 1000, compression)
    assert len(inflated(blob, limits=replace(DEFAULT_LIMITS, layer_bytes=1000))) == 1000
    with pytest.raises(LimitError, match="999 bytes"):
        inflated(blob, limits=replace(DEFAULT_LIMITS, layer_bytes=999))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([b"", b"\x1f\x8b", b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", SKIPPABLE]), st.binary(max_size=200)
)
def test_random_bytes_only_ever_raise_data_errors(head: bytes, data: bytes) -> None:
    try:
        result = inflated(head + data)
    except DataError:
        return
    assert isinstance(result, bytes)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["gzip", "zstd", "frames"]), st.integers(0, 10**6), st.integers(1, 255))
def test_flipped_bits_only_ever_raise_data_errors(compression: Compression, place: int, mask: int) -> None:
    original = bytes(range(256)) * 4
    blob = bytearray(compressed(original, compression))
    blob[place % len(blob)] ^= mask
    try:
        result = inflated(bytes(blob))
    except DataError:
        return
    # Only gzip carries a checksum here, and its header has fields that mean nothing.
    assert compression != "gzip" or result in {original, bytes(blob)}
