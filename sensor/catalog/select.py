"""Which repositories and tags are looked at, and by which rule: pure, and the same for the daemon and for `plan`.

In this order: patterns of repositories, bookkeeping of other tools, patterns of tags (`globs`), rules (`rules`), what the registry holds back,
and how many are kept (`keep`). The first that says no decides; what is looked at names what said yes last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from sensor.catalog.globs import compile_glob
from sensor.catalog.keep import Tags, keep_newest
from sensor.catalog.rules import CompiledRule, compile_rules, first_match, rules_for
from sensor.config import schema
from sensor.model.manifest import ArtifactClass
from sensor.registry.port import Listing

_BOOKKEEPING = re.compile(r"sha(?:256-|512-|256__)[0-9a-f]{64}(?:\.(sig|att|sbom))?")
"""Tags that tools keep beside images: cosign's `.sig .att .sbom`, the referrers tag (OCI distribution 1.1, which cuts digests to 64 digits),
Artifactory's `sha256__`."""

_BOOKKEEPING_CLASSES = {
    "sig": ArtifactClass.SIGNATURE,
    "att": ArtifactClass.ATTESTATION,
    "sbom": ArtifactClass.SBOM,
    None: ArtifactClass.OTHER,
}


class Cause(StrEnum):
    """What kind of rule decided."""

    PATTERN = "pattern"
    BOOKKEEPING = "bookkeeping"
    RULE = "rule"
    NO_RULE = "no-rule"
    """There are rules, and it meets none."""
    WITHHELD = "withheld"
    """The registry lists it but does not hand it out."""
    KEEP = "keep"
    """Others are newer, or it is too old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether something is looked at, and the rule that decided, in words."""

    selected: bool
    rule: str
    cause: Cause = Cause.PATTERN
    artifact_class: ArtifactClass | None = None
    """Set when the name alone tells that it is no image."""


def withheld(reason: str) -> Decision:
    """What the registry holds back is skipped, with the registry's reason."""
    return Decision(selected=False, rule=f"withheld by the registry: {reason}", cause=Cause.WITHHELD)


def decide(repository: str, tag: str, registry: schema.Registry) -> Decision:
    """Decide about one tag alone. `keep` has no say: it compares the tags of a repository."""
    return Selection(registry).tag(repository, tag)


class Selection:
    """What a registry's configuration selects. Made once for a crawl.

    Raises:
        ValueError: the configuration's rules were not checked.
    """

    def __init__(self, registry: schema.Registry) -> None:
        self._registry = registry
        self._rules = compile_rules(registry.rules)
        self._made: dict[tuple[str, bool], Decision] = {}

    def repository(self, name: str) -> Decision:
        """Decide about a repository by `repositories.include` and `repositories.exclude`."""
        return self._by_patterns(name, self._registry.repositories, "repositories")

    def tag(self, repository: str, tag: str) -> Decision:
        """Decide about one tag: its repository, its name, the rules."""
        place = self.repository(repository)
        return self._tag(tag, rules_for(repository, self._rules))[0] if place.selected else place

    def tags(self, repository: str, listing: Listing, *, now: float) -> dict[str, Decision]:
        """Decide about all tags of a repository that is looked at, in the order of the listing. `now` is Unix time."""
        rules = rules_for(repository, self._rules)
        decisions: dict[str, Decision] = {}
        groups: dict[int, list[str]] = {}
        for tag in dict.fromkeys((*listing.names, *listing.withheld)):
            decision, rule = self._tag(tag, rules)
            if decision.selected and tag in listing.withheld:
                decision = withheld(listing.withheld[tag])
            decisions[tag] = decision
            if decision.selected:
                # the registry's own `keep` looks at all tags that are not some rule's to keep
                groups.setdefault(rule.number if rule and rule.rule.keep else 0, []).append(tag)
        for number, names in groups.items():
            own = self._rules[number - 1].rule.keep if number else None
            self._keep(names, own or self._registry.keep, listing, decisions, now)
        return decisions

    def _tag(self, tag: str, rules: tuple[CompiledRule, ...]) -> tuple[Decision, CompiledRule | None]:
        if found := _BOOKKEEPING.fullmatch(tag):
            artifact_class = _BOOKKEEPING_CLASSES[found[1]]
            words = f"bookkeeping tag of another tool: {artifact_class}"
            made = Decision(selected=False, rule=words, cause=Cause.BOOKKEEPING, artifact_class=artifact_class)
            return made, None
        decision = self._by_patterns(tag, self._registry.tags, "tags")
        if not decision.selected or not self._rules:
            return decision, None
        rule = first_match(tag, rules)
        if rule is None:
            words = f"fits none of the {len(self._rules)} rules" if rules else "no rule is about this repository"
            return self._decision(words, Cause.NO_RULE, selected=False), None
        return self._decision(rule.words, Cause.RULE, selected=rule.includes), rule

    def _keep(
        self, names: list[str], keep: schema.Keep, listing: Listing, decisions: dict[str, Decision], now: float
    ) -> None:
        if not keep.last and keep.max_age is None:
            return
        tags = Tags(names=names, pushed=listing.pushed, digests=listing.digests)
        for tag, outcome in keep_newest(tags, keep, now=now).items():
            said = decisions[tag]
            if outcome.kept:
                decisions[tag] = self._decision(f"{said.rule}; {outcome.words}", said.cause, selected=True)
            else:
                decisions[tag] = self._decision(
                    f"{outcome.words}; {said.rule}" if said.cause is Cause.RULE else outcome.words,
                    Cause.KEEP,
                    selected=False,
                )

    def _by_patterns(self, name: str, globs: schema.Globs, what: str) -> Decision:
        for pattern in globs.exclude:
            if compile_glob(pattern).matches(name):
                return self._decision(f"exclude {what}: {pattern}", Cause.PATTERN, selected=False)
        for pattern in globs.include:
            if compile_glob(pattern).matches(name):
                return self._decision(f"include {what}: {pattern}", Cause.PATTERN, selected=True)
        words = f"include {what}: none of {', '.join(globs.include) or 'nothing'} matches"
        return self._decision(words, Cause.PATTERN, selected=False)

    def _decision(self, rule: str, cause: Cause, *, selected: bool) -> Decision:
        """Decisions are few and tags are many: the same one is made once."""
        made = self._made.get((rule, selected))
        if made is None:
            made = self._made[rule, selected] = Decision(selected=selected, rule=rule, cause=cause)
        return made
