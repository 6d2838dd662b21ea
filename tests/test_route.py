"""Proxies, redirects, origins, pauses."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import DataError, NetworkError
from sensor.route import (
    METADATA_HOSTS,
    Route,
    host_matches,
    hosts_of,
    parse_url,
    redirect_target,
    retry_after,
    same_origin,
    shown_host,
)


@pytest.mark.parametrize(
    ("host", "pattern", "covered"),
    [
        ("registry.example", "registry.example", True),
        ("Registry.Example", "registry.EXAMPLE", True),
        ("a.example", ".example", True),
        ("a.example", "example", True),
        ("a.example", "*.example", True),
        ("badexample", "example", False),
        ("example.com", "example", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("::1", "::/64", True),
        ("registry", "10.0.0.0/8", False),
        ("anything", "*", True),
        ("anything", "", False),
    ],
)
def test_no_proxy_entries(host: str, pattern: str, covered: bool) -> None:
    assert host_matches(host, pattern) is covered


def test_each_route_chooses_its_proxy() -> None:
    route = Route(proxy="http://proxy:3128", no_proxy=("internal.example", "10.0.0.0/8"))
    assert route.proxy_for("registry.example") == "http://proxy:3128"
    assert route.proxy_for("a.internal.example") is None
    assert route.proxy_for("10.9.9.9") is None
    assert all(route.proxy_for(host) is None for host in METADATA_HOSTS)
    assert Route(proxy="direct").proxy_for("registry.example") is None
    assert Route().proxy_for("registry.example") is None


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/b?x=a%2Bb%2F%3D&y=%7E%28", "https://r.example:5000/b?x=a%2Bb%2F%3D&y=%7E%28"),
        ("b", "https://r.example:5000/v2/b"),
        ("https://storage.example/k?sig=%2F", "https://storage.example/k?sig=%2F"),
        ("//storage.example/k", "https://storage.example/k"),
    ],
)
def test_redirects_are_resolved_byte_for_byte(location: str, target: str) -> None:
    assert redirect_target("https://r.example:5000/v2/a", location) == target


@pytest.mark.parametrize(
    "location",
    [
        "ftp://x/",
        "file:///etc/passwd",
        "http://[::1",
        "https://h:99999/",
        "javascript:x",
        "https://eve:1@r.example/b",
        "//eve@r.example/b",
    ],
)
def test_unusable_redirects_are_refused(location: str) -> None:
    with pytest.raises(DataError, match="unusable"):
        redirect_target("https://r.example/", location)


def test_the_password_of_a_proxy_does_not_show() -> None:
    assert "pw" not in repr(Route(proxy="http://user:pw@proxy.example"))


def test_origins() -> None:
    assert same_origin("https://r.example/a", "https://R.example:443/b?c")
    assert not same_origin("https://r.example/", "http://r.example/")
    assert not same_origin("https://r.example/", "https://r.example:444/")
    assert not same_origin("https://r.example/", "https://r.example.evil/")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("7", 7), (" 12 ", 12), ("1.5", 1.5), ("-3", 0), ("1e300", 900), ("99999", 900), ("inf", 900)],
)
def test_pauses_in_seconds(text: str, seconds: float) -> None:
    assert retry_after({"retry-after": text}) == seconds


def test_pauses_as_dates_and_unix_times() -> None:
    assert retry_after({"retry-after": formatdate(time.time() + 100, usegmt=True)}) == pytest.approx(100, abs=2)
    assert retry_after({"retry-after": formatdate(time.time() - 100, usegmt=True)}) == 0
    assert retry_after({"x-retry-after": str(int(time.time()) + 50)}) == pytest.approx(50, abs=2)


@pytest.mark.parametrize("text", ["", "soon", "nan", "880.092µs", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_unreadable_pauses_are_none(text: str) -> None:
    assert retry_after({"retry-after": text}) is None
    assert retry_after({}) is None


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=100)
def test_no_pause_makes_it_raise(text: str) -> None:
    seconds = retry_after({"retry-after": text})
    assert seconds is None or 0 <= seconds <= 900


def test_hosts_are_shown_with_their_port_and_nothing_else() -> None:
    assert shown_host("https://user:pw@r.example:5000/x?y") == "r.example:5000"
    assert shown_host("https://r.example/x") == "r.example"
    assert shown_host("https://[::1]:5000/") == "[::1]:5000"
    assert shown_host("https://[::1") == "?"
    assert shown_host("nonsense") == "?"


@pytest.mark.parametrize("url", ["nonsense", "http://", "http://h:99999/", "http://[::1/", "mailto:x"])
def test_urls_that_cannot_be_asked(url: str) -> None:
    with pytest.raises(NetworkError, match="not a usable URL") as raised:
        parse_url(url)
    assert not raised.value.retryable


def test_names_of_addresses() -> None:
    given = (
        "https://A.example:5000/x",
        "b.example:5000",
        "oci:/path",
        "http://[::1]:1",
        "https://[broken",
        "",
        "a.example",
    )
    assert hosts_of(*given)[:2] == ("a.example", "b.example")
    assert "::1" in hosts_of(*given)
    assert hosts_of("https://[broken", "") == ()


def test_a_client_certificate_is_for_named_hosts() -> None:
    route = Route(client_certificate="/c.pem", client_hosts=("a.example",))
    assert route.is_known_to("A.example")
    assert not route.is_known_to("b.example")
    assert not Route(client_hosts=("a.example",)).is_known_to("a.example")
