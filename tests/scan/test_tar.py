from __future__ import annotations

import io
import tarfile
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import DataError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.scan.inflate import LimitError
from sensor.scan.tar import BLOCK, PEEK_BYTES, TarWalker, normal_path
from tests.fakes.layers import Entry, Format, device, directory, file, hardlink, layer_tar, symlink

Event = tuple[str, bytes, bytes]


class Recorder:
    """Wants every file, and writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.refusals: list[tuple[str, bytes, str]] = []
        self.heads: list[bytes] = []
        self.peeked: list[tuple[int, int]] = []

    def file(self, path: bytes, size: int, data: bytes, offset: int) -> RecordingSink:
        self.peeked.append((len(data) - offset, min(size, PEEK_BYTES)))
        self.heads.append(data[offset : offset + min(size, PEEK_BYTES)])
        return RecordingSink(self.events, path, size)

    def directory(self, path: bytes) -> None:
        self.events.append(("directory", path, b""))

    def symlink(self, path: bytes, target: bytes) -> None:
        self.events.append(("symlink", path, target))

    def hard_link(self, path: bytes, target: bytes) -> None:
        self.events.append(("hard link", path, target))

    def special(self, path: bytes) -> None:
        self.events.append(("special", path, b""))

    def sparse(self, path: bytes) -> None:
        self.events.append(("sparse", path, b""))

    def refused(self, kind: str, path: bytes, reason: str) -> None:
        self.refusals.append((kind, path, reason))


class RecordingSink:
    def __init__(self, events: list[Event], path: bytes, size: int) -> None:
        self.events, self.path, self.size, self.parts = events, path, size, [b""]

    def write(self, data: bytes, start: int, end: int) -> None:
        self.parts.append(data[start:end])

    def close(self) -> None:
        content = b"".join(self.parts)
        assert len(content) == self.size
        self.events.append(("file", self.path, content))


class Indifferent(Recorder):
    """Wants no file."""

    def file(self, path: bytes, size: int, data: bytes, offset: int) -> None:  # type: ignore[override]
        self.events.append(("file", path, b"%d" % size))


def walked(
    data: bytes, *, step: int = 1 << 20, limits: Limits = DEFAULT_LIMITS, visitor: Recorder | None = None
) -> Recorder:
    recorder = visitor or Recorder()
    walker = TarWalker(recorder, limits)
    for start in range(0, len(data), step):
        walker.feed(data[start : start + step])
    walker.finish()
    return recorder


TREE = (
    directory("etc"),
    file("etc/os-release", b"ID=debian\n"),
    file("empty"),
    file("block", b"b" * 512),
    file("long/" + "d" * 90 + "/" + "n" * 90, b"long name"),
    symlink("lib", "usr/lib"),
    symlink("far", "t" * 150),
    hardlink("etc/again", "etc/os-release"),
    hardlink("far-link", "long/" + "d" * 90 + "/" + "n" * 90),
    device("dev/null"),
    file("unicode-\u00e9\u4e2d", b"x" * 2000),
)
TREE_EVENTS: list[Event] = [
    ("directory", b"etc", b""),
    ("file", b"etc/os-release", b"ID=debian\n"),
    ("file", b"empty", b""),
    ("file", b"block", b"b" * 512),
    ("file", b"long/" + b"d" * 90 + b"/" + b"n" * 90, b"long name"),
    ("symlink", b"lib", b"usr/lib"),
    ("symlink", b"far", b"t" * 150),
    ("hard link", b"etc/again", b"etc/os-release"),
    ("hard link", b"far-link", b"long/" + b"d" * 90 + b"/" + b"n" * 90),
    ("special", b"dev/null", b""),
    ("file", "unicode-\u00e9\u4e2d".encode(), b"x" * 2000),
]


@pytest.mark.parametrize("form", ["pax", "gnu"])
@pytest.mark.parametrize("prefix", ["", "./", "/", ".//./"])
@pytest.mark.parametrize("step", [1 << 20, 512, 511, 1])
def test_every_kind_of_member_in_every_format_and_step(form: Format, prefix: str, step: int) -> None:
    data = layer_tar(*TREE, format=form, prefix=prefix)
    recorder = walked(data, step=step)
    assert recorder.events == TREE_EVENTS
    assert recorder.refusals == []
    assert b"ID=debian\n" in recorder.heads
    assert all(there >= wanted for there, wanted in recorder.peeked)


def test_names_split_into_a_ustar_prefix() -> None:
    path = "p" * 150 + "/" + "n" * 100
    assert walked(layer_tar(file(path, b"x"), format="ustar")).events == [("file", path.encode(), b"x")]


def test_files_that_nobody_wants_are_skipped() -> None:
    for step in (1, 100, 1 << 20):
        events = walked(layer_tar(*TREE), step=step, visitor=Indifferent()).events
        assert [event[:2] for event in events] == [event[:2] for event in TREE_EVENTS]


def test_entries_are_counted_without_extension_headers() -> None:
    recorder = Recorder()
    walker = TarWalker(recorder, DEFAULT_LIMITS)
    walker.feed(layer_tar(*TREE))
    walker.finish()
    assert walker.entries == len(TREE)


def header(
    name: bytes, size: bytes = b"00000000003\0", flag: bytes = b"0", link: bytes = b"", magic: bytes = b"ustar\00000"
) -> bytes:
    """A header by hand, with a right checksum."""
    block = bytearray(BLOCK)
    block[0 : len(name)] = name
    block[124:136] = size.ljust(12, b"\0")
    block[148:156] = b" " * 8
    block[156:157] = flag
    block[157 : 157 + len(link)] = link
    block[257 : 257 + len(magic)] = magic
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


CONTENT = b"abc" + bytes(509)


@pytest.mark.parametrize(
    "size",
    [
        b"00000000003\0",
        b"00000000003 ",
        b"         3\0\0",
        b"3\0\0\0\0\0",
        b"000000000003",
        b"\x80" + bytes(10) + b"\x03",
        b"  3  ",
    ],
)
def test_spellings_of_a_size(size: bytes) -> None:
    assert walked(header(b"a", size) + CONTENT + header(b"b") + CONTENT).events == [
        ("file", b"a", b"abc"),
        ("file", b"b", b"abc"),
    ]


def test_no_size_is_zero() -> None:
    assert walked(header(b"a", b"") + header(b"b")[:512] + CONTENT).events[0] == ("file", b"a", b"")


@pytest.mark.parametrize(
    "size",
    [b"00000000009\0", b"-0000000003\0", b"abc", b"\xff" * 12, b"\x80\xff" + bytes(10), b"0x3", b"\xc0" + bytes(11)],
)
def test_sizes_that_are_none(size: bytes) -> None:
    with pytest.raises(DataError, match=r"size|middle"):
        walked(header(b"a", size) + CONTENT)


def test_base_256_sizes_above_eight_gibibytes_are_skipped_right() -> None:
    size = 9 << 30
    recorder = Indifferent()
    walker = TarWalker(recorder, DEFAULT_LIMITS)
    walker.feed(header(b"huge", b"\x80" + size.to_bytes(11, "big")))
    piece = bytes(1 << 20)
    for _ in range(size >> 20):
        walker.feed(piece)
    walker.feed(header(b"after") + CONTENT)
    walker.finish()
    assert [event[1] for event in recorder.events] == [b"huge", b"after"]


def test_v7_headers_have_no_prefix_and_mark_directories_by_a_slash() -> None:
    old = bytearray(header(b"dir/", b"0", b"\0", magic=b""))
    assert walked(bytes(old)).events == [("directory", b"dir", b"")]
    junk = bytearray(header(b"name", flag=b"\0", magic=b""))
    junk[345:350] = b"junk/"
    junk[148:156] = b" " * 8
    junk[148:156] = b"%06o\0 " % sum(junk)
    assert walked(bytes(junk) + CONTENT).events == [("file", b"name", b"abc")]


def test_star_keeps_times_in_the_end_of_the_prefix() -> None:
    block = bytearray(header(b"name"))
    block[345:348] = b"dir"
    block[476:487] = b"12345670123"
    block[508:512] = b"tar\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert walked(bytes(block) + CONTENT).events == [("file", b"dir/name", b"abc")]


def test_links_and_directories_have_no_content_whatever_their_size_says() -> None:
    data = (
        header(b"l", flag=b"1", link=b"a")
        + header(b"s", flag=b"2", link=b"a")
        + header(b"d/", flag=b"5")
        + header(b"f")
        + CONTENT
    )
    assert [event[0] for event in walked(data).events] == ["hard link", "symlink", "directory", "file"]


def test_unknown_kinds_are_skipped_with_their_content() -> None:
    data = header(b"volume", flag=b"V") + CONTENT + header(b"c", flag=b"7") + CONTENT
    assert walked(data).events == [("special", b"volume", b""), ("file", b"c", b"abc")]


@pytest.mark.parametrize("text", [b"%07o\0", b" %06o\0", b"%06o  ", b"0%06o "])
def test_spellings_of_a_checksum(text: bytes) -> None:
    block = bytearray(header(b"a"))
    block[148:156] = b" " * 8
    block[148:156] = (text % sum(block)).ljust(8, b"\0")
    assert walked(bytes(block) + CONTENT).events == [("file", b"a", b"abc")]


def test_a_checksum_of_signed_bytes_is_right_too() -> None:
    block = bytearray(header(b"\xe9"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % (sum(block) - 256)
    assert walked(bytes(block) + CONTENT).events == [("file", b"\xe9", b"abc")]


@pytest.mark.parametrize("place", [0, 100, 130, 150, 156, 260, 511])
def test_a_wrong_checksum_stops_the_walk(place: int) -> None:
    data = bytearray(header(b"a") + CONTENT + header(b"b") + CONTENT)
    data[1024 + place] ^= 0x15
    recorder = Recorder()
    with pytest.raises(DataError, match="checksum"):
        walked(bytes(data), visitor=recorder)
    assert recorder.events == [("file", b"a", b"abc")]


def test_a_checksum_that_is_off_by_adlers_modulus_is_wrong() -> None:
    block = bytearray(header(b"\xff" * 100, flag=b"0"))
    block[345:500] = b"\xff" * 155
    block[157:257] = b"\xff" * 100
    block[148:156] = b" " * 8
    total = sum(block)
    assert total > 65521
    block[148:156] = b"%06o\0 " % total
    assert walked(bytes(block) + CONTENT).events
    block[148:156] = b"junk    "
    with pytest.raises(DataError):
        walked(bytes(block) + CONTENT)


@pytest.mark.parametrize("path", ["../etc/passwd", "a/../../b", "..", "a/.."])
def test_paths_out_of_the_image_are_refused(path: str) -> None:
    recorder = walked(layer_tar(file(path, b"x" * 600), file("after", b"y")))
    assert recorder.events == [("file", b"after", b"y")]
    assert [refusal[0] for refusal in recorder.refusals] == ["unreadable"]


def test_hard_links_out_of_the_image_are_refused() -> None:
    recorder = walked(layer_tar(hardlink("a", "../../etc/passwd"), hardlink("b", "/etc//./passwd")))
    assert recorder.events == [("hard link", b"b", b"etc/passwd")]
    assert recorder.refusals[0][1] == b"a"


def test_the_root_itself_is_not_told() -> None:
    assert walked(layer_tar(directory("./"), directory("."), directory("/"), file("a"))).events == [("file", b"a", b"")]


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        (b"a", b"a"),
        (b"/a//b/", b"a/b"),
        (b"./a/./b", b"a/b"),
        (b"", b""),
        (b"/", b""),
        (b"a/..b/...", b"a/..b/..."),
        (b"..", None),
        (b"a\0b", None),
    ],
)
def test_normal_paths(raw: bytes, normal: bytes | None) -> None:
    assert normal_path(raw) == normal


@pytest.mark.parametrize("form", ["pax", "gnu"])
def test_a_path_that_is_too_long_is_refused(form: Format) -> None:
    limits = replace(DEFAULT_LIMITS, path_bytes=300)
    recorder = walked(layer_tar(file("p" * 301, b"x"), file("q" * 300, b"y"), format=form), limits=limits)
    assert recorder.events == [("file", b"q" * 300, b"y")]
    assert recorder.refusals[0][0] == "limit"


@pytest.mark.parametrize("form", ["pax", "gnu"])
@pytest.mark.parametrize("step", [700, 1 << 20])
def test_a_header_that_is_too_large_costs_its_member(form: Format, step: int) -> None:
    limits = replace(DEFAULT_LIMITS, header_bytes=1000)
    recorder = walked(layer_tar(file("p" * 3000, b"x"), file("after", b"y"), format=form), limits=limits, step=step)
    assert recorder.events == [("file", b"after", b"y")]
    assert recorder.refusals[0][0] == "limit"


def test_too_many_members() -> None:
    limits = replace(DEFAULT_LIMITS, layer_entries=3)
    three = layer_tar(*(file(f"f{index}") for index in range(3)))
    assert len(walked(three, limits=limits).events) == 3
    recorder = Recorder()
    with pytest.raises(LimitError, match="more than 3"):
        walked(layer_tar(*(file(f"f{index}") for index in range(4))), limits=limits, visitor=recorder)
    assert len(recorder.events) == 3


def record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode()
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def extension(block: bytes, flag: bytes = b"x") -> bytes:
    return header(b"ext", b"%011o\0" % len(block), flag) + block + bytes(-len(block) % BLOCK)


def test_pax_headers_speak_about_one_member() -> None:
    block = record("mtime", "1.5") + record("path", "/other/name") + record("size", "3") + record("comment", "path=no")
    data = extension(block) + header(b"a", b"00000000000\0") + CONTENT + header(b"b") + CONTENT
    assert walked(data).events == [("file", b"other/name", b"abc"), ("file", b"b", b"abc")]


def test_of_a_repeated_pax_key_the_last_counts_and_an_empty_one_does_not() -> None:
    block = record("path", "one") + record("path", "two") + record("path", "") + record("linkpath", "to")
    data = extension(block, b"X") + header(b"a", flag=b"2", link=b"no")
    assert walked(data).events == [("symlink", b"two", b"to")]


def test_global_pax_headers_are_passed_over() -> None:
    data = extension(record("path", "everywhere") + record("comment", "c"), b"g") + header(b"a") + CONTENT
    assert walked(data).events == [("file", b"a", b"abc")]


def test_values_that_look_like_records_are_no_records() -> None:
    block = record("SCHILY.xattr.user.x", "27 path=evil\n12 size=99\n") + record("LIBARCHIVE.x", "path=evil")
    assert walked(extension(block) + header(b"a") + CONTENT).events == [("file", b"a", b"abc")]


@pytest.mark.parametrize(
    "block",
    [
        b"path=no length\n",
        b"99999 path=a\n",
        b"0 path=a\n",
        b"7 path=\n7 path",
        b"11 path=abcd",
        b"-5 path=a\n",
        b"9 pathaaa\n path=",
        record("size", "-1"),
        record("size", "9" * 30),
        record("path", "a\0b"),
    ],
)
def test_malformed_pax_headers(block: bytes) -> None:
    with pytest.raises(DataError):
        walked(extension(block) + header(b"a") + CONTENT)


@pytest.mark.parametrize("step", [200, 1 << 20])
def test_sparse_files_are_told_and_skipped(step: int) -> None:
    first = bytearray(header(b"old", flag=b"S"))
    first[482] = 1
    first[148:156] = b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    maps = bytearray(BLOCK * 2)
    maps[504] = 1
    old = bytes(first) + bytes(maps) + CONTENT
    plain = header(b"short", flag=b"S") + CONTENT
    pax = (
        extension(record("GNU.sparse.major", "1") + record("GNU.sparse.name", "real/name"))
        + header(b"GNUSparseFile.0/x")
        + CONTENT
    )
    data = old + plain + pax + header(b"after") + CONTENT
    assert walked(data, step=step).events == [
        ("sparse", b"old", b""),
        ("sparse", b"short", b""),
        ("sparse", b"real/name", b""),
        ("file", b"after", b"abc"),
    ]


def test_the_map_of_a_sparse_file_must_end() -> None:
    first = bytearray(header(b"old", flag=b"S"))
    first[482] = 1
    first[148:156] = b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    endless = b"\x01" * BLOCK * 20
    with pytest.raises(DataError, match="sparse"):
        walked(bytes(first) + endless, limits=replace(DEFAULT_LIMITS, header_bytes=4096))
    with pytest.raises(DataError, match="header"):
        walked(bytes(first) + endless)


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1024), bytes(10240), bytes(100), bytes(1024) + b"junk" * 1000])
@pytest.mark.parametrize("step", [100, 1 << 20])
def test_ends_of_a_tar(end: bytes, step: int) -> None:
    assert walked(header(b"a") + CONTENT + end, step=step).events == [("file", b"a", b"abc")]


def test_the_padding_of_the_last_member_may_be_missing() -> None:
    for cut in (0, 1, 300):
        assert walked(header(b"a") + b"abc" + bytes(cut)).events == [("file", b"a", b"abc")]
        assert walked(header(b"a") + b"abc" + bytes(cut), visitor=Indifferent()).events == [("file", b"a", b"3")]


@pytest.mark.parametrize("step", [100, 1 << 20])
@pytest.mark.parametrize("visitor", [Recorder, Indifferent])
def test_a_tar_that_is_cut_short(step: int, visitor: type[Recorder]) -> None:
    data = header(b"a") + CONTENT + header(b"b", b"00000001750\0") + bytes(1000)
    for cut in (1, 999):
        with pytest.raises(DataError, match="middle of a file"):
            walked(data[:-cut], step=step, visitor=visitor())
    with pytest.raises(DataError, match="middle of a header"):
        walked(header(b"a") + CONTENT + header(b"b")[:300], step=step, visitor=visitor())
    with pytest.raises(DataError, match="middle of a header"):
        walked(extension(record("path", "x")), step=step, visitor=visitor())
    with pytest.raises(DataError, match="middle of a header"):
        walked(extension(record("path", "x"))[:520], step=step, visitor=visitor())


def test_no_bytes_are_an_empty_layer() -> None:
    assert walked(b"").events == []


def test_nothing_is_read_after_the_end() -> None:
    walker = TarWalker(recorder := Recorder(), DEFAULT_LIMITS)
    walker.feed(layer_tar(file("a")))
    walker.feed(header(b"b") + CONTENT)
    walker.finish()
    assert recorder.events == [("file", b"a", b"")]


@st.composite
def members(draw: st.DrawFn) -> list[Entry]:
    names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=120).filter(
        lambda name: name not in {".", ".."}
    )
    kinds = st.sampled_from([file, file, directory, symlink])
    entries = []
    for _ in range(draw(st.integers(0, 6))):
        path = "/".join(draw(st.lists(names, min_size=1, max_size=3)))
        kind = draw(kinds)
        if kind is file:
            entries.append(file(path, draw(st.binary(max_size=1500))))
        elif kind is directory:
            entries.append(directory(path))
        else:
            entries.append(symlink(path, draw(names)))
    return entries


@settings(max_examples=100, deadline=None)
@given(members(), st.sampled_from(["pax", "gnu"]), st.integers(1, 3000))
def test_the_walk_agrees_with_the_standard_library(entries: list[Entry], form: Format, step: int) -> None:
    data = layer_tar(*entries, format=form)
    expected: list[Event] = []
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as archive:
        for member in archive:
            name = member.name.encode("utf-8", "surrogateescape").strip(b"/")
            if member.isreg():
                content = archive.extractfile(member)
                assert content is not None
                expected.append(("file", name, content.read()))
            elif member.isdir():
                expected.append(("directory", name, b""))
            else:
                expected.append(("symlink", name, member.linkname.encode("utf-8", "surrogateescape")))
    assert walked(data, step=step).events == expected


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255), st.integers(1, 2000), st.booleans())
def test_flipped_bits_never_crash_the_walk(place: int, mask: int, step: int, fix: bool) -> None:
    data = bytearray(layer_tar(*TREE, format="gnu" if place % 2 else "pax"))
    place %= len(data)
    data[place] ^= mask
    if fix:
        # A right checksum lets the damage through to the fields behind it.
        start = place - place % BLOCK
        data[start + 148 : start + 156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + BLOCK])
    try:
        recorder = walked(bytes(data), step=step)
    except DataError:
        return
    assert len(recorder.events) <= 4 * len(TREE)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000), st.integers(1, 600))
def test_random_bytes_never_crash_the_walk(data: bytes, step: int) -> None:
    try:
        recorder = walked(data, step=step)
    except DataError:
        return
    assert recorder.events == []
