from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.limits import DEFAULT_LIMITS
from sensor.model.package import Evidence, LayerInventory
from sensor.scan.packages.ecosystem import Content, Ecosystem
from sensor.scan.paths import listed_paths
from sensor.scan.stream import catalogers_key
from tests.fakes.catalogers import CATALOGERS, DB, ELF, NEEDLE, PKG, PROGRAM, inventory_of, layer_inventory, program
from tests.fakes.layers import (
    Compression,
    device,
    directory,
    file,
    hardlink,
    layer,
    layer_tar,
    opaque,
    symlink,
    whiteout,
)

LAYER = (
    directory("var"),
    file("var/db", b"a 1\nb 2\n"),
    file("app/x.pkg", b"c 3"),
    file("bin/tool", program("go 1", padding=5000)),
    file("bin/other", ELF + b"x" * 3000),
    file("readme", b"r" * 1000),
    symlink("lib", "usr/lib"),
    symlink("lib.so", "readme"),
    device("dev/null"),
    hardlink("bin/link", "bin/tool"),
    whiteout("old/file"),
    opaque("srv"),
    file("etc/os-release", b"ID=debian\nVERSION_ID=12\n"),
)


def packages(inventory: LayerInventory) -> set[tuple[str, str, str]]:
    return {(each.path, each.name, each.version) for evidence in inventory.evidence for each in evidence.packages}


def gaps(inventory: LayerInventory) -> list[tuple[str, str]]:
    """(kind, subject), of the layer and of its files."""
    return [
        (gap.kind, gap.subject) for gap in (*inventory.gaps, *(g for each in inventory.evidence for g in each.gaps))
    ]


def paths(inventory: LayerInventory) -> list[bytes]:
    return [path for batch in listed_paths(inventory.files) for path in batch]


@pytest.mark.parametrize("compression", ["none", "gzip", "members", "zstd", "frames"])
@pytest.mark.parametrize("step", [1, 777, 1 << 20])
def test_one_pass_finds_everything_whatever_the_compression_and_the_steps(compression: Compression, step: int) -> None:
    blob = layer(*LAYER, compression=compression)
    inventory = inventory_of(blob, step=step)
    assert packages(inventory) == {
        ("var/db", "a", "1"),
        ("var/db", "b", "2"),
        ("app/x.pkg", "c", "3"),
        ("bin/tool", "go", "1"),
        ("bin/link", "go", "1"),
    }
    assert inventory.whiteouts == ("old/file",)
    assert inventory.opaque == ("srv",)
    assert inventory.symlinks == {"lib": "usr/lib"}
    assert inventory.hard_links == {}
    assert inventory.os_release["etc/os-release"].id == "debian"
    assert inventory.entries == len(LAYER)
    assert inventory.compressed_bytes == len(blob)
    assert inventory.inflated_bytes == len(layer_tar(*LAYER))
    assert gaps(inventory) == []
    assert paths(inventory) == [
        b"var/",
        b"var/db",
        b"app/x.pkg",
        b"bin/tool",
        b"bin/other",
        b"readme",
        b"lib",
        b"lib.so",
        b"dev/null",
        b"bin/link",
        b"etc/os-release",
    ]


def test_files_are_offered_by_name_directory_suffix_and_first_bytes_but_only_if_wanted() -> None:
    inventory = layer_inventory(
        file("pkg", b"root 1"),
        file("var/lib/pkgs/anything", b"dir 1"),
        file("var/lib/pkgs/deeper/anything", b"no 1"),
        file("a.pkg", b"suffix 1"),
        file("xpkg", b"no 1"),
        file("ignored/pkg", b"no 1"),
        file("any/name", program("magic 1")),
        file("short", ELF[:3]),
        file("pkg/", b"slash 1"),
    )
    assert {name for _path, name, _version in packages(inventory)} == {"slash", "dir", "suffix", "magic"}


def test_one_file_may_be_wanted_by_several() -> None:
    again = replace(
        DB, name="again", read=lambda path, content, limits: replace_cataloger(DB.read(path, content, limits))
    )
    inventory = inventory_of(layer(file("db", b"a 1")), catalogers=(DB, again, PKG))
    assert [each.cataloger for each in inventory.evidence] == ["db", "again"]


def replace_cataloger(evidence: Evidence) -> Evidence:
    return Evidence(cataloger="again", path=evidence.path, packages=evidence.packages)


