"""Link headers, and when a listing is not believed any longer."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.limits import Limits
from sensor.registry.errors import UnexpectedAnswer
from sensor.registry.pages import (
    is_listed_tag,
    next_link,
    parse_page,
    repository_paging,
    tag_paging,
)

BASE = "https://registry.example/v2/_catalog"


@pytest.mark.parametrize(
    ("headers", "target"),
    [
        ([], None),
        ([""], None),
        (['</v2/_catalog?last=b&n=1>; rel="next"'], "/v2/_catalog?last=b&n=1"),
        (["</a>;rel=next"], "/a"),
        (["</a>; REL=NEXT"], "/a"),
        (['</prev>; rel="prev", </next?a=1,2>; rel="next"'], "/next?a=1,2"),
        (["</prev>; rel=prev", '</n>; title="x, y"; rel="next"'], "/n"),
        (['</n>; rel="last next"'], "/n"),
        (['</n>; rel="nextish"', "</n>; rel=nexts", "</n>"], None),
        (["/n; rel=next", "<"], None),
    ],
)
def test_finds_the_next_link(headers: list[str], target: str | None) -> None:
    assert next_link(headers) == target


@pytest.mark.parametrize("piece", ["<", "<>", "<>;", '<>;a="', "<a>; rel", "<a>;  ", ";", "<a>;a=b "])
def test_a_hostile_link_is_read_in_no_time(piece: str) -> None:
    begun = time.monotonic()
    next_link([piece * 100_000])
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize(
    ("link", "following"),
    [
        ("/v2/_catalog?last=a", "https://registry.example/v2/_catalog?last=a"),
        ("?last=a", "https://registry.example/v2/_catalog?last=a"),
        ("_catalog?last=a%2Fb%3D", "https://registry.example/v2/_catalog?last=a%2Fb%3D"),
        ("https://registry.example/v2/_catalog?last=a", "https://registry.example/v2/_catalog?last=a"),
        ("http://registry.example:5000/v2/_catalog?last=a", "https://registry.example/v2/_catalog?last=a"),
        ("https://evil.example/v2/_catalog", None),
        ("//evil.example/v2/_catalog", None),
        ("https://registry.example@evil.example/v2/_catalog", None),
        ("https://user@registry.example/v2/_catalog?a", None),
        ("/v2/other/tags/list", None),
        ("/v2/_catalog/../../admin", None),
        ("/api/v2/_catalog", None),
        ("javascript:alert(1)", None),
        ("https://[::1/v2/_catalog", None),
    ],
)
def test_only_the_registrys_own_pages_are_followed(link: str, following: str | None) -> None:
    paging = repository_paging(BASE, prefix="/v2/_catalog", limits=Limits())
    assert paging.after(BASE, ["a"], [f"<{link}>; rel=next"]) == following
    assert paging.listing.complete == (following is not None)
    assert ("outside the registry" in paging.listing.reason) == (following is None)


def test_a_circle_of_several_pages_is_noticed() -> None:
    paging = repository_paging(BASE, prefix="/v2/_catalog", limits=Limits())
    url: str | None = BASE
    for n in range(2):
        assert url is not None
        url = paging.after(url, [f"a{n}"], [f"<?p={n}>; rel=next"])
    assert url == f"{BASE}?p=1"
    assert paging.after(url, ["a2"], ["<?p=0>; rel=next"]) is None
    assert paging.listing.names == ("a0", "a1", "a2")
    assert paging.listing.reason == "the pages go in a circle"


def test_many_empty_pages_are_a_circle_but_a_few_are_not() -> None:
    paging = repository_paging(BASE, prefix="/v2/_catalog", limits=Limits())
    url: str | None = BASE
    pages = 0
    while url is not None:
        url = paging.after(url, [], [f"<?p={pages}>; rel=next"])
        pages += 1
    assert pages == 100
    assert not paging.listing.complete


def test_a_page_limit_that_is_just_reached_is_complete() -> None:
    paging = repository_paging(BASE, prefix="/v2/_catalog", limits=Limits(pages=2, listing_entries=2))
    second = paging.after(BASE, ["a"], ["<?p=1>; rel=next"])
    assert second is not None
    assert paging.after(second, ["b"], []) is None
    assert paging.listing.complete


def test_a_listing_that_broke_keeps_the_first_reason() -> None:
    paging = tag_paging(BASE, prefix="/", limits=Limits())
    paging.after(BASE, ["v1"], [])
    paging.broken("first")
    paging.broken("second")
    assert paging.listing.reason == "first"
    assert paging.listing.names == ("v1",)


def test_bad_repository_names_are_dropped() -> None:
    paging = repository_paging(BASE, prefix="/", limits=Limits())
    paging.after(BASE, ["ok/name", "Bad", "", None, "a//b", 3, "ok/name"], [])
    assert paging.listing.names == ("ok/name",)
    assert paging.listing.dropped == 5


@pytest.mark.parametrize("body", [b"", b"null", b"3", b"[]", b'{"tags":"x"}', b"\xff", b'{"tags":' + b"[" * 5000])
def test_what_is_no_page_is_refused(body: bytes) -> None:
    with pytest.raises(UnexpectedAnswer, match="not a list of tags"):
        parse_page(body, "tags", BASE + "?secret=1")


def test_a_page_without_the_list_is_empty() -> None:
    assert parse_page(b"{}", "tags", BASE) == []
    assert parse_page(b'{"tags":null}', "tags", BASE) == []
    assert parse_page(b'{"repositories":["a"],"tags":["b"]}', "repositories", BASE) == ["a"]


def test_digests_are_no_tags() -> None:
    assert is_listed_tag("v1")
    assert not is_listed_tag(f"sha256:{'0' * 64}")


@given(st.lists(st.one_of(st.none(), st.text(max_size=12), st.integers()), max_size=20), st.text(max_size=60))
@settings(deadline=None, max_examples=150)
def test_no_page_makes_it_raise_or_leave_home(entries: list[object], link: str) -> None:
    paging = tag_paging(BASE, prefix="/v2/", limits=Limits())
    following = paging.after(BASE, entries, [f"<{link}>; rel=next"])
    assert following is None or following.startswith("https://registry.example/v2/")
    assert all(isinstance(name, str) and name for name in paging.listing.names)
