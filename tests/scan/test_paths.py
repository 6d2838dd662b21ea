from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.scan.paths import PathList, listed_paths, path_text, resolved, resolved_parent

LINKS = {
    "lib": "usr/lib",
    "var/lib/rpm": "../../usr/lib/sysimage/rpm",
    "abs": "/usr/./share//doc",
    "up": "../../../etc",
    "chain": "lib/chain2",
    "usr/lib/chain2": "../share",
    "loop": "loop2",
    "loop2": "/loop",
    "self": "self/x",
    "root": "/",
}


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("lib/db", "usr/lib/db"),
        ("lib", "lib"),
        ("lib/chain2", "usr/lib/chain2"),
        ("var/lib/rpm/db", "usr/lib/sysimage/rpm/db"),
        ("abs/x", "usr/share/doc/x"),
        ("up/passwd", "etc/passwd"),
        ("chain/x", "usr/share/x"),
        ("root/x", "x"),
        ("root/lib/x", "usr/lib/x"),
        ("loop/x", "loop/x"),
        ("self/x", "self/x"),
        ("plain/x", "plain/x"),
        ("x", "x"),
    ],
)
def test_where_a_path_really_lies(path: str, where: str) -> None:
    assert resolved_parent(path, LINKS) == where


def test_following_everything() -> None:
    assert resolved("lib", LINKS) == "usr/lib"
    assert resolved("loop", LINKS) is None
    assert resolved("root", LINKS) == ""
    assert resolved("a/../b/./c", LINKS) == "b/c"


def test_hops_are_bounded_as_in_linux() -> None:
    chain = {f"l{index}": f"l{index + 1}" for index in range(40)}
    assert resolved("l0", chain) == "l40"
    assert resolved("l0", {**chain, "l40": "l41"}) is None


def test_long_chains_are_given_up_early() -> None:
    wide = {f"l{index}": "/".join([f"l{index + 1}"] + ["x" * 200] * 200) for index in range(30)}
    assert resolved("l0/y", wide) is None or len(resolved("l0/y", wide) or "") < 2_000_000
    doubling = {f"{index}": f"{index + 1}/{index + 1}" for index in range(30)}
    assert resolved("0", doubling) in {None, "30"} or resolved("0", doubling)


def test_bytes_that_are_no_text_stay_distinct() -> None:
    assert path_text(b"a/\xff") == "a/\\xff"
    assert path_text("\u00e9".encode()) == "\u00e9"
    assert path_text(b"\xfe") != path_text(b"\xff")


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=30).filter(lambda path: b"\0" not in path), max_size=50),
    st.integers(1, 200),
)
def test_lists_come_back_in_their_order(paths: list[bytes], times: int) -> None:
    collected = PathList()
    for _ in range(times):
        for path in paths:
            collected.add(path)
    assert [path for batch in listed_paths(collected.finish()) for path in batch] == paths * times


def test_an_empty_list_takes_no_bytes_and_a_cut_one_ends() -> None:
    assert PathList().finish() == b""
    assert list(listed_paths(b"")) == []
    collected = PathList()
    for index in range(10_000):
        collected.add(b"%d" % index)
    blob = collected.finish()
    read = [path for batch in listed_paths(blob[: len(blob) // 2]) for path in batch]
    assert read == [b"%d" % index for index in range(len(read))]
