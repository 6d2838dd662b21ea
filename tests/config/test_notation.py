from datetime import UTC

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.config.notation import (
    check_cron,
    check_glob,
    has_host,
    is_host_port,
    is_listen_address,
    is_loopback,
    on_disk,
    split_url,
)
from sensor.errors import ConfigError
from sensor.triggers.schedule import parse_cron

FIELD = st.one_of(
    st.just("*"),
    st.integers(0, 70).map(str),
    st.tuples(st.integers(0, 31), st.integers(0, 62)).map(lambda ends: f"{ends[0]}-{ends[1]}"),
    st.integers(0, 62).map(lambda step: f"*/{step}"),
    st.sampled_from(
        [
            "mon",
            "SUN",
            "sat-sun",
            "jan",
            "feb-dec",
            "1,2,3",
            "1-5/2",
            "",
            "1,,2",
            "a",
            "-1",
            "1-2-3",
            "*/x",
            "5/2",
            "7",
            "0-7",
        ]
    ),
)


@settings(deadline=None, max_examples=400)
@given(st.tuples(FIELD, FIELD, FIELD, FIELD, FIELD).map(" ".join))
def test_an_expression_found_good_is_one_the_scheduler_takes(expression: str) -> None:
    if not check_cron(expression):
        assert parse_cron(expression, UTC) is not None
    else:
        assert check_cron(expression).count("\n") == 0


@pytest.mark.parametrize(
    "expression",
    ["30 2 * * 1-5", "*/15 * * * *", "0 0 1 jan sun", "0 4 * * 7", "0,30 8-18 * * mon-fri", "5 4 1-15/3 * *"],
)
def test_good_expressions(expression: str) -> None:
    assert check_cron(expression) == ""
    assert parse_cron(expression, UTC) is not None


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("", "found 0"),
        ("* * * *", "found 4"),
        ("@daily", "found 1"),
        ("* * * * * *", "found 6"),
        ("60 * * * *", "minute: expected *, or numbers from 0 to 59"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day"),
        ("* * * 13 *", "month"),
        ("* * * * 8", "weekday"),
        ("5-1 * * * *", "a range must rise"),
        ("1-2-3 * * * *", "a range must rise"),
        ("*/0 * * * *", "the step after /"),
        ("*/60 * * * *", "the step after /"),
        ("1, * * * *", "minute"),
    ],
)
def test_bad_expressions(expression: str, expected: str) -> None:
    assert expected in check_cron(expression)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_no_text_breaks_the_cron_check(text: str) -> None:
    if not check_cron(text):
        try:
            parse_cron(text, UTC)
        except ConfigError:
            pytest.fail("the scheduler refuses what was found good")


@pytest.mark.parametrize(
    "pattern", ["*", "**", "acme/*", "v[0-9]*", "[!a-z]?", "[]a]", "a-b", "release-[0-9].[0-9]", "[-a]", "[a-]"]
)
def test_good_patterns(pattern: str) -> None:
    assert check_glob(pattern) == ""


@pytest.mark.parametrize("pattern", ["", "[a", "a[", "[]", "[!]", "[z-a]", "x" * 513, "a\nb", "a\x1b[2J"])
def test_bad_patterns(pattern: str) -> None:
    assert check_glob(pattern)


@given(st.text("[]!-*?az09", max_size=30))
def test_no_pattern_breaks_the_check(pattern: str) -> None:
    assert isinstance(check_glob(pattern), str)


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("registry.example.net", True),
        ("registry.example.net:5000", True),
        ("https://[::1]:5000", True),
        ("10.0.0.1", True),
        ("http://:80", False),
        ("https://", False),
        ("host:0", False),
        ("-host", False),
        ("https://a_b.example", True),
    ],
)
def test_a_url_names_a_host(url: str, good: bool) -> None:
    split = split_url(url)
    assert (split is not None and has_host(split)) is good


@pytest.mark.parametrize("text", ["host:port", "host:99999", "a b", "http://a\nb", "http://[::1", "\x00"])
def test_what_cannot_be_a_url(text: str) -> None:
    assert split_url(text) is None


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("a.example", True),
        ("a.example:443", True),
        ("[::1]:5000", True),
        ("https://a", False),
        ("a/b", False),
        ("u@a", False),
        ("", False),
        ("a:b", False),
    ],
)
def test_host_and_port(text: str, good: bool) -> None:
    assert is_host_port(text) is good


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("127.0.0.1:9180", True),
        ("[::]:0", True),
        ("localhost:65535", True),
        (":9180", False),
        ("9180", False),
        ("a:65536", False),
        ("a:-1", False),
        ("::1", False),
    ],
)
def test_listen_addresses(text: str, good: bool) -> None:
    assert is_listen_address(text) is good


def test_loopback() -> None:
    assert [is_loopback(host) for host in ("localhost", "127.0.0.9", "::1", "10.0.0.1", "example.net")] == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("oci:/images", ("oci", "/images")),
        ("archive:///images", ("archive", "/images")),
        ("oci-archive:x.tar", ("oci-archive", "x.tar")),
        ("docker-archive:/x.tar:app:1", ("docker-archive", "/x.tar:app:1")),
        ("archive:", ("archive", "")),
        ("archive", None),
        ("", None),
        ("archive.example:5000/x", None),
        ("https://oci:443/x", None),
        ("OCI:/images", None),
    ],
)
def test_registries_on_disk_are_told_by_their_scheme(url: str, place: tuple[str, str] | None) -> None:
    assert on_disk(url) == place