def test_what_a_magic_needs_must_lie_within_the_file() -> None:
    with_zeros = replace(PROGRAM, magics=(b"ab\0\0",), needle=b"", read=PKG.read)
    assert inventory_of(layer(file("x", b"ab")), catalogers=(with_zeros,)).evidence == ()
    with pytest.raises(ValueError, match="magic"):
        inventory_of(b"", catalogers=(replace(PROGRAM, magics=(b"m" * 17,)),))


@pytest.mark.parametrize("step", range(1, 40, 3))
def test_a_needle_is_found_across_the_borders_of_pieces(step: int) -> None:
    assert packages(inventory_of(layer(file("t", program("a 1", padding=37)), compression="none"), step=step))


def test_files_without_the_needle_are_not_read() -> None:
    def fail(path: str, content: Content, limits: object) -> Evidence:
        raise AssertionError(path)

    never = replace(PROGRAM, read=fail)
    assert inventory_of(layer(file("t", ELF + NEEDLE[:-1])), catalogers=(never,)).evidence == ()


@pytest.mark.parametrize("content", [b"broken", b"crash", b"\xff\xfe"])
def test_a_cataloger_that_stumbles_costs_its_file_only(content: bytes) -> None:
    inventory = layer_inventory(file("a/db", content), file("b/db", b"b 1"))
    assert packages(inventory) == {("b/db", "b", "1")}
    assert gaps(inventory) == [("unreadable", "a/db")]


@pytest.mark.parametrize("error", [MemoryError, RecursionError, KeyError, OSError, ZeroDivisionError, AssertionError])
def test_whatever_a_cataloger_raises_is_a_gap(error: type[Exception]) -> None:
    def stumble(path: str, content: Content, limits: object) -> Evidence:
        raise error("\udcff hostile \x1b[31m")

    inventory = inventory_of(layer(file("db", b"a 1")), catalogers=(replace(DB, read=stumble),))
    assert gaps(inventory) == [("unreadable", "db")]
    assert error.__name__ in inventory.evidence[0].gaps[0].reason


def test_evidence_that_could_not_be_sent_is_a_gap() -> None:
    def lone_surrogate(path: str, content: Content, limits: object) -> Evidence:
        return Evidence(cataloger="db", path=path, owns=(("\udcff", "a"),))

    assert gaps(inventory_of(layer(file("db")), catalogers=(replace(DB, read=lone_surrogate),))) == [
        ("unreadable", "db")
    ]


def test_a_file_that_is_too_large_is_a_gap_and_not_held() -> None:
    limits = replace(DEFAULT_LIMITS, package_file_bytes=10)
    inventory = layer_inventory(file("a/db", b"a 1" + bytes(8)), file("b/db", b"b 1" + b"\n" * 7), limits=limits)
    assert packages(inventory) == {("b/db", "b", "1")}
    assert gaps(inventory) == [("limit", "a/db")]


def test_a_large_program_is_a_gap_only_if_it_is_one() -> None:
    limits = replace(DEFAULT_LIMITS, spool_bytes=1000)
    inventory = layer_inventory(
        file("a", program("a 1", padding=1000)), file("b", ELF + bytes(1000)), file("c", program("c 1")), limits=limits
    )
    assert packages(inventory) == {("c", "c", "1")}
    assert gaps(inventory) == [("limit", "a")]


def test_large_files_go_through_the_temporary_file() -> None:
    limits = replace(DEFAULT_LIMITS, held_bytes=1000)
    blob = layer(
        file("a", program("a 1", padding=5000)), file("b", program("b 1", padding=9000)), file("c", ELF + bytes(5000))
    )
    for step in (100, 1 << 20):
        assert packages(inventory_of(blob, limits=limits, step=step)) == {("a", "a", "1"), ("b", "b", "1")}


def test_a_cataloger_that_wants_bytes_gets_those_of_a_large_file_too() -> None:
    blob = layer(file("lib/db", ELF + b" 1\nlist 2\n" + b"\n" * 5000), file("small/db", b"small 1"))
    limits = replace(DEFAULT_LIMITS, held_bytes=1000)
    assert ("lib/db", "list", "2") in packages(inventory_of(blob, limits=limits))


def test_too_many_packages_are_a_gap() -> None:
    limits = replace(DEFAULT_LIMITS, packages_per_layer=3)
    inventory = layer_inventory(
        file("a/db", b"a 1\nb 1"), file("b/db", b"c 1\nd 1"), file("c/db", b"e 1"), limits=limits
    )
    assert {name for _path, name, _version in packages(inventory)} == {"a", "b", "e"}
    assert gaps(inventory) == [("limit", "b/db")]


