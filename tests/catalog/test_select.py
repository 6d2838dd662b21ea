"""Decisions with their rule: patterns, rules, what the registry holds back, and how many are kept."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.catalog.select import Cause, Decision, Selection, decide
from sensor.config.schema import Globs, Registry, Repositories
from sensor.model.digest import sha256_digest
from sensor.model.manifest import ArtifactClass
from sensor.registry.port import Listing

NOW = 1_700_000_000.0
DAY = 86400.0


def registry(**settings: object) -> Registry:
    return Registry.model_validate({"name": "main", "url": "registry.test", **settings})


def tags(names: str, selection: Registry, repository: str = "team/app", **told: object) -> dict[str, Decision]:
    """The decisions about tags, named in one text."""
    listing = Listing(names=tuple(names.split()), **told)  # type: ignore[arg-type]  # what the registry told
    return Selection(selection).tags(repository, listing, now=NOW)


def selected(decisions: dict[str, Decision]) -> str:
    return " ".join(tag for tag, decision in decisions.items() if decision.selected)


# --- patterns -------------------------------------------------------------------------------------------------------------


def test_everything_is_selected_by_default_and_the_rule_says_so() -> None:
    assert decide("team/app", "v1", registry()) == Decision(selected=True, rule="include tags: *")
    assert Selection(registry()).repository("team/app") == Decision(selected=True, rule="include repositories: *")


def test_exclude_wins_and_names_its_pattern() -> None:
    settings = registry(tags=Globs(include=("v*", "*-dev"), exclude=("*-dev",)))
    assert decide("team/app", "v1", settings) == Decision(selected=True, rule="include tags: v*")
    assert decide("team/app", "v1-dev", settings) == Decision(selected=False, rule="exclude tags: *-dev")
    assert decide("team/app", "latest", settings) == Decision(
        selected=False, rule="include tags: none of v*, *-dev matches"
    )


def test_an_excluded_repository_takes_its_tags_along() -> None:
    settings = registry(repositories=Repositories(include=("team/**",), exclude=("team/old/**",)))
    assert decide("team/old/app", "v1", settings).rule == "exclude repositories: team/old/**"
    assert decide("other/app", "v1", settings).rule == "include repositories: none of team/** matches"
    assert decide("team/app", "v1", settings).selected


def test_nothing_included_selects_nothing() -> None:
    assert decide("a", "v1", registry(tags=Globs(include=()))).rule == "include tags: none of nothing matches"


@pytest.mark.parametrize(
    ("tag", "artifact_class"),
    [
        (f"sha256-{'a' * 64}.sig", ArtifactClass.SIGNATURE),
        (f"sha256-{'0' * 64}.att", ArtifactClass.ATTESTATION),
        (f"sha256-{'f' * 64}.sbom", ArtifactClass.SBOM),
        (f"sha256-{'1' * 64}", ArtifactClass.OTHER),
        (f"sha256__{'1' * 64}", ArtifactClass.OTHER),
        (f"sha512-{'1' * 64}", ArtifactClass.OTHER),
    ],
)
def test_bookkeeping_of_other_tools_is_no_image(tag: str, artifact_class: ArtifactClass) -> None:
    decision = decide("team/app", tag, registry(rules=[{"tags": "*"}]))
    assert not decision.selected
    assert decision.artifact_class is artifact_class
    assert "bookkeeping" in decision.rule
    assert decision.cause is Cause.BOOKKEEPING


@pytest.mark.parametrize(
    "tag", [f"sha256-{'a' * 63}", f"sha256-{'A' * 64}", f"sha256-{'a' * 64}.txt", "sha256-x", f"v-sha256-{'a' * 64}"]
)
def test_what_only_looks_like_bookkeeping_is_an_image(tag: str) -> None:
    assert decide("a", tag, registry()).selected


# --- rules ----------------------------------------------------------------------------------------------------------------

RULES = registry(
    tags={"exclude": ["*-debug"]},
    rules=[
        {"regex": "v?2[.]0[.].*", "action": "exclude"},
        {"repositories": "team/**", "semver": ">=1.2 <3"},
        {"repositories": "team/web", "tags": "latest"},
    ],
)


@pytest.mark.parametrize(
    ("repository", "tag", "expected", "rule"),
    [
        ("team/web", "1.5.0", True, "rule 2 includes semver >=1.2 <3 in team/**"),
        ("team/web", "v2.0.7", False, "rule 1 excludes regex v?2[.]0[.].*"),
        ("team/web", "latest", True, "rule 3 includes tags latest in team/web"),
        ("team/api", "latest", False, "fits none of the 3 rules"),
        ("team/api", "1.5.0-rc1", False, "fits none of the 3 rules"),
        ("team/api", "1.5.0-debug", False, "exclude tags: *-debug"),
        ("other/api", "1.5.0", False, "fits none of the 3 rules"),
    ],
)
def test_the_first_rule_that_fits_decides_and_is_named(repository: str, tag: str, expected: bool, rule: str) -> None:
    decision = decide(repository, tag, RULES)
    assert (decision.selected, decision.rule) == (expected, rule)


def test_where_rules_are_about_other_repositories_that_is_said() -> None:
    decision = decide("other/app", "v1", registry(rules=[{"repositories": "team/*", "tags": "*"}]))
    assert decision == Decision(selected=False, rule="no rule is about this repository", cause=Cause.NO_RULE)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(st.sampled_from(["*", "a*", "ab", "b?"]), st.sampled_from(["include", "exclude"])),
        min_size=1,
        max_size=5,
    ),
    st.text("ab", min_size=1, max_size=3),
)
def test_first_match_wins(rules: list[tuple[str, str]], tag: str) -> None:
    settings = registry(rules=[{"tags": pattern, "action": action} for pattern, action in rules])
    decision = decide("app", tag, settings)
    fitting = [
        (number, action)
        for number, (pattern, action) in enumerate(rules, start=1)
        if decide("app", tag, registry(tags={"include": [pattern]})).selected
    ]
    if not fitting:
        assert decision.cause is Cause.NO_RULE
        return
    number, action = fitting[0]
    assert decision.selected is (action == "include")
    assert decision.rule.startswith(f"rule {number} {action}s ")


# --- withheld -------------------------------------------------------------------------------------------------------------


def test_what_the_registry_holds_back_is_skipped_with_its_reason() -> None:
    told = {"withheld": {"v2": "archived", "v3-dev": "archived", "v4": "quarantined"}}
    decisions = tags("v1 v2 v3-dev", registry(tags={"exclude": ["*-dev"]}), **told)
    assert selected(decisions) == "v1"
    assert decisions["v2"] == Decision(selected=False, rule="withheld by the registry: archived", cause=Cause.WITHHELD)
    assert decisions["v3-dev"].cause is Cause.PATTERN
    assert decisions["v4"].rule == "withheld by the registry: quarantined", "withheld, though not among the names"


# --- keep -----------------------------------------------------------------------------------------------------------------


def test_keep_counts_what_the_rules_include_and_the_registry_hands_out() -> None:
    settings = registry(tags={"exclude": ["9*"]}, keep={"last": 2})
    decisions = tags("1.0 1.2 1.10 1.9 9.0", settings, withheld={"1.10": "quarantined"})
    assert selected(decisions) == "1.2 1.9"
    assert decisions["1.9"].rule == "include tags: *; keep last 2 by version (no push dates are told)"
    assert decisions["1.0"].rule == "keep last 2 by version (no push dates are told): not among them"
    assert decisions["1.0"].cause is Cause.KEEP
    assert decisions["1.10"].cause is Cause.WITHHELD
    assert decisions["9.0"].rule == "exclude tags: 9*"


def test_a_rule_keeps_its_own_tags_and_the_registry_those_of_all_others() -> None:
    settings = registry(
        keep={"last": 1},
        rules=[
            {"semver": "2.x", "keep": {"last": 2}},
            {"semver": "1.x"},
            {"tags": "latest", "keep": {}},
            {"tags": "build-*"},
        ],
    )
    decisions = tags("2.0 2.1 2.2 1.0 1.1 latest build-9", settings)
    assert selected(decisions) == "2.1 2.2 1.1 latest"
    assert decisions["latest"].rule == "rule 3 includes tags latest"
    assert decisions["2.2"].rule.startswith("rule 1 includes semver 2.x; keep last 2 by version")
    assert decisions["build-9"].cause is Cause.KEEP


def test_dates_and_digests_of_the_listing_are_used() -> None:
    one, two = sha256_digest(b"1"), sha256_digest(b"2")
    told = {
        "pushed": {"1": NOW - DAY, "1.0": NOW - DAY, "2": NOW - 5 * DAY, "3": NOW - 100 * DAY},
        "digests": {"1": one, "1.0": one, "2": two, "3": two},
    }
    decisions = tags("1 1.0 2 3", registry(keep={"last": 2, "max_age": "90d"}), **told)
    assert selected(decisions) == "1 1.0 2"
    assert decisions["2"].rule == "include tags: *; keep last 2 by push date; keep max_age 90d"
    assert decisions["3"].rule == "keep max_age 90d: pushed before that"


def test_decisions_that_say_the_same_are_the_same() -> None:
    decisions = tags("1 2 3 4 5 6", registry(keep={"last": 2}))
    assert len({id(decision) for decision in decisions.values()}) == 2


def test_what_a_rules_keep_leaves_out_names_the_rule() -> None:
    settings = registry(rules=[{"tags": "dev-*"}, {"semver": "1.x", "keep": {"last": 1}}])
    decisions = tags("1.0 1.1 dev-a", settings)
    assert selected(decisions) == "1.1 dev-a"
    assert decisions["1.0"].rule.endswith("not among them; rule 2 includes semver 1.x")
