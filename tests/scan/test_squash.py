"""The rules of layers. Named cases are those that other tools got wrong; the property test compares with really applying the layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.model.digest import Digest
from sensor.model.manifest import Descriptor, HistoryEntry, ImageConfig
from sensor.model.package import Gap, ImageInventory, LayerInventory
from sensor.scan.squash import squash
from tests.fakes.catalogers import DB, PKG, inventory_of, layer_inventory, program
from tests.fakes.layers import (
    Entry,
    device,
    digest_of,
    directory,
    file,
    hardlink,
    layer,
    opaque,
    symlink,
    whiteout,
)

PLAIN = ImageConfig()
MANIFEST = digest_of(b"manifest")


def layer_digest(index: int) -> Digest:
    return digest_of(f"layer {index}".encode())


def squashed(*layers: LayerInventory, config: ImageConfig = PLAIN) -> ImageInventory:
    described = [(Descriptor(digest=layer_digest(index), size=100 + index), each) for index, each in enumerate(layers)]
    return squash(MANIFEST, "linux/amd64", described, config)


def image(*layers: tuple[Entry, ...]) -> ImageInventory:
    return squashed(*(layer_inventory(*entries) for entries in layers))


def found(result: ImageInventory) -> set[tuple[str, str, str]]:
    """(path, name, version) of every package."""
    return {(each.package.path, each.package.name, each.package.version) for each in result.packages}


def layers_of(result: ImageInventory) -> dict[str, int]:
    """Name and version to the index of the layer that it is put down to."""
    indexes = {layer_digest(index): index for index in range(20)}
    return {f"{each.package.name} {each.package.version}": indexes[each.layer] for each in result.packages}


A = ("app/pkg", "a", "1")


def test_a_whiteout_deletes_the_file_below() -> None:
    assert found(image((file("app/pkg", b"a 1"), file("app/x.pkg", b"b 1")), (whiteout("app/pkg"),))) == {
        ("app/x.pkg", "b", "1")
    }


def test_a_whiteout_of_a_directory_deletes_everything_in_it() -> None:
    assert found(image((file("srv/app/deep/pkg", b"a 1"), file("srv/appx/pkg", b"b 1")), (whiteout("srv/app"),))) == {
        ("srv/appx/pkg", "b", "1")
    }


@pytest.mark.parametrize("after", [True, False])
def test_a_whiteout_spares_its_own_layer_whatever_the_order(after: bool) -> None:
    marker, new = whiteout("app"), file("app/pkg", b"a 2")
    assert found(image((file("app/pkg", b"a 1"),), (new, marker) if after else (marker, new))) == {
        ("app/pkg", "a", "2")
    }


def test_a_whiteout_acts_on_lower_layers_only() -> None:
    result = image((file("app/pkg", b"a 1"),), (whiteout("app/pkg"),), (file("app/pkg", b"a 1"),))
    assert found(result) == {A}
    assert layers_of(result) == {"a 1": 2}


def test_a_whiteout_of_nothing_is_harmless() -> None:
    result = image((file("app/pkg", b"a 1"),), (whiteout("app/other"), whiteout("no/such/place"), opaque("nowhere")))
    assert found(result) == {A}
    assert result.gaps == ()


def test_a_whiteout_in_the_lowest_layer_is_no_file() -> None:
    lowest = layer_inventory(whiteout("app/pkg"), file("app/.wh.pkg.pkg", b"ghost 1"))
    assert lowest.evidence == ()
    assert found(squashed(lowest)) == set()


def test_bare_wh_is_an_ordinary_file() -> None:
    result = image((file("app/pkg", b"a 1"),), (file("app/.wh.", b""),))
    assert found(result) == {A}


def test_only_the_exact_opaque_name_hides_a_directory() -> None:
    lower = (file("app/pkg", b"a 1"), file("pkg", b"root 1"))
    kept = {A, ("pkg", "root", "1")}
    assert found(image(lower, (file("app/.wh..wh..opqX"), file(".wh..wh..opqX"), file(".wh..wh..op")))) == kept
    assert found(image(lower, (opaque("app"),))) == {("pkg", "root", "1")}
    assert found(image(lower, (opaque(""),))) == set()


def test_aufs_leftovers_delete_nothing() -> None:
    result = image(
        (file("app/pkg", b"a 1"),), (file(".wh..wh.plnk/1.2"), file(".wh..wh.aufs"), file("app/.wh..wh.orph"))
    )
    assert found(result) == {A}


@pytest.mark.parametrize("after", [True, False])
def test_an_opaque_directory_keeps_entries_of_its_own_layer(after: bool) -> None:
    new = file("app/new.pkg", b"b 1")
    entries = (new, opaque("app")) if after else (opaque("app"), new)
    assert found(image((file("app/pkg", b"a 1"),), entries)) == {("app/new.pkg", "b", "1")}


def test_an_opaque_marker_never_acts_through_a_lower_symlink() -> None:
    lower = (file("target/pkg", b"a 1"), symlink("link", "/target"))
    assert found(image(lower, (opaque("link"), whiteout("link/pkg")))) == {("target/pkg", "a", "1")}


@pytest.mark.parametrize("replacement", [file("app", b"x"), symlink("app", "elsewhere"), device("app")])
def test_a_directory_replaced_without_a_whiteout_hides_what_was_in_it(replacement: Entry) -> None:
    lower = (directory("app"), directory("app/lib"), file("app/lib/pkg", b"a 1"), file("apple/pkg", b"b 1"))
    assert found(image(lower, (replacement,))) == {("apple/pkg", "b", "1")}


def test_a_directory_over_a_lower_symlink_replaces_it() -> None:
    lower = (directory("real"), file("real/db", b"a 1"), symlink("link", "real"))
    result = image(lower, (directory("link"), file("link/db", b"b 1")))
    assert found(result) == {("real/db", "a", "1"), ("link/db", "b", "1")}


def test_a_directory_over_a_lower_file_replaces_it() -> None:
    assert found(image((file("pkg", b"a 1"),), (directory("pkg"),))) == set()
    assert found(image((file("pkg", b"a 1"),), (file("pkg/inner.pkg", b"b 1"),))) == {("pkg/inner.pkg", "b", "1")}


def test_a_file_that_nobody_wants_replaces_one_that_was_wanted() -> None:
    lower = (file("bin/tool", program("a 1")),)
    assert found(image(lower)) == {("bin/tool", "a", "1")}
    assert found(image(lower, (file("bin/tool", b"#!/bin/sh\n"),))) == set()
    assert found(image(lower, (device("bin/tool"),))) == set()


def test_a_database_counts_whole_and_the_last_writer_wins() -> None:
    result = image((file("var/db", b"a 1\nb 1\n"),), (file("var/db", b"a 2\nc 1\n"),))
    assert found(result) == {("var/db", "a", "2"), ("var/db", "c", "1")}
    assert layers_of(result) == {"a 2": 1, "c 1": 1}


def test_an_emptied_database_hides_the_older_copy() -> None:
    assert found(image((file("var/db", b"a 1\n"),), (file("var/db", b""),))) == set()


def test_packages_are_put_down_to_the_layer_that_brought_this_version() -> None:
    result = image(
        (file("var/db", b"a 1\nb 1\n"),),
        (file("var/db", b"a 2\nb 1\n"),),
        (file("etc/x"),),
        (file("var/db", b"a 1\nb 1\nc 1\n"),),
    )
    assert layers_of(result) == {"a 1": 3, "b 1": 0, "c 1": 3}


def test_one_file_per_package_adds_up() -> None:
    result = image((file("app/a.pkg", b"a 1"),), (file("app/b.pkg", b"b 1"),), (file("app/a.pkg", b"a 2"),))
    assert found(result) == {("app/a.pkg", "a", "2"), ("app/b.pkg", "b", "1")}
    assert layers_of(result) == {"a 2": 2, "b 1": 1}


def test_usrmerge_does_not_count_a_database_twice() -> None:
    lower = (directory("usr/lib"), symlink("lib", "usr/lib"), file("usr/lib/apk/db", b"a 1"))
    result = image(lower, (file("lib/apk/db", b"a 1\nb 1"),))
    assert found(result) == {("usr/lib/apk/db", "a", "1"), ("usr/lib/apk/db", "b", "1")}
    assert layers_of(result) == {"a 1": 0, "b 1": 1}


def test_a_merge_that_happens_in_a_later_layer_moves_the_database() -> None:
    lower = (directory("lib"), file("lib/apk/db", b"a 1"))
    result = image(lower, (symlink("lib", "usr/lib"), file("usr/lib/apk/db", b"a 1")))
    assert found(result) == {("usr/lib/apk/db", "a", "1")}


def test_a_linked_database_directory_is_neither_lost_nor_doubled() -> None:
    lower = (
        directory("usr/lib/sysimage/rpm"),
        file("usr/lib/sysimage/rpm/db", b"a 1"),
        symlink("var/lib/rpm", "../../usr/lib/sysimage/rpm"),
    )
    assert found(image(lower)) == {("usr/lib/sysimage/rpm/db", "a", "1")}
    written_through = image(lower, (file("var/lib/rpm/db", b"a 2"),))
    assert found(written_through) == {("usr/lib/sysimage/rpm/db", "a", "2")}


def test_a_file_in_one_layer_written_through_its_own_symlink() -> None:
    result = image((symlink("lib", "usr/lib"), file("lib/db", b"a 1")), (whiteout("usr/lib/db"),))
    assert found(result) == set()


def test_a_hard_link_in_the_same_layer_is_found_under_both_names() -> None:
    result = image((file("a/pkg", b"a 1"), hardlink("b/pkg", "a/pkg"), hardlink("c/pkg", "./b/pkg")))
    assert found(result) == {("a/pkg", "a", "1"), ("b/pkg", "a", "1"), ("c/pkg", "a", "1")}


def test_a_hard_link_outlives_the_deletion_of_its_first_name() -> None:
    result = image((file("a/db", b"a 1"), hardlink("b/db", "a/db")), (whiteout("a"),))
    assert found(result) == {("b/db", "a", "1")}


def test_a_hard_link_to_a_lower_layer_is_resolved() -> None:
    result = image(
        (file("bin/one", program("a 1")),), (hardlink("bin/two", "bin/one"), hardlink("bin/three", "bin/two"))
    )
    assert found(result) == {(f"bin/{name}", "a", "1") for name in ("one", "two", "three")}
    assert layers_of(result)["a 1"] in {0, 1}


def test_a_hard_link_to_nothing_is_nothing() -> None:
    result = image((file("x"),), (hardlink("app/pkg", "no/such"), hardlink("self/pkg", "self/pkg")))
    assert found(result) == set()


def test_a_hard_linked_database_that_was_not_read_is_a_gap() -> None:
    result = image((file("store/0123", b"a 1"), hardlink("var/db", "store/0123")))
    assert [(gap.kind, gap.subject) for gap in result.gaps] == [("unreadable", "var/db")]


def test_a_symlinked_database_that_was_not_read_is_a_gap() -> None:
    lower = (file("store/0123", b"a 1"), symlink("var/db", "../store/0123"))
    assert [(gap.kind, gap.subject) for gap in image(lower).gaps] == [("unreadable", "var/db")]
    assert image(lower, (whiteout("var/db"),)).gaps == ()
    assert image(lower, (whiteout("var/db"), symlink("var/db", "gone"))).gaps == ()
    across = image((file("store/0123", b"a 1"),), (symlink("var/db", "/store/0123"),))
    assert [gap.subject for gap in across.gaps] == ["var/db"]


def test_a_symlink_to_a_file_that_was_read_is_no_gap() -> None:
    result = image((file("real/db", b"a 1"), symlink("var/db", "/real/db")))
    assert result.gaps == ()
    assert found(result) == {("real/db", "a", "1")}


def test_a_link_that_a_file_replaced_leads_nowhere() -> None:
    result = image((directory("real"), symlink("link", "real")), (file("link"),), (file("link/pkg", b"a 1"),))
    assert found(result) == {("link/pkg", "a", "1")}


def test_links_in_a_replaced_directory_are_gone() -> None:
    lower = (directory("outer"), symlink("outer/link", "/real"))
    entries = ((symlink("outer", "other"),), (directory("outer"),), (file("outer/link/pkg", b"a 1"),))
    assert found(image(lower, *entries)) == {("outer/link/pkg", "a", "1")}
    assert found(image(lower, entries[-1])) == {("real/pkg", "a", "1")}


def test_symlink_loops_end() -> None:
    result = image(
        (symlink("a", "b"), symlink("b", "a"), symlink("c", "c/c"), file("d/pkg", b"d 1"), symlink("e/db", "db")),
        (file("a/pkg", b"a 1"), file("c/pkg", b"c 1"), directory("a/x")),
    )
    assert ("d/pkg", "d", "1") in found(result)
    assert {name for _path, name, _version in found(result)} == {"a", "c", "d"}


def test_hostile_chains_of_symlinks_are_bounded() -> None:
    chain = [symlink(f"l{index}", "/".join([f"l{index + 1}", *(["."] * 2000)])) for index in range(100)]
    result = image((*chain, file("l0/pkg", b"a 1")))
    assert {name for _path, name, _version in found(result)} == {"a"}


def test_names_that_differ_only_in_bad_bytes_stay_apart() -> None:
    result = image((file("app/\udcff.pkg", b"a 1"), file("app/\udcfe.pkg", b"b 1")), (whiteout("app/\udcfe.pkg"),))
    assert found(result) == {("app/\\xff.pkg", "a", "1")}


def test_gaps_count_only_while_their_evidence_is_visible() -> None:
    lower = (file("var/db", b"broken"),)
    assert image(lower).gaps == (
        Gap(kind="unreadable", subject="var/db", reason="could not be read: the database is broken"),
    )
    assert image(lower, (file("var/db", b"a 1"),)).gaps == ()
    assert image(lower, (whiteout("var"),)).gaps == ()


def test_gaps_of_a_layer_always_count() -> None:
    damaged = inventory_of(layer(file("app/pkg", b"a 1"), file("x", b"y" * 5000))[:-30])
    result = squashed(damaged, layer_inventory(opaque("")))
    assert [gap.kind for gap in result.gaps] == ["unreadable"]
    assert squashed(damaged, damaged).gaps == result.gaps


DEBIAN = b"ID=debian\nVERSION_ID=12\n"


def test_os_release_is_followed_to_its_target() -> None:
    result = image((file("usr/lib/os-release", DEBIAN), symlink("etc/os-release", "../usr/lib/os-release")))
    assert result.os_release is not None
    assert result.os_release.id == "debian"


def test_the_os_release_in_etc_goes_before_the_one_in_usr() -> None:
    lower = (file("usr/lib/os-release", DEBIAN), file("etc/os-release", b"ID=ubuntu\nVERSION_ID=24.04\n"))
    result = image(lower)
    assert result.os_release is not None
    assert result.os_release.id == "ubuntu"
    without = image(lower, (whiteout("etc/os-release"),))
    assert without.os_release is not None
    assert without.os_release.id == "debian"


def test_the_newest_os_release_counts_and_a_removed_one_is_remembered() -> None:
    upgraded = image((file("etc/os-release", DEBIAN),), (file("etc/os-release", b"ID=debian\nVERSION_ID=13\n"),))
    assert upgraded.os_release is not None
    assert upgraded.os_release.version_id == "13"
    removed = image((file("etc/os-release", DEBIAN), file("var/db", b"a 1")), (whiteout("etc/os-release"),))
    assert removed.os_release is not None
    assert removed.packages[0].purl == "pkg:deb/debian/a@1?distro=debian-12"
    assert image((file("etc/os-release", b"not one"),)).os_release is None


def test_an_os_release_reached_through_a_linked_directory() -> None:
    result = image(
        (symlink("lib", "usr/lib"), symlink("etc/os-release", "/lib/os-release"), file("usr/lib/os-release", DEBIAN))
    )
    assert result.os_release is not None


def owner_of(result: ImageInventory, name: str) -> str:
    return next(each.owner for each in result.packages if each.package.name == name)


def test_a_package_that_the_distribution_installed_has_an_owner() -> None:
    lower = (
        symlink("lib", "usr/lib"),
        file("var/db", b"python3-a 1\nowns lib/a/pkg python3-a\nowns usr/bin/x python3-a\n"),
        file("usr/lib/a/pkg", b"a 1"),
        file("opt/pkg", b"b 1"),
    )
    result = image(lower)
    assert owner_of(result, "a") == "python3-a"
    assert owner_of(result, "b") == ""
    assert owner_of(result, "python3-a") == ""


def test_a_file_that_was_replaced_after_its_package_came_has_no_owner() -> None:
    lower = (file("var/db", b"tool 1\nowns usr/bin/tool tool\n"), file("usr/bin/tool", program("inner 1")))
    assert owner_of(image(lower), "inner") == "tool"
    touched = image(lower, (file("usr/bin/tool", program("inner 1")),))
    assert owner_of(touched, "inner") == "tool"
    replaced = image(lower, (file("usr/bin/tool", program("inner 2")),))
    assert owner_of(replaced, "inner") == ""
    upgraded = image(
        lower, (file("var/db", b"tool 2\nowns usr/bin/tool tool\n"), file("usr/bin/tool", program("inner 2")))
    )
    assert owner_of(upgraded, "inner") == "tool"


def test_layers_are_summed_up_with_their_build_steps() -> None:
    history = (
        HistoryEntry(created_by="ADD rootfs"),
        HistoryEntry(created_by="ENV A=b", empty_layer=True),
        HistoryEntry(created_by="RUN make"),
    )
    layers = [layer_inventory(file("x")), layer_inventory(file("y"), file("z"))]
    result = squashed(*layers, config=ImageConfig(history=history))
    assert [(each.command, each.compressed_bytes, each.entries) for each in result.layers] == [
        ("ADD rootfs", 100, 1),
        ("RUN make", 101, 2),
    ]
    assert [each.command for each in squashed(*layers, config=ImageConfig(history=history[:2])).layers] == ["", ""]
    assert [each.command for each in squashed(*layers).layers] == ["", ""]
    assert result.manifest == MANIFEST
    assert result.platform == "linux/amd64"


def test_no_layers_is_an_empty_inventory() -> None:
    assert squashed().packages == ()


# --- against really applying the layers --------------------------------------------------------------------------------


@dataclass
class Node:
    kind: str
    """dir, file or link."""
    value: str = ""
    """Content of a file, target of a link."""
    origins: dict[str, int] = field(default_factory=dict)


class ConflictError(Exception):
    """A member that no tool would write after the others of its layer."""


class NaiveImage:
    """A file system as a dictionary; layers are really applied to it, member by member."""

    def __init__(self) -> None:
        self.tree: dict[str, Node] = {}
        self.own: set[str] = set()
        self.used_links: set[str] = set()
        self.before: dict[str, Node] = {}

    def begin(self, whiteouts: set[str], opaques: set[str]) -> None:
        for path in list(self.tree):
            if any(path == gone or path.startswith(gone + "/") for gone in whiteouts) or any(
                path.startswith(f"{hidden}/" if hidden else "") for hidden in opaques
            ):
                del self.tree[path]
        self.own, self.used_links, self.before = set(), set(), dict(self.tree)

    def place(self, path: str) -> str:
        """The real path of a new member; its directories are made. Changes nothing when it raises ConflictError."""
        *todo, name = path.split("/")
        done: list[str] = []
        used: set[str] = set()
        hops = 0
        while todo:
            done.append(todo.pop(0))
            if done[-1] == "..":
                del done[-2:]
                continue
            here = "/".join(done)
            node = self.tree.get(here)
            if node is not None and node.kind == "link":
                used.add(here)
                hops += 1
                if hops > 10:
                    raise ConflictError
                done.pop()
                if node.value.startswith("/"):
                    done = []
                todo = [part for part in node.value.split("/") if part] + todo
            elif node is not None and node.kind == "file" and (here in self.own or used):
                raise ConflictError
        real = "/".join([*done, name])
        if real in self.own and not (self.tree[real].kind == "file" and name in {"db", "pkg"}):
            raise ConflictError
        if any(link == real or link.startswith(real + "/") for link in self.used_links | used):
            raise ConflictError
        for end in range(1, len(done) + 1):
            parent = "/".join(done[:end])
            if parent not in self.tree or self.tree[parent].kind == "file":
                self.tree[parent] = Node("dir")
            self.own.add(parent)
        self.used_links |= used
        self.own.add(real)
        return real

    def add(self, index: int, path: str, kind: str, value: str) -> None:
        real = self.place(path)
        if kind == "dir":
            if real not in self.tree or self.tree[real].kind != "dir":
                self.tree[real] = Node("dir")
            return
        old = self.before.get(real)
        for inner in [inner for inner in self.tree if inner.startswith(real + "/")]:
            del self.tree[inner]
        lines = value.splitlines() if kind == "file" and path.rpartition("/")[2] in {"db", "pkg"} else []
        known = old.origins if old is not None and old.kind == "file" else {}
        self.tree[real] = Node(kind, value, {line: known.get(line, index) for line in lines})

    def packages(self) -> Iterator[tuple[str, str, int]]:
        for path, node in self.tree.items():
            for line, origin in node.origins.items():
                yield path, line, origin


PARTS = st.sampled_from(["a", "b", "c"])
PLACES = st.lists(PARTS, min_size=0, max_size=2).map("/".join)
ANY_PATHS = st.builds(
    lambda place, name: f"{place}/{name}".strip("/"), PLACES, st.sampled_from(["a", "b", "c", "db", "pkg", "x"])
)
CONTENTS = st.lists(st.sampled_from(["p 1", "p 2", "q 1"]), unique=True).map("\n".join)
TARGETS = st.builds(lambda start, place: start + place, st.sampled_from(["", "/", "../"]), PLACES.filter(bool))
MEMBERS = st.one_of(
    st.tuples(st.just("file"), ANY_PATHS, CONTENTS),
    st.tuples(st.just("file"), ANY_PATHS, CONTENTS),
    st.tuples(st.just("dir"), PLACES.filter(bool), st.just("")),
    st.tuples(st.just("link"), st.builds(lambda place, name: f"{place}/{name}".strip("/"), PLACES, PARTS), TARGETS),
)
LAYERS = st.lists(
    st.tuples(
        st.sets(ANY_PATHS, max_size=2), st.sets(PLACES, max_size=1), st.lists(MEMBERS, max_size=6), st.booleans()
    ),
    min_size=1,
    max_size=5,
)
WRITERS = {
    "file": lambda path, value: file(path, value.encode()),
    "dir": lambda path, _value: directory(path),
    "link": symlink,
}


@settings(max_examples=400, deadline=None)
@given(LAYERS)
def test_squash_equals_really_applying_the_layers(
    stack: list[tuple[set[str], set[str], list[tuple[str, str, str]], bool]],
) -> None:
    naive = NaiveImage()
    inventories = []
    for index, (whiteouts, opaques, members, markers_last) in enumerate(stack):
        markers = [*map(whiteout, sorted(whiteouts)), *map(opaque, sorted(opaques))]
        naive.begin(whiteouts, opaques)
        written = []
        # Directories and links first and outer before inner, as every tool writes a tree.
        for kind, path, value in sorted(
            members, key=lambda member: (member[0] == "file", member[1].count("/"), member[1])
        ):
            try:
                naive.add(index, path, kind, value)
            except ConflictError:
                continue
            written.append(WRITERS[kind](path, value))
        entries = [*written, *markers] if markers_last else [*markers, *written]
        inventories.append(inventory_of(layer(*entries, compression="none"), catalogers=(DB, PKG)))
    result = squashed(*inventories)
    indexes = {layer_digest(index): index for index in range(len(stack))}
    seen = sorted(
        (each.package.path, f"{each.package.name} {each.package.version}", indexes[each.layer])
        for each in result.packages
    )
    assert seen == sorted(naive.packages())
