"""What Test Connection makes of errors, answers, tokens and dates. What it does about them is in test_check."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import ConfigError, DataError, NetworkError, RegistryError, SecretError, SensorError
from sensor.failures import ProxyRefused, ProxyUnreachable, Refused, TimedOut, Unresolved
from sensor.registry.check_findings import (
    clock_skew,
    clock_words,
    is_odd_base,
    judge_base,
    judge_login,
    method_notices,
    pause_words,
    problem_of,
    standing_notices,
    step_of,
)
from sensor.registry.check_report import Report, describe_report, shown_time
from sensor.registry.errors import (
    CannotEnumerate,
    ImageWithheld,
    NotARegistry,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    RegistryUnavailable,
    UnexpectedAnswer,
)
from sensor.registry.login import Accepted
from sensor.registry.port import Method, Standing
from sensor.registry.tokens import Token
from sensor.secret import Secret
from sensor.tls import Expired, NotTls, TlsOnly, Untrusted, WrongName
from sensor.transport import Reply
from tests.registry.test_tokens import jwt

NOW = 1_800_000_000.0


def reply(status: int = 200, body: bytes = b"", url: str = "https://r.example/v2/", **headers: str) -> Reply:
    return Reply(
        status=status, url=url, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


@pytest.mark.parametrize(
    ("error", "word", "step"),
    [
        (Unresolved("x"), "dns", "resolve"),
        (Refused("x"), "refused", "connect"),
        (TimedOut("x"), "timeout", "connect"),
        (ProxyRefused("x", retryable=False), "proxy_refused", "connect"),
        (ProxyUnreachable("x"), "proxy_unreachable", "connect"),
        (Untrusted("x"), "tls_untrusted", "tls"),
        (Expired("x"), "tls_expired", "tls"),
        (WrongName("x"), "tls_name", "tls"),
        (NotTls("x"), "not_tls", "tls"),
        (TlsOnly("x"), "tls_only", "tls"),
        (NetworkError("x"), "network", "ping"),
        (NetworkError("TLS failed", retryable=False), "network", "tls"),
        (NotARegistry("x"), "not_a_registry", "ping"),
        (RegistryUnauthorized("reachable but unauthenticated: x"), "unauthenticated", "ping"),
        (RegistryUnauthorized("authentication failed: x"), "authentication_failed", "ping"),
        (RegistryForbidden("x"), "forbidden", "ping"),
        (RegistryNotFound("x"), "not_found", "ping"),
        (CannotEnumerate("x"), "cannot_list", "ping"),
        (RegistryRateLimited("x"), "rate_limited", "ping"),
        (RegistryUnavailable("x"), "out_of_order", "ping"),
        (ImageWithheld("x"), "withheld", "ping"),
        (UnexpectedAnswer("x"), "unexpected_answer", "ping"),
        (SecretError("x"), "credential_unreadable", "login"),
        (ConfigError("x"), "configuration", "tls"),
        (DataError("x"), "broken_answer", "ping"),
        (RegistryError("x"), "unexpected_answer", "ping"),
    ],
)
def test_every_error_has_a_word_and_a_step(error: SensorError, word: str, step: str) -> None:
    assert problem_of(error) == word
    assert step_of(error) == step


def test_a_silent_server_was_reached() -> None:
    silent = TimedOut("x")
    silent.connected = True
    assert step_of(silent) == "ping"


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (reply(407), ProxyRefused, "status 407"),
        (reply(200, b"<!doctype html><title>A &lt;b&gt;\x1b[2J</title>"), NotARegistry, "('A <b> [2J')"),
        (reply(200, b"x", content_type="text/html"), NotARegistry, "a web page instead"),
        (reply(511, b"log in"), NotARegistry, "status 511"),
        (reply(403, b"<html>blocked"), RegistryForbidden, "status 403, a web page"),
        (
            reply(302, location="https://r.example:8443/login"),
            NotARegistry,
            "redirected to https://r.example:8443/login",
        ),
        (reply(302, location="https://sso.example/?state=secret"), NotARegistry, "another host, https://sso.example/"),
        (reply(301, url="http://r.example/v2/", location="https://r.example/v2/"), TlsOnly, "redirected to https"),
        (reply(301, location="https://[broken"), NotARegistry, "unusable"),
    ],
)
def test_answers_that_are_no_registrys(answer: Reply, kind: type[SensorError], words: str) -> None:
    found = judge_base(answer)
    assert isinstance(found, kind)
    assert words in found.message
    assert found.advice
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, b"{}"),
        reply(401, b"<html>", content_type="text/html"),
        reply(404),
        reply(301),
        reply(403, b"<html>", docker_distribution_api_version="registry/2.0"),
        reply(403, b'{"errors":[]}'),
    ],
)
def test_answers_that_may_be_a_registrys(answer: Reply) -> None:
    assert judge_base(answer) is None


@given(st.binary(max_size=300), st.integers(100, 599), st.text(max_size=40), st.text(max_size=40))
@settings(deadline=None, max_examples=150)
def test_no_answer_makes_it_raise(body: bytes, status: int, kind: str, location: str) -> None:
    answer = reply(status, body, content_type=kind, location=location, date=location, age=kind)
    found = judge_base(answer)
    assert found is None or found.message.isprintable()
    assert isinstance(is_odd_base(answer), bool)
    assert clock_skew(answer, NOW) is None or location


@pytest.mark.parametrize("body", [b"", b"{}", b" {}\n", b"true", b"null", b"[]", b"0"])
def test_bodies_that_registries_send(body: bytes) -> None:
    assert not is_odd_base(reply(200, body))


@pytest.mark.parametrize("body", [b'{"a": 1}', b"hello", b"\xff\xfe", b"[" * 100_000])
def test_bodies_that_only_others_send(body: bytes) -> None:
    assert is_odd_base(reply(200, body))
    assert not is_odd_base(reply(200, body, docker_distribution_api_version="registry/2.0"))
    assert not is_odd_base(reply(401, body))


def with_token(text: str) -> Accepted:
    return Accepted(way="token", token=Token(value=Secret(text), renew_at=0.0))


@pytest.mark.parametrize(
    ("accepted", "open_base", "proven"),
    [
        (None, False, None),
        (Accepted(way="nothing"), True, None),
        (Accepted(way="basic"), True, True),
        (Accepted(way="static"), False, True),
        (Accepted(way="static"), True, None),
        (Accepted(way="token"), False, None),
        (with_token("opaque"), False, None),
        (with_token(jwt({"sub": "ci"})), False, True),
        (with_token(jwt({"sub": ""})), False, False),
        (with_token(jwt({"sub": "(anonymous)"})), False, False),
        (with_token(jwt({"sub": "jfrt@01/users/anonymous"})), False, False),
        (with_token(jwt({"iss": "x"})), False, None),
    ],
)
def test_only_the_credential_itself_proves_a_login(
    accepted: Accepted | None, open_base: bool, proven: bool | None
) -> None:
    found, reason = judge_login(accepted, open_base=open_base)
    assert found is proven
    assert reason


@pytest.mark.parametrize(
    ("expires", "code", "words"),
    [
        (NOW - 1, "expired", "has expired on 2027-01-15T07:59:59Z"),
        (NOW + 86400 * 1.5, "expires_soon", "in 1 day"),
        (NOW + 14 * 86400, "expires_soon", "in 14 days"),
        (NOW + 3600, "expires_soon", "in less than a day"),
    ],
)
def test_the_end_of_a_credential_is_told_14_days_ahead(expires: float, code: str, words: str) -> None:
    (notice,) = standing_notices(Standing(expires=expires), NOW)
    assert notice.code == code
    assert words in notice.message
    assert notice.advice


def test_a_credential_that_holds_needs_no_word() -> None:
    for standing in (Standing(), Standing(expires=NOW + 15 * 86400, may_write=False), Standing(expires=1e20)):
        assert standing_notices(standing, NOW) == []
    (notice,) = standing_notices(Standing(may_write=True), NOW)
    assert notice.message == "the credential could push or delete; a sensor needs neither"


def test_a_way_of_logging_in_is_complained_about() -> None:
    assert method_notices(Method(name="robot")) == []
    notices = method_notices(Method(name="GitHub App", pulls=False, lists=False, complaint="no app id"))
    assert [notice.code for notice in notices] == ["credential_form", "cannot_pull_private", "cannot_list"]
    assert notices[0].message == "no app id"
    assert "GitHub App" in notices[1].message


def test_the_difference_of_clocks() -> None:
    date = formatdate(NOW - 600, usegmt=True)
    assert clock_skew(reply(date=date), NOW) == 600
    assert clock_skew(reply(date=date, age="540"), NOW) == 60
    assert clock_skew(reply(date=date, age="x"), NOW) == 600
    assert clock_skew(reply(), NOW) is None
    assert clock_skew(reply(date="yesterday"), NOW) is None
    assert clock_words(None) == clock_words(300.0) == clock_words(-300.0) == ""
    assert clock_words(301.0) == "this machine's clock is 5 minutes ahead of the registry's"
    assert clock_words(-86400.0) == "this machine's clock is 24 hours behind the registry's"


def test_a_pause_is_told_with_its_end() -> None:
    assert pause_words(RegistryRateLimited("x", retry_after=30.0), NOW) == "again in 30 s, at 2027-01-15T08:00:30Z"
    assert pause_words(RegistryRateLimited("x"), NOW) == ""
    assert pause_words(NetworkError("x", retry_after=3.0), NOW) == ""


def test_the_keys_of_the_document_stay() -> None:
    document = describe_report(Report(reachable=False, authenticated=False, access="none", detail="x"))
    assert list(document) == [
        *("registry", "url", "provider", "providerTitle", "providerReason", "detectedBy", "looksLike"),
        *("reachable", "authenticated", "access", "canList", "canPull", "latencyMs", "usable"),
        *("method", "identity", "credentialExpires", "mayWrite", "standing", "apiCredential", "listing", "quota"),
        *("clockSkewSeconds", "requests", "detail", "problem", "advice", "warnings", "steps"),
    ]
    for name in ("looksLike", "listing", "quota", "credentialExpires", "mayWrite", "canList", "latencyMs"):
        assert document[name] is None
    assert shown_time(1e20) is None
