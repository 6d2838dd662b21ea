"""How long a token lives, and where one may be asked for."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.registry.errors import UnexpectedAnswer
from sensor.registry.tokens import (
    Token,
    TokenCache,
    TokenKey,
    covers_scope,
    granted,
    is_forbidden_target,
    is_loopback_host,
    is_private_host,
    parse_token,
    refuse_realm,
)
from sensor.secret import Secret

PUBLIC = "https://registry.example"
PRIVATE = "https://10.1.2.3:5000"


def jwt(claims: object) -> str:
    return ".".join(
        base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (b"{}", json.dumps(claims).encode(), b"sig")
    )


@pytest.mark.parametrize(
    ("claims", "renewed_after"),
    [
        ({"iat": 5000, "exp": 5300}, 270),
        ({"nbf": 5000, "exp": 8600}, 3540),
        ({"exp": 99}, 54),
        ({"iat": 10, "exp": 5}, 54),
        ({"iat": "x", "exp": 5}, 54),
        ([], 54),
    ],
)
def test_without_expires_in_the_token_itself_is_read(claims: object, renewed_after: float) -> None:
    token = parse_token(json.dumps({"token": jwt(claims)}).encode(), 0.0, "realm")
    assert token.renew_at == pytest.approx(renewed_after)


def test_expires_in_wins_over_the_token() -> None:
    body = json.dumps({"token": jwt({"iat": 0, "exp": 9000}), "expires_in": 100}).encode()
    assert parse_token(body, 0.0, "realm").renew_at == 90


def test_token_is_preferred_to_access_token() -> None:
    token = parse_token(b'{"token":"a","access_token":"b"}', 0.0, "realm")
    assert token.header == "Bearer a"
    assert "'a'" not in repr(token)


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=100)
def test_any_answer_is_a_token_or_an_error(body: bytes) -> None:
    try:
        token = parse_token(body, 5.0, "realm")
    except UnexpectedAnswer:
        return
    assert token.header.startswith("Bearer ")
    assert token.renew_at > 5.0


@pytest.mark.parametrize(
    ("realm", "origin", "trusted", "refused"),
    [
        ("https://registry.example/token", PUBLIC, (), ""),
        ("https://registry.example:8443/token", PUBLIC, (), ""),
        ("https://REGISTRY.example./token", PUBLIC, (), ""),
        ("https://auth.example/token", PUBLIC, (), "not in trusted_realms"),
        ("https://auth.example/token", PUBLIC, ("auth.example",), ""),
        ("https://auth.example:444/token", PUBLIC, ("auth.example:444",), ""),
        ("https://auth.example:445/token", PUBLIC, ("auth.example:444",), "not in trusted_realms"),
        ("http://registry.example/token", PUBLIC, (), "plain HTTP"),
        ("http://registry.example/token", PUBLIC, ("registry.example",), "plain HTTP"),
        ("http://registry.example/token", "http://registry.example", (), ""),
        ("https://10.0.0.9/token", PUBLIC, (), "private address"),
        ("https://10.0.0.9/token", PUBLIC, ("10.0.0.9",), ""),
        ("https://127.0.0.1/token", PUBLIC, (), "private address"),
        ("https://10.0.0.9/token", PRIVATE, (), "not in trusted_realms"),
        ("https://10.1.2.3/token", PRIVATE, (), ""),
        ("https://169.254.169.254/latest", PUBLIC, ("169.254.169.254",), "metadata"),
        ("http://169.254.169.254/latest", "http://169.254.169.254", (), "metadata"),
        ("https://[fd00:ec2::254]/", PUBLIC, ("fd00:ec2::254",), "metadata"),
        ("https://[::ffff:169.254.169.254]/", PUBLIC, (), "metadata"),
        ("https://metadata.google.internal/", PUBLIC, ("metadata.google.internal",), "metadata"),
        ("https://user@registry.example/token", PUBLIC, (), "not usable"),
        ("ftp://registry.example/token", PUBLIC, (), "not usable"),
        ("/token", PUBLIC, (), "not usable"),
        ("", PUBLIC, (), "not usable"),
        ("https://registry.example:5002:5002/token", PUBLIC, (), "malformed"),
        ("https://[::1/token", PUBLIC, (), "malformed"),
    ],
)
def test_where_a_secret_may_go(realm: str, origin: str, trusted: tuple[str, ...], refused: str) -> None:
    reason = refuse_realm(realm, origin, with_secret=True, trusted=trusted)
    assert bool(reason) == bool(refused)
    assert refused in reason


def test_without_a_secret_any_public_host_will_do_but_no_private_one() -> None:
    assert refuse_realm("https://auth.example/token", PUBLIC, with_secret=False) == ""
    assert refuse_realm("https://10.0.0.9/token", PUBLIC, with_secret=False) != ""
    assert refuse_realm("https://10.0.0.9/token", PRIVATE, with_secret=False) == ""
    assert refuse_realm("http://169.254.169.254/", PRIVATE, with_secret=False) != ""


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=200)
def test_no_realm_makes_it_raise(realm: str) -> None:
    assert isinstance(refuse_realm(realm, PUBLIC, with_secret=True), str)
    assert isinstance(is_forbidden_target(realm), bool)


def test_kinds_of_hosts() -> None:
    assert all(map(is_private_host, ["10.0.0.1", "192.168.1.1", "::1", "registry", "nexus.internal", "localhost"]))
    assert not any(map(is_private_host, ["8.8.8.8", "registry.example.com", "2001:4860:4860::8888"]))
    assert all(map(is_loopback_host, ["127.0.0.1", "127.9.9.9", "::1", "localhost", "a.localhost"]))
    assert not any(map(is_loopback_host, ["10.0.0.1", "localhost.example"]))
    assert is_forbidden_target("http://[fe80::1%25eth0]/")
    assert is_forbidden_target("http://0.0.0.0/")
    assert is_forbidden_target("http://[::1/")
    assert not is_forbidden_target("https://10.0.0.1/")


def test_what_a_token_says_of_itself() -> None:
    access = [{"type": "repository", "name": "team/app", "actions": ["pull", "push"]}]
    found = granted(Secret(jwt({"sub": "robot$ci\x1b", "access": access, "exp": 99.5})))
    assert found is not None
    assert (found.subject, found.access, found.expires) == ("robot$ci ", ("repository:team/app:pull,push",), 99.5)
    assert not found.anonymous
    for nobody in ("", "(anonymous)", "jfrt@01/users/Anonymous"):
        other = granted(Secret(jwt({"sub": nobody})))
        assert other is not None
        assert other.anonymous
        assert (other.access, other.expires) == ((), None)


@pytest.mark.parametrize(
    "token", ["opaque", "a.b.c", "a.b", jwt({"iss": "x"}), jwt([]), jwt({"sub": 5}), jwt({"sub": "x", "access": 1})]
)
def test_other_tokens_say_nothing(token: str) -> None:
    assert granted(Secret(token)) is None


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=100)
def test_no_token_makes_it_raise(text: str) -> None:
    assert granted(Secret(text)) is None or text.count(".") == 2


@pytest.mark.parametrize(
    ("asked", "wanted", "covered"),
    [
        ("repository:a/b:pull,metadata_read", "repository:a/b:metadata_read", True),
        ("repository:a/b:pull", "repository:a/b:pull", True),
        ("repository:host:5000/b:pull,push", "repository:host:5000/b:push", True),
        ("repository:a/b:pull", "repository:a/b:pull,push", False),
        ("repository:a/b:pull", "repository:a/c:pull", False),
        ("repository:a/b:pull", "registry:catalog:*", False),
        ("repository:a/b:pull", "", False),
        ("", "", True),
    ],
)
def test_what_a_scope_covers(asked: str, wanted: str, covered: bool) -> None:
    assert covers_scope(asked, wanted) is covered


# -- the cache ---------------------------------------------------------------------------------------------------------


def key(name: str) -> TokenKey:
    return TokenKey("https://realm.example/token", "svc", f"repository:{name}:pull")


def kept(text: str, renew_at: float = 100.0) -> Token:
    return Token(value=Secret(text), renew_at=renew_at)


def test_a_token_is_kept_until_it_is_over() -> None:
    cache = TokenCache()
    cache.put(key("a"), kept("t"), 0.0)
    assert cache.get(key("a"), 99.0) == kept("t")
    assert cache.get(key("a"), 100.0) is None
    assert cache.get(key("b"), 0.0) is None


def test_the_cache_is_bounded_and_drops_first_what_is_over() -> None:
    cache = TokenCache(most=20)
    for number in range(20):
        cache.put(key(f"r{number}"), kept(f"t{number}", renew_at=10.0 if number % 2 else 100.0), 0.0)
    cache.put(key("new"), kept("new"), 50.0)
    assert cache.get(key("new"), 50.0) is not None
    assert [number for number in range(20) if cache.get(key(f"r{number}"), 0.0)] == list(range(0, 20, 2))
    for number in range(1000):
        cache.put(key(f"more{number}"), kept("t"), 50.0)
    assert len(cache._tokens) <= 20
    assert len(cache._issued) <= 41
    assert cache.get(key("more999"), 50.0) is not None
    assert cache.get(key("r0"), 50.0) is None


def test_a_refused_token_goes_and_a_newer_one_stays() -> None:
    cache = TokenCache()
    cache.put(key("a"), kept("old"), 0.0)
    cache.put(key("a"), kept("new"), 0.0)
    assert cache.issued(key("a")) == 2
    cache.drop(key("a"), "Bearer old")
    assert cache.get(key("a"), 0.0) == kept("new")
    cache.drop(key("a"), "Bearer new")
    assert cache.get(key("a"), 0.0) is None
    assert cache.issued(key("a")) == 2
