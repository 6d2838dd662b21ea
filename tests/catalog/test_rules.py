"""Rules as they are compiled: their order, what they cover, and their words."""

from __future__ import annotations

import time

import pytest

from sensor.catalog.rules import compile_rules, first_match, rules_for
from sensor.config.schema import Rule
from sensor.errors import DataError

RULES = compile_rules(
    (
        Rule(regex="pr-[0-9]+", action="exclude"),
        Rule(repositories="team/*", semver="^1"),
        Rule(tags="v*"),
    )
)


def test_rules_count_from_one_and_speak_of_their_repositories() -> None:
    assert [rule.number for rule in rules_for("team/app", RULES)] == [1, 2, 3]
    assert [rule.number for rule in rules_for("app", RULES)] == [1, 3]
    assert [rule.words for rule in RULES] == [
        "rule 1 excludes regex pr-[0-9]+",
        "rule 2 includes semver ^1 in team/*",
        "rule 3 includes tags v*",
    ]


@pytest.mark.parametrize(
    ("tag", "number"), [("pr-7", 1), ("1.2", 2), ("v1.2", 2), ("v2", 3), ("pr-x", None), ("latest", None)]
)
def test_the_first_that_fits(tag: str, number: int | None) -> None:
    found = first_match(tag, RULES)
    assert (found.number if found else None) == number
    assert found is None or found.includes is (number != 1)


def test_a_rule_of_no_pattern_covers_nothing() -> None:
    assert first_match("v1", compile_rules((Rule(),))) is None


def test_rules_that_nobody_checked_are_refused() -> None:
    with pytest.raises(ValueError, match="not closed"):
        compile_rules((Rule(regex="("),))
    with pytest.raises(DataError, match="not a version"):
        compile_rules((Rule(semver="latest"),))


def test_no_tag_takes_long() -> None:
    rules = compile_rules((Rule(regex="(a|aa)+b"), Rule(tags="*a*a*a*a*a*b"), Rule(semver="^1")))
    started = time.perf_counter()
    assert [first_match(tag, rules) for tag in ("a" * 128, "1" * 128, "1." * 64, "1-" + "a" * 126)] == [None] * 4
    assert time.perf_counter() - started < 1
