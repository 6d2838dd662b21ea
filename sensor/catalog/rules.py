"""Ordered rules, finer than patterns: glob, regular expression, range of versions. The first that fits a tag decides. Pure.

Compiled once for a crawl: a registry may have more tags than anyone wants to parse a range for. What a decision is, and that of the patterns
which come before, is in `select`; whether rules are written right is checked in `config.validate_registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sensor.catalog.globs import Glob, compile_glob
from sensor.config import schema
from sensor.config.regex import compile_regex
from sensor.versions.semver_range import parse_range


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledRule:
    """One rule. `number` counts from 1, as people count the lines of a list."""

    number: int
    rule: schema.Rule
    repositories: Glob
    covers: Callable[[str], bool]
    """Whether the rule speaks about a tag."""

    @property
    def includes(self) -> bool:
        """Whether the tags that it covers are looked at."""
        return self.rule.action == "include"

    @property
    def words(self) -> str:
        """The rule for people: `rule 2 includes semver >=1.2 <3 in team/*`."""
        rule = self.rule
        what = next(
            (f"{kind} {text}" for kind, text in (("regex", rule.regex), ("semver", rule.semver)) if text),
            f"tags {rule.tags}",
        )
        place = "" if rule.repositories == "*" else f" in {rule.repositories}"
        return f"rule {self.number} {rule.action}s {what}{place}"


def compile_rules(rules: Sequence[schema.Rule]) -> tuple[CompiledRule, ...]:
    """The rules in their order, ready to be asked.

    Raises:
        ValueError: a regular expression is none. The configuration was not checked.
        DataError: a range is none. The configuration was not checked.
    """
    return tuple(
        CompiledRule(number=number, rule=rule, repositories=compile_glob(rule.repositories), covers=_matcher(rule))
        for number, rule in enumerate(rules, start=1)
    )


def rules_for(repository: str, rules: Sequence[CompiledRule]) -> tuple[CompiledRule, ...]:
    """Those that speak about a repository."""
    return tuple(rule for rule in rules if rule.repositories.matches(repository))


def first_match(tag: str, rules: Sequence[CompiledRule]) -> CompiledRule | None:
    """The rule that decides about a tag, out of those for its repository."""
    return next((rule for rule in rules if rule.covers(tag)), None)


def _matcher(rule: schema.Rule) -> Callable[[str], bool]:
    if rule.regex:
        return compile_regex(rule.regex).matches
    if rule.semver:
        return parse_range(rule.semver).covers
    return compile_glob(rule.tags).matches
