"""The newest so many, by date where there is one: never more than asked for, never the wrong end."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.catalog.keep import Outcome, Tags, keep_newest, version_key
from sensor.config.schema import Keep
from sensor.model.digest import Digest, sha256_digest

NOW = 1_700_000_000.0
DAY = 86400.0


def keeping(**keys: object) -> Keep:
    return Keep.model_validate(keys)


def outcomes(
    names: str, keep: Keep, pushed: dict[str, float] | None = None, digests: dict[str, Digest] | None = None
) -> dict[str, Outcome]:
    """`pushed` is in days before now."""
    ages = {name: NOW - age * DAY for name, age in (pushed or {}).items()}
    return keep_newest(Tags(names=names.split(), pushed=ages, digests=digests or {}), keep, now=NOW)


def kept(found: dict[str, Outcome]) -> set[str]:
    return {name for name, outcome in found.items() if outcome.kept}


def test_nothing_asked_for_keeps_everything_without_a_word() -> None:
    assert outcomes("a b", Keep()) == {"a": Outcome(kept=True), "b": Outcome(kept=True)}
    assert outcomes("", Keep(last=3)) == {}


def test_the_last_by_push_date() -> None:
    found = outcomes("3.0 2.0 1.0", Keep(last=2), {"3.0": 30, "2.0": 1, "1.0": 2})
    assert kept(found) == {"2.0", "1.0"}
    assert found["1.0"].words == "keep last 2 by push date"
    assert found["3.0"].words == "keep last 2 by push date: not among them"


def test_the_version_where_the_configuration_wants_it() -> None:
    found = outcomes("3.0 2.0 1.0", Keep(last=2, order="version"), {"3.0": 30, "2.0": 1, "1.0": 2})
    assert kept(found) == {"3.0", "2.0"}
    assert found["3.0"].words == "keep last 2 by version"


def test_the_version_where_dates_are_missing_and_that_is_said() -> None:
    found = outcomes("3.0 2.0 1.0", Keep(last=1))
    assert kept(found) == {"3.0"}
    assert found["1.0"].words == "keep last 1 by version (no push dates are told): not among them"
    found = outcomes("3.0 2.0 1.0", Keep(last=1), {"1.0": 1})
    assert kept(found) == {"3.0"}
    assert found["3.0"].words == "keep last 1 by version (not all push dates are told)"


def test_too_old_is_left_out_and_unknown_is_not_old() -> None:
    found = outcomes("a b c", keeping(max_age="90d"), {"a": 89.9, "b": 90.1})
    assert kept(found) == {"a", "c"}
    assert found["a"].words == "keep max_age 90d"
    assert found["b"].words == "keep max_age 90d: pushed before that"
    assert found["c"].words == "keep max_age 90d does not apply: its push date is not told"


def test_what_is_too_old_takes_no_place_among_the_last() -> None:
    found = outcomes("3.0 2.0 1.0", keeping(last=2, max_age="90d", order="version"), {"3.0": 100, "2.0": 1, "1.0": 1})
    assert kept(found) == {"2.0", "1.0"}
    assert found["2.0"].words == "keep last 2 by version; keep max_age 90d"


def test_tags_on_one_image_count_once_where_digests_are_told() -> None:
    one, two, three = (sha256_digest(text) for text in (b"1", b"2", b"3"))
    digests = {"1.4.2": one, "1.4": one, "1": one, "1.3.9": two, "1.3": two, "1.2.0": three}
    found = outcomes("1.2.0 1.3 1.3.9 1 1.4 1.4.2", Keep(last=2), digests=digests)
    assert kept(found) == {"1.4.2", "1.4", "1", "1.3.9", "1.3"}
    assert kept(outcomes("1.2.0 1.3 1.3.9 1 1.4 1.4.2", Keep(last=2))) == {"1.4.2", "1.4"}


@pytest.mark.parametrize("date", [math.nan, math.inf, -math.inf])
def test_a_date_that_is_none_is_not_told(date: float) -> None:
    found = outcomes("2 1", keeping(last=1, max_age="1d"), {"2": date, "1": 0.5})
    assert kept(found) == {"2"}
    assert "not all push dates are told" in found["2"].words
    assert "does not apply" in found["2"].words


@pytest.mark.parametrize(
    "rising",
    [
        ["1.9.0", "1.10.0", "2.0.0-rc.1", "2.0.0", "v2.0.1"],
        ["alpha", "build-9", "build-10", "latest", "0.0.1"],
        ["release-1.2", "release-1.10", "release-2.0-rc", "0.1"],
        ["2023-1_a", "2023_9", "2023_10"],
        ["b", "c1", "c2b", "c10"],
    ],
)
def test_versions_rise_and_other_names_are_in_natural_order_below_them(rising: list[str]) -> None:
    shuffled = random.Random(7).sample(rising, len(rising))
    assert sorted(shuffled, key=version_key) == rising


TAG = st.one_of(
    st.tuples(st.integers(0, 3), st.integers(0, 12)).map(lambda pair: f"{pair[0]}.{pair[1]}"),
    st.text("ab1-._", min_size=1, max_size=4),
)
DIGEST = st.sampled_from([sha256_digest(bytes([n])) for n in range(4)])


@st.composite
def candidates(draw: st.DrawFn) -> Tags:
    names = draw(st.lists(TAG, unique=True, max_size=12))
    told = draw(st.sampled_from(["all", "some", "none"]))
    pushed = {
        name: draw(st.integers(0, 200).map(lambda day: NOW - day * DAY))
        for name in names
        if told == "all" or (told == "some" and draw(st.booleans()))
    }
    digests = {name: draw(DIGEST) for name in names} if draw(st.booleans()) else {}
    return Tags(names=names, pushed=pushed, digests=digests)


KEEP = st.builds(
    keeping,
    last=st.integers(0, 4),
    max_age=st.sampled_from([None, "30d", "90d"]),
    order=st.sampled_from(["pushed", "version"]),
)


@settings(deadline=None, max_examples=300)
@given(candidates(), KEEP)
def test_never_more_than_asked_for_and_the_newest_is_among_them(tags: Tags, keep: Keep) -> None:
    found = keep_newest(tags, keep, now=NOW)
    assert set(found) == set(tags.names)
    chosen = kept(found)
    if keep.last:
        assert len({tags.digests.get(name, name) for name in chosen}) <= keep.last
    young = {name for name in tags.names if keep.max_age is None or NOW - tags.pushed.get(name, NOW) <= keep.max_age}
    assert chosen <= young
    assert bool(chosen) is bool(young)
    if keep.last == 0:
        assert chosen == young
    dated = keep.order == "pushed" and all(name in tags.pushed for name in young)
    order = {name: (tags.pushed[name] if dated else 0.0, version_key(name)) for name in young}
    if young:
        best = max(order.values())
        assert any(order[name] == best for name in chosen)
    for lost in young - chosen:
        # whoever was left out is not newer than the oldest image that was counted
        newest_of_image: dict[str, tuple[float, object]] = {}
        for name in chosen:
            image = tags.digests.get(name, name)
            newest_of_image[image] = max(newest_of_image.get(image, order[name]), order[name])
        assert order[lost] <= min(newest_of_image.values())


@settings(deadline=None, max_examples=100)
@given(candidates(), KEEP, st.randoms(use_true_random=False))
def test_the_order_of_the_listing_does_not_matter(tags: Tags, keep: Keep, chance: random.Random) -> None:
    names = list(tags.names)
    chance.shuffle(names)
    other = Tags(names=names, pushed=tags.pushed, digests=tags.digests)
    assert keep_newest(other, keep, now=NOW) == keep_newest(tags, keep, now=NOW)
