"""Hosts, projects and repositories of Google, read from text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.registry.kinds.gar_places import Host, Place, image_name, literal_paths, read_host, read_place

GCR = Host(location="us", gcr="gcr.io")
EUROPE = Host(location="europe")
DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "host", "expected"),
    [
        ("proj", EUROPE, Place(project="proj", path="proj")),
        ("/proj/repo/", EUROPE, Place(project="proj", repository="repo", path="proj/repo")),
        ("proj/repo/team/app", EUROPE, Place(project="proj", repository="repo", path="proj/repo/team/app")),
        ("proj/repo", None, Place(project="proj", repository="repo", path="proj/repo")),
        ("example.com/proj/repo", EUROPE, Place(project="example.com:proj", repository="repo", path="example.com/proj/repo")),
        ("example.com:proj/repo", EUROPE, Place(project="example.com:proj", repository="repo", path="example.com/proj/repo")),
        ("example.com:proj", EUROPE, Place(project="example.com:proj", path="example.com/proj")),
        ("proj", GCR, Place(project="proj", repository="gcr.io", path="proj")),
        ("proj/team", GCR, Place(project="proj", repository="gcr.io", path="proj/team")),
        ("example.com/proj", GCR, Place(project="example.com:proj", repository="gcr.io", path="example.com/proj")),
        ("", EUROPE, None),
        ("example.com", EUROPE, None),
        ("Proj", EUROPE, None),
        ("proj/Repo", EUROPE, None),
        ("proj?x=1", EUROPE, None),
        ("..", EUROPE, None),
        ("proj/../other", EUROPE, None),
    ],
)  # fmt: skip
def test_reads_places(text: str, host: Host | None, expected: Place | None) -> None:
    assert read_place(text, host) == expected


def test_a_place_covers_what_lies_below_it() -> None:
    place = Place(project="proj", repository="repo", path="proj/repo/team")
    assert place.covers("proj/repo/team")
    assert place.covers("proj/repo/team/app")
    assert not place.covers("proj/repo/teams")
    assert Place(project="example.com:proj", path="x").project_path == "example.com/proj"


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("proj/repo/**",), ("proj/repo",)),
        (("proj/app-*", "proj/x?/y"), ("proj",)),
        (("proj/repo/app", "other/**"), ("proj/repo/app", "other")),
        (("proj/**", "*"), ()),
        (("[ab]/x",), ()),
        ((), ()),
    ],
)
def test_patterns_name_places_when_all_of_them_begin_with_one(
    patterns: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert literal_paths(patterns) == expected


@pytest.mark.parametrize(
    ("uri", "place", "repository", "host", "expected"),
    [
        ("europe-docker.pkg.dev/proj/repo/a/b", "proj", "repo", EUROPE, "proj/repo/a/b"),
        ("registry.example.com/proj/repo/a", "proj", "repo", None, "proj/repo/a"),
        ("europe-docker.pkg.dev/example.com:proj/repo/a", "example.com/proj", "repo", EUROPE, "example.com/proj/repo/a"),
        ("europe-docker.pkg.dev/example.com/proj/repo/a", "example.com/proj", "repo", EUROPE, "example.com/proj/repo/a"),
        ("gcr.io/proj/a", "proj", "gcr.io", GCR, "proj/a"),
        ("gcr.io/proj/gcr.io/a", "proj", "gcr.io", GCR, "proj/gcr.io/a"),
        ("us-docker.pkg.dev/proj/gcr.io/a/b", "proj", "gcr.io", GCR, "proj/a/b"),
        ("europe-docker.pkg.dev/proj/repo/a%2Fb", "proj", "repo", EUROPE, "proj/repo/a/b"),
        ("europe-docker.pkg.dev/other/repo/a", "proj", "repo", EUROPE, ""),
        ("gcr.io/other/a", "proj", "gcr.io", GCR, ""),
        ("proj", "proj", "repo", EUROPE, ""),
    ],
)  # fmt: skip
def test_names_of_images_are_those_of_references(
    uri: str, place: str, repository: str, host: Host | None, expected: str
) -> None:
    within = read_place(place, host)
    assert within is not None
    assert image_name(f"{uri}@{DIGEST}", within, repository, host) == ((expected, DIGEST) if expected else ("", ""))


def test_an_image_without_a_digest_is_none() -> None:
    place = Place(project="proj", path="proj")
    assert image_name("europe-docker.pkg.dev/proj/repo/a", place, "repo", EUROPE) == ("", "")


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60), patterns=st.lists(st.text(max_size=20), max_size=3))
def test_any_text_is_taken(text: str, patterns: list[str]) -> None:
    for host in (None, EUROPE, GCR):
        place = read_place(text, host)
        if place is not None:
            assert ".." not in place.project.split("/")
            name, _ = image_name(text, place, place.repository or "repo", host)
            assert not name or name.startswith(f"{place.project_path}/")
    assert read_host(text) is None or text.endswith((".pkg.dev", "gcr.io"))
    assert all(literal_paths(patterns))
