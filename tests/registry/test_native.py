"""What all providers' own APIs share: names from page to page, and what bounds a listing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.config.schema import Registry
from sensor.errors import SensorError
from sensor.limits import Limits
from sensor.model.reference import is_repository
from sensor.registry.errors import (
    CannotEnumerate,
    NotARegistry,
    RegistryForbidden,
    RegistryNotFound,
    RegistryUnauthorized,
)
from sensor.registry.native import Names, api_fault, joined, parse_entry, wanted_namespaces
from sensor.registry.port import Listing

DIGEST = "sha256:" + "a" * 64


class Entry(msgspec.Struct):
    id: int


def names(**limits: int) -> Names:
    return Names(Limits(**limits), is_repository, source="an API")


def test_names_come_with_what_was_told_about_them() -> None:
    found = names()
    found.add("team/app", digest=DIGEST, pushed=1.0)
    found.add("team/app", withheld="archived")
    found.add("team/odd", digest="nonsense")
    for nonsense in (None, "", "CAPITALS", "team//app"):
        found.add(nonsense)
    listing = found.listing
    assert listing.names == ("team/app", "team/odd")
    assert listing.digests == {"team/app": DIGEST}
    assert listing.pushed == {"team/app": 1.0}
    assert listing.withheld == {"team/app": "archived"}
    assert (listing.dropped, listing.complete, listing.source) == (4, True, "an API")


def test_too_many_names_make_the_listing_partial() -> None:
    found = names(listing_entries=2)
    for name in ("a", "b", "c", "a"):
        found.add(name)
    assert found.listing.names == ("a", "b")
    assert found.listing.reason == "more than 2 names"
    assert not found.another_page()


def test_pages_without_end_are_left() -> None:
    found = names(pages=3)
    asked = 0
    while True:
        found.add(f"a{asked}")
        asked += 1
        if not found.another_page():
            break
    assert asked == 3
    assert "more than 3 pages" in found.listing.reason


def test_pages_that_bring_nothing_new_are_a_circle_unless_they_are_useful() -> None:
    found = names()
    found.add("a")
    assert [found.another_page() for _ in range(4)] == [True, True, True, False]
    assert "circle" in found.reason
    found = names()
    assert all(found.another_page(useful=True) for _ in range(20))


def test_a_cursor_that_comes_again_is_a_circle() -> None:
    found = names()
    found.add("a")
    assert found.another_page("x")
    found.add("b")
    assert found.another_page("y")
    found.add("c")
    assert not found.another_page("x")
    assert "circle" in found.listing.reason


def test_a_name_that_moved_while_it_was_listed_stands_for_what_was_told_last() -> None:
    old, new = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
    found = names()
    found.add("a", digest=old, pushed=1.0, withheld="locked")
    found.add("a", digest=new)
    found.add("a")  # tells nothing
    listing = found.listing
    assert (listing.names, listing.digests) == (("a",), {"a": new})
    assert not listing.pushed
    assert not listing.withheld


def test_the_first_reason_is_kept() -> None:
    found = names()
    found.partial("one")
    found.partial("two")
    assert found.listing.reason == "one"


@pytest.mark.parametrize("raw", [b"{", b"[]", b'{"id": "x"}', b"\xff", b"[" * 5000])
def test_an_odd_entry_is_none(raw: bytes) -> None:
    assert parse_entry(msgspec.Raw(b'{"id": 7}'), Entry) == Entry(id=7)
    assert parse_entry(msgspec.Raw(raw), Entry) is None


def test_listings_are_joined() -> None:
    whole = Listing(names=("a", "b"), dropped=1)
    part = Listing(names=("b", "c"), complete=False, reason="denied", dropped=2)
    both = joined([whole, part], source="an API")
    assert (both.names, both.complete, both.reason, both.dropped) == (("a", "b", "c"), False, "denied", 3)
    assert joined([whole], source="").complete


def configured(**repositories: object) -> Registry:
    return Registry.model_validate({"name": "one", "url": "registry.example", "repositories": repositories})


@pytest.mark.parametrize(
    ("repositories", "namespace", "wanted"),
    [
        ({}, "", ()),
        ({}, "team", ("team",)),
        ({"namespaces": ["/a/", "b", "a", "/"]}, "team", ("a", "b")),
        ({"include": ["team/app", "ops/**"]}, "", ("team/app", "ops")),
        ({"include": ["team/sub/*", "team/sub/[ab]", "team/sub/x?"]}, "", ("team/sub",)),
        ({"include": ["team/*", "*/app"]}, "", ()),
        ({"include": ["**/app"]}, "", ()),
        ({"include": ["team-*/app"]}, "", ()),
        ({"include": []}, "", ()),
        ({"include": ["team/*"]}, "other", ("other",)),
    ],
)
def test_what_bounds_a_listing(repositories: dict[str, object], namespace: str, wanted: tuple[str, ...]) -> None:
    assert wanted_namespaces(configured(**repositories), namespace) == wanted


@given(st.lists(st.text(alphabet="ab/*?[]!", min_size=1, max_size=12), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_no_bound_holds_a_wildcard(patterns: list[str]) -> None:
    for bound in wanted_namespaces(configured(include=patterns)):
        assert bound
        assert not set("*?[]") & set(bound)
        assert not bound.startswith("/")


def refused_by(cause: SensorError) -> CannotEnumerate:
    try:
        try:
            raise cause
        except SensorError as error:
            raise CannotEnumerate("the API cannot be used") from error
    except CannotEnumerate as outer:
        return outer


@pytest.mark.parametrize(
    ("api", "cause", "says"),
    [
        (
            {"token": "t"},
            RegistryUnauthorized("authentication failed: status 401"),
            "api.token was refused: status 401",
        ),
        ({"username": "u", "password": "p"}, RegistryUnauthorized("no"), "api.password was refused: no"),
        ({"token": "t"}, RegistryForbidden("status 403"), "api.token has not the right: status 403"),
        ({"url": "https://g.example"}, NotARegistry("a page"), "api.url answers with a web page: a page"),
        ({"url": "https://g.example"}, RegistryNotFound("404"), "api.url does not answer as the API does: 404"),
        ({}, RegistryUnauthorized("no"), ""),
        ({"url": "https://g.example"}, RegistryUnauthorized("no"), ""),
        ({"token": "t"}, NotARegistry("a page"), ""),
    ],
)
def test_a_fault_of_the_apis_settings_is_named(api: dict[str, Any], cause: SensorError, says: str) -> None:
    settings = Registry.model_validate({"name": "r", "url": "r.example", "api": api})
    assert api_fault(settings, refused_by(cause)) == says


def test_errors_that_are_each_others_cause_end_somewhere() -> None:
    first, second = SensorError("one"), SensorError("two")
    first.__cause__, second.__cause__ = second, first
    configured = Registry.model_validate({"name": "a", "url": "a.example", "api": {"token": {"env": "T"}}})
    assert api_fault(configured, first) == ""
    lone = SensorError("alone")
    lone.__cause__ = lone
    assert api_fault(configured, lone) == ""