def test_too_many_gaps_are_counted() -> None:
    limits = replace(DEFAULT_LIMITS, gaps_per_layer=2)
    inventory = layer_inventory(
        *(file(f"{index}/db", b"broken") for index in range(5)),
        *(file(f"../{index}") for index in range(5)),
        limits=limits,
    )
    kinds = gaps(inventory)
    assert kinds.count(("limit", "sha256:layer")) == 1
    assert len(kinds) == 5
    assert any(gap.reason.startswith("6 further") for gap in inventory.gaps)


def test_too_many_links_are_a_gap() -> None:
    limits = replace(DEFAULT_LIMITS, links_per_layer=2)
    inventory = layer_inventory(
        symlink("a", "x"), whiteout("b"), opaque("c"), hardlink("d/db", "x"), symlink("e", "x"), limits=limits
    )
    assert (inventory.symlinks, inventory.whiteouts, inventory.opaque) == ({"a": "x"}, ("b",), ())
    assert {kind for kind, _subject in gaps(inventory)} == {"limit"}


def test_a_link_whose_target_is_too_long_is_a_gap() -> None:
    inventory = layer_inventory(symlink("a", "x" * 5000))
    assert inventory.symlinks == {}
    assert gaps(inventory) == [("limit", "a")]


def test_of_several_members_with_one_name_the_last_counts() -> None:
    assert packages(layer_inventory(file("db", b"a 1"), file("db", b"b 1"))) == {("db", "b", "1")}
    assert packages(layer_inventory(file("db", b"a 1"), symlink("db", "x"))) == set()
    assert packages(layer_inventory(file("t", program("a 1")), file("t", b"#!"))) == set()
    assert layer_inventory(symlink("lib", "x"), file("lib")).symlinks == {}
    assert layer_inventory(symlink("lib", "x"), directory("lib")).symlinks == {}
    assert layer_inventory(hardlink("db", "x"), file("db", b"a 1")).hard_links == {}
    assert layer_inventory(file("etc/os-release", b"ID=a"), file("etc/os-release", b"")).os_release == {}


def test_links_to_mere_files_are_dropped_and_others_are_kept() -> None:
    inventory = layer_inventory(
        file("usr/lib/libz.so.1.2"),
        symlink("usr/lib/libz.so.1", "libz.so.1.2"),
        symlink("usr/lib/libz.so", "libz.so.1"),
        symlink("usr/bin/x", "/usr/lib/./libz.so.1.2"),
        symlink("lib", "usr/lib"),
        symlink("up", "../../.."),
        symlink("elsewhere", "in/a/lower/layer"),
        symlink("etc/os-release", "../usr/lib/libz.so.1.2"),
    )
    assert inventory.symlinks.keys() == {"lib", "up", "elsewhere", "etc/os-release"}


def test_hard_links_are_shared_settled_or_left_to_the_squash() -> None:
    inventory = layer_inventory(
        file("etc/os-release", b"ID=debian"),
        hardlink("usr/lib/os-release", "etc/os-release"),
        file("a/db", b"a 1"),
        hardlink("b/db", "a/db"),
        hardlink("not-wanted", "a/db"),
        hardlink("c/db", "lower/db"),
        hardlink("d/db", "c/db"),
        hardlink("bin/x", "lower/x"),
        symlink("lib", "usr/lib"),
        hardlink("lib2", "lib"),
        file("plain"),
        hardlink("plain2", "plain"),
        hardlink(".wh.gone", "plain"),
    )
    assert inventory.os_release.keys() == {"etc/os-release", "usr/lib/os-release"}
    assert packages(inventory) == {("a/db", "a", "1"), ("b/db", "a", "1")}
    assert inventory.hard_links == {"c/db": "lower/db", "d/db": "lower/db", "bin/x": "lower/x"}
    assert inventory.symlinks == {"lib": "usr/lib", "lib2": "usr/lib"}
    assert inventory.whiteouts == ("gone",)


def test_hard_links_are_left_alone_when_nobody_could_want_them() -> None:
    inventory = inventory_of(layer(hardlink("x", "lower/x"), hardlink("db", "lower/db")), catalogers=(DB,))
    assert inventory.hard_links == {"db": "lower/db"}


def test_sparse_files_are_a_gap_if_somebody_wanted_them() -> None:
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    inventory = layer_inventory(file("db", b"a 1", pax=sparse), file("other", b"x", pax=sparse), file("b/db", b"b 1"))
    assert gaps(inventory) == [("unreadable", "db")]
    assert packages(inventory) == {("b/db", "b", "1")}


