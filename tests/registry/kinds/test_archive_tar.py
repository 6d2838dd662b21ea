"""The members of a tar by name, and what must not be looked up in it."""

from __future__ import annotations

import contextlib
import io
import tarfile
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sensor.errors import DataError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.registry.kinds.archive_tar import Member, Members, NotImages, read_members, safe_name
from tests.fakes.layers import Entry, Format, device, directory, file, hardlink, layer_tar, symlink

PATH = "a/" * 60 + "name"
"""Longer than a header has room for."""


class Bytes:
    """A source over bytes at hand, which insists on being read forwards."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reached = 0
        self.read_bytes = 0

    def read(self, offset: int, size: int) -> bytes:
        assert offset >= self.reached
        found = self.data[offset : offset + size]
        self.reached = max(self.reached, offset + max(len(found) - 1, 0))
        self.read_bytes += len(found)
        return found

    @property
    def length(self) -> int:
        return len(self.data)


def members(data: bytes, limits: Limits = DEFAULT_LIMITS, *, hold: bool = False) -> Members:
    return read_members(Bytes(data), limits, hold=hold)


def listed(*entries: Entry, prefix: str = "") -> Members:
    return members(layer_tar(*entries, prefix=prefix))


@pytest.mark.parametrize("form", ["pax", "gnu", "ustar"])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_files_are_found_where_they_stand(form: Format, prefix: str) -> None:
    data = layer_tar(directory("d"), file("d/a", b"first"), file("b", b"x" * 1000), prefix=prefix, format=form)
    found = members(data)
    for name, content in (("d/a", b"first"), ("b", b"x" * 1000), ("./d//a", b"first")):
        member = found.find(name)
        assert data[member.offset : member.offset + member.size] == content
        assert member.head == content[:4]
    assert (found.ended, found.refused) == (True, 0)


@pytest.mark.parametrize("form", ["pax", "gnu", "ustar"])
def test_long_names_and_links_are_read(form: Format) -> None:
    entries = [file(PATH, b"content"), file("next", b"1")]
    if form != "ustar":
        entries.append(symlink("link", PATH))
    found = members(layer_tar(*entries, format=form))
    assert found.find(PATH).size == 7
    assert found.find("next").size == 1
    if form != "ustar":
        assert found.find("link") == found.find(PATH)


def test_names_are_no_longer_than_what_an_extension_says_of_the_next_member_only() -> None:
    found = members(layer_tar(file("x", b"1", pax={"path": "renamed"}), file("y", b"2"), format="pax"))
    assert set(found.by_name) == {"renamed", "y"}


def test_big_sizes_are_read_in_both_ways() -> None:
    for info, form in ((9 << 30, tarfile.GNU_FORMAT), (9 << 30, tarfile.PAX_FORMAT)):
        member = tarfile.TarInfo("big")
        member.size = info
        header = member.tobuf(form)

        class Sparse(Bytes):
            def read(self, offset: int, size: int) -> bytes:
                return self.data[offset : offset + size] or b"\0" * size

            length = 20 << 30

        assert read_members(Sparse(header), DEFAULT_LIMITS, hold=False).find("big").size == 9 << 30


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("a/b/link", "../../file"),
        ("link", "file"),
        ("link", "./file"),
        ("a/link", "../a/../file"),
    ],
)
def test_a_link_means_a_member(name: str, target: str) -> None:
    assert listed(file("file", b"here"), symlink(name, target)).find(name).size == 4


def test_a_hard_link_names_its_target_from_the_top() -> None:
    found = listed(file("d/file", b"here"), hardlink("e/link", "d/file"), hardlink("e/out", "../d/file"))
    assert found.find("e/link").size == 4
    with pytest.raises(DataError, match="link to something"):
        found.find("e/out")


@pytest.mark.parametrize(
    "target", ["../file", "/file", "a/../../file", "link", "second", "directory", "missing", "device", "", "a\0b"]
)
def test_links_out_of_the_archive_or_to_no_file_are_not_followed(target: str) -> None:
    pax = {"linkpath": target} if "\0" in target else {}
    link = Entry(path="link", kind=tarfile.SYMTYPE, target="x" if pax else target, pax=pax)
    found = listed(file("file", b"1"), directory("directory"), device("device"), symlink("second", "file"), link)
    with pytest.raises(DataError, match="link to something that is no file"):
        found.find("link")


def test_only_files_are_found() -> None:
    found = listed(directory("directory"), device("device"), file("file", b""))
    for name, word in (
        ("directory", "no file"),
        ("device", "no file"),
        ("nosuch", "not in the archive"),
        ("/file", "leads out"),
        ("../file", "leads out"),
        ("", "leads out"),
    ):
        with pytest.raises(DataError, match=word):
            found.find(name)


def test_unsafe_names_are_passed_over_and_counted() -> None:
    limits = replace(DEFAULT_LIMITS, path_bytes=20)
    data = layer_tar(
        file("/etc/passwd", b"1"), file("../up", b"2"), file("a/../../b", b"3"), file("x" * 21, b"4"), file("ok", b"5"),
        directory("."), directory("./"), file("..", b"6"),
    )  # fmt: skip
    found = members(data, limits)
    assert set(found.by_name) == {"ok"}
    assert found.refused == 5


@given(st.text())
@example("a/./b")
def test_safe_names_stay_inside(name: str) -> None:
    safe = safe_name(name)
    assert not safe.startswith("/")
    assert ".." not in safe.split("/")
    assert safe_name(safe) == safe


@pytest.mark.parametrize("name", ["index.json", "oci-layout", "manifest.json", "./index.json"])
def test_what_names_the_images_must_not_be_there_twice(name: str) -> None:
    with pytest.raises(DataError, match="twice"):
        listed(file(name.removeprefix("./"), b"{}"), file(name, b"[]"))


def test_of_other_members_the_last_counts() -> None:
    assert listed(file("a", b"1"), file("a", b"22")).find("a").size == 2


@pytest.mark.parametrize("cut", [513, 811, 1025, 1535])
def test_what_ends_too_soon_is_cut_short(cut: int) -> None:
    data = layer_tar(file("a", b"x" * 300), file("b", b"y" * 700))
    with pytest.raises(DataError, match="cut short") as caught:
        members(data[:cut])
    assert caught.value.retryable
    assert "still being written" in caught.value.advice


def test_padding_and_closing_blocks_may_be_missing() -> None:
    data = layer_tar(file("a", b"x" * 300))
    found = members(data[: 512 + 300])
    assert (found.find("a").size, found.ended) == (300, False)


@pytest.mark.parametrize("form", ["pax", "gnu"])
def test_an_extension_without_its_member_is_cut_short(form: Format) -> None:
    data = layer_tar(file(PATH * 3, b""), format=form)
    for cut in (512, 700, 1024):
        with pytest.raises(DataError, match="cut short"):
            members(data[:cut])
    with pytest.raises(DataError, match="cut short"):
        members(data[:1024] + bytes(1024))


@pytest.mark.parametrize("data", [b"README", b"x" * 512, b"\x7fELF" + bytes(600), b"{}" * 400])
def test_what_is_no_tar_is_told_as_such(data: bytes) -> None:
    with pytest.raises(DataError, match=r"no tar|shorter than a tar|cut short"):
        members(data)
    with pytest.raises(NotImages, match="it is no tar"):
        members(data.ljust(512, b"x"))


def test_a_damaged_header_is_not_the_end() -> None:
    data = bytearray(layer_tar(file("a", b"1"), file("b", b"2")))
    data[1024 + 20] ^= 1
    with pytest.raises(DataError, match="damaged: no header of a tar stands at byte 1024"):
        members(bytes(data))


def test_sparse_files_are_refused() -> None:
    with pytest.raises(DataError, match="sparse"):
        members(layer_tar(Entry(path="a", kind=tarfile.GNUTYPE_SPARSE, data=b"x"), format="gnu"))
    with pytest.raises(DataError, match="sparse"):
        members(layer_tar(file("a", b"x", pax={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})))


def pax_header(block: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    member = tarfile.TarInfo("header")
    member.type, member.size = kind, len(block)
    padded = block + bytes(-len(block) % 512)
    return member.tobuf(tarfile.USTAR_FORMAT) + padded + layer_tar(file("a", b"1"))


@pytest.mark.parametrize(
    "block",
    [
        b"5 a=b",
        b"x a=b\n",
        b"0 a=b\n",
        b"99 a=b\n",
        b"6 abc\n",
        b"11 size=-1\n",
        b"26 size=99999999999999999\n",
        b"23 size=99999999999999\n",
        b"no space at all in more than twenty bytes",
    ],
)
def test_malformed_extensions_are_refused(block: bytes) -> None:
    with pytest.raises(DataError):
        members(pax_header(block))


def test_sizes_and_global_headers() -> None:
    assert members(pax_header(b"10 size=1\n")).find("a").size == 1
    assert members(pax_header(b"16 path=renamed\n", tarfile.XGLTYPE)).find("a").size == 1
    assert members(pax_header(b"10 path=\xff\n")).by_name.keys() == {"\udcff"}


def test_negative_sizes_are_refused() -> None:
    member = bytearray(tarfile.TarInfo("a").tobuf(tarfile.GNU_FORMAT))
    member[124:136] = b"\xff" * 12
    member[148:156] = b" " * 8
    member[148:156] = b"%06o\0 " % sum(member)
    with pytest.raises(DataError, match="damaged"):
        members(bytes(member) + bytes(2048))


def test_bounds_hold() -> None:
    many = layer_tar(*(file(f"f{n}") for n in range(20)))
    with pytest.raises(NotImages, match="more than 19 members"):
        members(many, replace(DEFAULT_LIMITS, archive_members=19))
    assert len(members(many, replace(DEFAULT_LIMITS, archive_members=20)).by_name) == 20
    with pytest.raises(DataError, match="the names in it"):
        members(many, replace(DEFAULT_LIMITS, archive_index_bytes=20 * 200))
    with pytest.raises(DataError, match="a header in it is larger"):
        members(layer_tar(file(PATH * 20)), replace(DEFAULT_LIMITS, header_bytes=100))


def test_content_is_not_read() -> None:
    source = Bytes(layer_tar(file("big", b"x" * 1_000_000), file("a", b"1")))
    read_members(source, DEFAULT_LIMITS, hold=False)
    assert source.read_bytes < 4096


def test_small_documents_are_held_when_going_back_is_slow() -> None:
    data = layer_tar(file("a.json", b'{"a":1}'), file("b", b"[1]"), file("c", b"binary"), file("d.json", b"{" * 100))
    assert members(data).documents == {}
    limits = replace(DEFAULT_LIMITS, manifest_bytes=50)
    assert members(data, limits, hold=True).documents == {"a.json": b'{"a":1}', "b": b"[1]"}
    late = layer_tar(file("b", b"1"), file("c", b"2"), file("d", b"3"), file("a.json", b"{}"))
    assert (
        members(late, replace(limits, archive_index_bytes=1100), hold=True).documents == {}
    )  # half the room is for names
    with pytest.raises(DataError, match="cut short"):
        members(layer_tar(file("a.json", b"{" * 900))[:1000], hold=True)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "./b", "c/d", "../e", "/f", "g" * 120, "index.json"]),
            st.binary(max_size=700),
            st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE]),
        ),
        max_size=5,
    ),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=4),
    st.integers(0, 8000),
    st.booleans(),
)
def test_any_bytes_are_taken(
    entries: list[tuple[str, bytes, bytes]], form: int, flips: list[tuple[int, int]], cut: int, hold: bool
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data, kind in entries:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data) if kind == tarfile.REGTYPE else 0, "c/d"
            archive.addfile(info, io.BytesIO(data))
    data = bytearray(buffer.getvalue())
    for position, value in flips:
        if position < len(data):
            data[position] = value
    try:
        found = members(bytes(data[: len(data) - cut]), hold=hold)
    except DataError:
        return
    for member in found.by_name.values():
        assert isinstance(member, Member)
        if member.kind == "file":
            assert 0 <= member.offset <= len(data)
            assert member.offset + member.size <= len(data)


@given(st.binary(max_size=2000))
def test_noise_is_taken(data: bytes) -> None:
    found = None
    with contextlib.suppress(DataError):
        found = members(data)
    assert found is None or not data[:512].strip(b"\0") or found.by_name
