"""Bytes out of a tar, plain or compressed as a whole."""

from __future__ import annotations

import gzip
import hashlib
import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.errors import DataError
from sensor.limits import DEFAULT_LIMITS, MIB, Limits
from sensor.registry.kinds.archive_bytes import Tar
from sensor.registry.kinds.archive_tar import NotImages
from tests.fakes.layers import Compression, compressed, file, layer_tar

BIG = bytes(range(256)) * 10_000
COMPRESSIONS: list[Compression] = ["none", "gzip", "zstd", "members", "frames"]


def tar_of(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Tar:
    return Tar(io.BytesIO(data), limits)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_members_are_read_in_pieces_again_and_again(compression: Compression) -> None:
    data = layer_tar(file("a", b"first"), file("big", BIG), file("empty"), file("z.json", b"{}"))
    tar = tar_of(compressed(data, compression))
    assert tar.compressed == (compression != "none")
    members = tar.members()
    for name, content in (("z.json", b"{}"), ("big", BIG), ("a", b"first"), ("empty", b""), ("big", BIG)):
        pieces = list(tar.pieces(members.find(name)))
        assert b"".join(pieces) == content
        assert all(len(piece) <= MIB for piece in pieces)
    assert members.documents == ({"z.json": b"{}"} if tar.compressed else {})


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_several_members_take_one_pass_whatever_their_order(compression: Compression) -> None:
    data = layer_tar(file("a", b"first"), file("big", BIG), file("empty"), file("z", b"last"))
    tar = tar_of(compressed(data, compression))
    find = tar.members().find
    wanted = [("one", find("z")), ("two", find("a")), ("three", find("z")), ("four", find("empty"))]
    assert dict(tar.documents(wanted)) == {"one": b"last", "two": b"first", "three": b"last", "four": b""}
    found = tar.digests([find("z"), find("big"), find("z")])
    assert found == {
        find(name): f"sha256:{hashlib.sha256(content).hexdigest()}" for name, content in (("z", b"last"), ("big", BIG))
    }


@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=6), st.sampled_from(COMPRESSIONS), st.randoms())
def test_what_goes_in_comes_out(contents: list[bytes], compression: Compression, random: object) -> None:
    data = layer_tar(*(file(f"f{n}", content) for n, content in enumerate(contents)))
    tar = tar_of(compressed(data, compression))
    members = tar.members()
    found = dict(tar.documents((n, members.find(f"f{n}")) for n in reversed(range(len(contents)))))
    assert [found[n] for n in range(len(contents))] == contents


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_compression_that_is_cut_short_or_damaged(compression: Compression) -> None:
    whole = compressed(
        layer_tar(file("big", b"".join(hashlib.sha512(b"%d" % n).digest() for n in range(999)))), compression
    )
    for broken in (whole[: len(whole) // 2], whole[:4] + b"\xff" * 40 + whole[44:], whole[:3]):
        with pytest.raises(DataError, match=r"compression is damaged or cut short|no tar|shorter") as caught:
            tar_of(broken).members()
        assert caught.value.retryable or isinstance(caught.value, NotImages)


def test_a_file_that_shrinks_is_cut_short() -> None:
    data = layer_tar(file("big", BIG), file("z", b"x"))
    members = tar_of(data).members()
    tar = tar_of(data[: len(BIG) // 2])
    with pytest.raises(DataError, match="cut short"):
        list(tar.pieces(members.find("big")))
    with pytest.raises(DataError, match="cut short"):
        list(tar.documents([(1, members.find("z"))]))
    with pytest.raises(DataError, match="cut short"):
        tar.digests([members.find("z")])


def test_bombs_are_defused() -> None:
    bomb = gzip.compress(layer_tar(file("big", bytes(3 * MIB)), file("z")))
    limits = replace(DEFAULT_LIMITS, archive_inflated_bytes=2 * MIB, layer_bytes=1)
    with pytest.raises(DataError, match="inflates to more than 2097152 bytes") as caught:
        tar_of(bomb, limits).members()
    assert not caught.value.retryable
    tar_of(bomb, replace(limits, archive_inflated_bytes=4 * MIB)).members()


@pytest.mark.parametrize(("head", "word"), [(b"\xfd7zXZ\x00", "xz"), (b"BZh91AY", "bzip2"), (b"PK\x03\x04", "zip")])
def test_other_compressions_are_named(head: bytes, word: str) -> None:
    with pytest.raises(NotImages, match=f"compressed by {word}"):
        tar_of(head + bytes(600))


def test_an_empty_file_is_still_being_written() -> None:
    with pytest.raises(DataError, match="empty") as caught:
        tar_of(b"")
    assert caught.value.retryable