@pytest.mark.parametrize("name", [".wh..", ".wh..."])
def test_whiteouts_of_a_directory_itself_are_refused(name: str) -> None:
    inventory = layer_inventory(file(f"a/{name}"))
    assert inventory.whiteouts == ()
    assert [kind for kind, _subject in gaps(inventory)] == ["unreadable"]


def test_whiteouts_may_be_of_any_kind() -> None:
    inventory = layer_inventory(
        directory(".wh.a"), symlink("d/.wh.b", "x"), device(".wh.c"), directory("e/.wh..wh..opq")
    )
    assert inventory.whiteouts == ("a", "d/b", "c")
    assert inventory.opaque == ("e",)
    assert paths(inventory) == []


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_what_came_before_the_damage_is_kept(compression: Compression) -> None:
    import random

    noise = random.Random(1).randbytes(200_000)
    blob = layer(file("db", b"a 1"), file("noise", noise), file("b/db", b"b 1"), compression=compression)
    for cut in (len(blob) // 2, len(blob) - 5000 if compression == "none" else len(blob) // 3):
        inventory = inventory_of(blob[:cut], step=1000)
        assert packages(inventory) == {("db", "a", "1")} or cut > len(blob) - 6000
        assert [(gap.kind, gap.subject) for gap in inventory.gaps] in (
            [("unreadable", "sha256:layer")],
            [] if compression == "none" else None,
        )
        assert inventory.compressed_bytes == cut


def test_a_bomb_is_a_gap() -> None:
    limits = replace(DEFAULT_LIMITS, layer_bytes=100_000)
    inventory = layer_inventory(
        file("db", b"a 1"), file("zeros", bytes(1_000_000)), file("b/db", b"b 1"), limits=limits
    )
    assert packages(inventory) == {("db", "a", "1")}
    assert [gap.kind for gap in inventory.gaps] == ["limit"]


def test_too_many_members_are_a_gap_and_the_rest_is_only_counted() -> None:
    blob = layer(file("db", b"a 1"), *(file(str(index)) for index in range(20)))
    inventory = inventory_of(blob, limits=replace(DEFAULT_LIMITS, layer_entries=5), step=50)
    assert packages(inventory) == {("db", "a", "1")}
    assert [gap.kind for gap in inventory.gaps] == ["limit"]
    assert inventory.compressed_bytes == len(blob)


def test_memory_that_runs_out_is_a_gap() -> None:
    class Greedy(dict[bytes, object]):
        def __contains__(self, key: object) -> bool:
            raise MemoryError

    from sensor.scan.stream import LayerStream

    stream = LayerStream(CATALOGERS, DEFAULT_LIMITS)
    stream._symlinks = Greedy()  # type: ignore[assignment]
    stream.feed(layer(file("a")))
    stream._symlinks = {}
    assert [gap.kind for gap in stream.finish("sha256:layer").gaps] == ["limit"]


def test_an_empty_layer_is_no_gap() -> None:
    assert gaps(inventory_of(b"")) == []
    assert gaps(layer_inventory()) == []


def test_the_key_changes_with_names_and_versions_but_not_with_the_order() -> None:
    key = catalogers_key(CATALOGERS)
    assert catalogers_key(CATALOGERS[::-1]) == key
    assert catalogers_key((DB, PKG)) != key
    assert catalogers_key((replace(DB, version=7), PKG, PROGRAM)) != key
    assert key == "stream-1 db-1 pkg-1 program-2"


def test_many_paths_stay_in_their_order() -> None:
    names = [f"d/{index:05}" for index in range(10_000)]
    inventory = inventory_of(layer(*map(file, names), compression="none"))
    assert paths(inventory) == [name.encode() for name in names]
    assert len(inventory.files) < 40_000


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 255),
    st.sampled_from(["none", "gzip", "zstd", "frames"]),
    st.integers(1, 5000),
)
def test_flipped_bits_never_raise(place: int, mask: int, compression: Compression, step: int) -> None:
    blob = bytearray(layer(*LAYER, compression=compression))
    blob[place % len(blob)] ^= mask
    inventory = inventory_of(bytes(blob), step=step)
    assert inventory.compressed_bytes == len(blob)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["none", "gzip", "zstd"]))
def test_truncation_never_raises(cut: int, compression: Compression) -> None:
    blob = layer(*LAYER, compression=compression)
    inventory = inventory_of(blob[: cut % len(blob)])
    assert packages(inventory) <= packages(inventory_of(blob))


def test_an_ecosystem_without_any_way_in_gets_nothing() -> None:
    silent = Ecosystem(name="silent", version=1, read=DB.read)
    assert inventory_of(layer(file("db", b"a 1")), catalogers=(silent,)).evidence == ()
