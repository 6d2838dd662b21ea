"""Statuses to errors, and texts from outside made harmless."""

from __future__ import annotations

import pytest

from sensor.errors import RegistryError
from sensor.registry.errors import (
    ImageWithheld,
    NotARegistry,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    RegistryUnavailable,
    UnexpectedAnswer,
    answer_error,
    as_refused_login,
    error_codes,
    error_detail,
    inert,
    is_html,
    shown_url,
)

URL = "https://user:pw@registry.example/v2/a/manifests/v1?X-Signature=secret#frag"


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, UnexpectedAnswer, False),
        (401, RegistryUnauthorized, False),
        (403, RegistryForbidden, False),
        (404, RegistryNotFound, False),
        (405, UnexpectedAnswer, False),
        (408, RegistryUnavailable, True),
        (412, ImageWithheld, False),
        (429, RegistryRateLimited, True),
        (451, RegistryForbidden, False),
        (500, RegistryUnavailable, True),
        (503, RegistryUnavailable, True),
        (302, UnexpectedAnswer, False),
        (204, UnexpectedAnswer, False),
    ],
)
def test_each_status_has_its_error(status: int, kind: type[RegistryError], retryable: bool) -> None:
    error = answer_error("GET", URL, status, b'{"errors":[{"code":"DENIED","message":"why"}]}', retry_after=7.0)
    assert type(error) is kind
    assert error.retryable is retryable
    assert error.advice
    assert f"GET https://registry.example/v2/a/manifests/v1: status {status}, DENIED: why" in error.message
    assert error.retry_after == (7.0 if retryable else None)


@pytest.mark.parametrize("status", [404, 405, 418])
def test_a_web_page_means_a_wrong_address(status: int) -> None:
    error = answer_error("GET", URL, status, b"  <!DOCTYPE html><html>...")
    assert isinstance(error, NotARegistry)
    assert "<html" not in str(error)


@pytest.mark.parametrize(
    "body",
    [
        b"Client sent an HTTP request to an HTTPS server.\n",
        b"<html><title>400 The plain HTTP request was sent to HTTPS port</title></html>",
    ],
)
def test_plain_http_to_a_tls_port_is_recognised(body: bytes) -> None:
    error = answer_error("GET", "http://r/v2/", 400, body)
    assert "speaks TLS" in error.message
    assert "https://" in error.advice


def test_urls_are_shown_without_anything_secret() -> None:
    assert shown_url(URL) == "https://registry.example/v2/a/manifests/v1"
    assert shown_url("https://[::1/x") == "an unreadable URL"
    assert "\x1b" not in shown_url("https://r/\x1b[31mred")


def test_the_wording_for_a_refused_login_stands_once() -> None:
    assert as_refused_login("status 401") == "authentication failed: status 401"
    assert as_refused_login("authentication failed: status 401") == "authentication failed: status 401"


def test_details_are_cut_and_inert() -> None:
    assert error_detail(b"plain words\x1b[2J\n") == "plain words [2J"
    assert len(error_detail(b"x" * 10_000)) == 300
    assert error_detail(b"") == ""
    assert error_detail(b'{"errors":') == ""
    assert error_detail(b"\xff\xfe") == "��"
    assert error_detail(b'{"errors":[{"code":"A"},{"message":"b"},{},{"code":"D"}]}') == "A; b;"
    assert inert("a\nb\x00") == "a b"


def test_codes_are_read_where_there_are_any() -> None:
    assert error_codes(b'{"errors":[{"code":"name_unknown"}]}') == {"NAME_UNKNOWN"}
    assert error_codes(b"nonsense") == frozenset()
    assert error_codes(b"{}") == frozenset()


def test_web_pages_are_told_by_type_or_by_looks() -> None:
    assert is_html(b"", "text/html; charset=utf-8")
    assert is_html(b"\n <HTML>")
    assert not is_html(b"{}", "application/json")
