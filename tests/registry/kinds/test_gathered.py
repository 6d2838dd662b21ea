"""Tags that come along with a listing, and small things that providers with several repositories share."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import NetworkError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.model.digest import sha256_digest
from sensor.registry.errors import RegistryRateLimited, RegistryUnauthorized, RegistryUnavailable
from sensor.registry.kinds.gathered import Gathered, literal_heads, patiently, same_path, shown_once, unix_time
from sensor.registry.login import Basic, Credential
from sensor.secret import Secret
from sensor.transport import Retry, Transport

ONE, TWO = sha256_digest(b"1"), sha256_digest(b"2")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_was_added_first_stands_unless_it_is_replaced() -> None:
    found = Gathered(DEFAULT_LIMITS, source="API")
    found.add("team/app", "v1", ONE, 1.0)
    found.add("team/app", "v1", TWO, 2.0)
    found.add("team/app", "v2", ONE)
    found.add("team/app", "v2", TWO, replace=True)
    listing = found.take("team/app")
    assert listing is not None
    assert listing.digests == {"v1": ONE, "v2": TWO}
    assert listing.pushed == {"v1": 1.0}
    assert listing.source == "API"
    assert found.take("team/app") is None


def test_nonsense_is_counted() -> None:
    found = Gathered(DEFAULT_LIMITS, source="API")
    found.add("Team/App", "v1")
    found.add("team/app", ONE)
    found.add("", "v1")
    assert found.listing().names == ()
    assert found.listing().dropped == 3


def test_too_much_is_partial() -> None:
    found = Gathered(Limits(listing_entries=1), source="API")
    found.add("team/app", "v1", ONE)
    assert found.full
    found.add("team/app", "v1", TWO, replace=True)
    found.add("team/app", "v2")
    found.partial("another reason")
    listing = found.take("team/app")
    assert listing is not None
    assert listing.names == ("v1",)
    assert listing.reason == "more than 1 tags"
    assert not listing.complete


def test_old_tags_are_asked_for_anew() -> None:
    clock = Clock()
    found = Gathered(DEFAULT_LIMITS, source="API", clock=clock)
    found.add("team/app", "v1")
    clock.now = 10_000.0
    assert found.take("team/app") is None
    assert found.repositories == ()


def test_merging_renames_and_keeps_what_was_there() -> None:
    first, second = Gathered(DEFAULT_LIMITS, source="API"), Gathered(DEFAULT_LIMITS, source="API")
    first.add("k/app", "v1", ONE)
    second.add("app", "v1", TWO)
    second.add("app", "v2", TWO, withheld="why")
    second.add("App", "v2")
    second.partial("cut")
    first.merge(second, lambda image: f"k/{image}")
    listing = first.take("k/app")
    assert listing is not None
    assert listing.digests == {"v1": ONE, "v2": TWO}
    assert listing.withheld == {"v2": "why"}
    assert listing.reason == "cut"
    assert first.listing().dropped == 1


def test_a_sample_is_a_digest_where_there_is_one() -> None:
    found = Gathered(DEFAULT_LIMITS, source="API")
    assert found.sample() is None
    found.add("app", "v0", withheld="why")
    assert found.sample() is None
    found.add("app", "v1")
    assert found.sample() == ("app", "v1")
    found.add("app", "v2", ONE)
    assert found.sample() == ("app", ONE)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T01:01:00.500+01:00", 60.5),
        ("1970-01-01T00:01:00", None),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_dates(text: str | None, time: float | None) -> None:
    assert unix_time(text) == time


@pytest.mark.parametrize(
    ("patterns", "heads"),
    [
        (("*",), ()),
        (("docker/**",), ("docker",)),
        (("docker/**", "docker/x", "libs/*"), ("docker", "libs")),
        (("docker/**", "*"), ()),
        (("dock*/x",), ()),
        (("d[ab]/x",), ()),
        (("docker",), ()),
        ((), ()),
    ],
)
def test_literal_first_parts_of_patterns(patterns: tuple[str, ...], heads: tuple[str, ...]) -> None:
    assert literal_heads(patterns) == heads


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_a_mended_link_stays_where_it_was(target: str) -> None:
    assert same_path("https://host/v2/k/app/tags/list?n=1", target).startswith("/v2/k/app/tags/list?")


class Source:
    def __init__(self, *given: Credential | None) -> None:
        self._given = list(given)

    async def credential(self, *, renew: bool) -> Credential | None:
        if renew and len(self._given) > 1:
            self._given.pop(0)
        return self._given[0]


async def test_a_refused_credential_is_shown_again_only_when_it_is_another() -> None:
    old, new = (Basic(username="u", password=Secret(text)) for text in ("old", "new"))
    authorise = shown_once(Source(old, new), "the API")
    assert (await authorise(False))["Authorization"] == old.header
    assert (await authorise(True))["Authorization"] == new.header
    with pytest.raises(RegistryUnauthorized) as refused:
        await authorise(True)
    assert "authentication failed: the API" in refused.value.message
    assert await shown_once(Source(None), "the API")(False) == {}


class Asked:
    """Fails as it is told, then answers."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.times = 0

    async def __call__(self) -> str:
        self.times += 1
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


URL = "https://api.example/graphql"


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def transport(slept: list[float]) -> Transport:
    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    return Transport(sleep=sleep)


RETRY = Retry(attempts=3, first=0.0, most=60.0)


async def test_a_query_is_repeated_after_what_passes(transport: Transport, slept: list[float]) -> None:
    ask = Asked(RegistryRateLimited("429", retry_after=7.0), NetworkError("reset", retryable=True))
    assert await patiently(transport, RETRY, URL, ask) == "answer"
    assert slept == [7.0, 0.0]


@pytest.mark.parametrize(
    ("failures", "times"),
    [
        ([RegistryUnavailable("502")] * 9, 3),
        ([RegistryRateLimited("429", retry_after=600.0)], 1),
        ([NetworkError("no such host", retryable=False)], 1),
        ([RegistryUnauthorized("401")], 1),
    ],
)
async def test_a_query_is_not_repeated_without_end_or_hope(
    transport: Transport, failures: list[Exception], times: int
) -> None:
    ask = Asked(*failures)
    with pytest.raises(type(failures[0])):
        await patiently(transport, RETRY, URL, ask)
    assert ask.times == times


async def test_a_host_that_wants_a_pause_is_sent_no_query(transport: Transport, slept: list[float]) -> None:
    ask = Asked()
    transport.budget(URL).park(30.0)
    assert await patiently(transport, RETRY, URL, ask) == "answer"
    assert slept == [pytest.approx(30.0, abs=1.0)]
    transport.budget(URL).park(600.0)
    with pytest.raises(RegistryRateLimited, match=r"api\.example has asked for a pause") as limited:
        await patiently(transport, RETRY, URL, ask)
    assert limited.value.retry_after == pytest.approx(600.0, abs=1.0)
    assert ask.times == 1
