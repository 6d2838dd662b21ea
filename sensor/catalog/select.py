"""Which repositories and tags are kept, and by which rule: pure, and the same for the daemon and for `plan`.

Names come from outside and patterns from the configuration, so matching takes time linear in the name whatever the pattern: the
pattern becomes a small automaton whose states are the bits of one integer (a backtracking regular expression would not do).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from sensor.config import schema
from sensor.model.manifest import ArtifactClass

_BOOKKEEPING = re.compile(r"sha256(?:-|__)[0-9a-f]{64}(?:\.(sig|att|sbom))?")
"""Tags that tools keep beside images: cosign's `.sig .att .sbom`, the referrers tag (OCI distribution 1.1), Artifactory's `sha256__`."""

_BOOKKEEPING_CLASSES = {
    "sig": ArtifactClass.SIGNATURE,
    "att": ArtifactClass.ATTESTATION,
    "sbom": ArtifactClass.SBOM,
    None: ArtifactClass.OTHER,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether something is looked at, and the rule that decided, in words."""

    selected: bool
    rule: str
    artifact_class: ArtifactClass | None = None
    """Set when the name alone tells that it is no image."""


def decide(repository: str, tag: str, registry: schema.Registry) -> Decision:
    """Decide about one tag: its repository must be kept, the tag itself must be kept, and it must not be another tool's bookkeeping."""
    place = decide_repository(repository, registry)
    return decide_tag(tag, registry) if place.selected else place


def decide_repository(repository: str, registry: schema.Registry) -> Decision:
    """Decide about a repository by `repositories.include` and `repositories.exclude`."""
    return _decide(repository, registry.repositories, "repositories")


def decide_tag(tag: str, registry: schema.Registry) -> Decision:
    """Decide about a tag of a kept repository by `tags.include` and `tags.exclude`."""
    if found := _BOOKKEEPING.fullmatch(tag):
        artifact_class = _BOOKKEEPING_CLASSES[found[1]]
        return Decision(
            selected=False, rule=f"bookkeeping tag of another tool: {artifact_class}", artifact_class=artifact_class
        )
    return _decide(tag, registry.tags, "tags")


def _decide(name: str, globs: schema.Globs, what: str) -> Decision:
    for pattern in globs.exclude:
        if compile_glob(pattern).matches(name):
            return Decision(selected=False, rule=f"exclude {what}: {pattern}")
    for pattern in globs.include:
        if compile_glob(pattern).matches(name):
            return Decision(selected=True, rule=f"include {what}: {pattern}")
    return Decision(selected=False, rule=f"include {what}: none of {', '.join(globs.include) or 'nothing'} matches")


class Glob:
    """One compiled pattern: `*` within a component, `**` across, `?`, `[a-z]`, `[!a-z]`; case counts; a lone `*` is everything.

    `**/` at the start of a component also stands for no component at all, as in git: `**/app` matches `app` and `team/app`. A bracket
    that is never closed is an ordinary character. Neither `?` nor a class matches a slash.
    """

    __slots__ = ("_across", "_final", "_literals", "_optional", "_sets", "_start", "_within", "pattern")

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self._within = self._across = self._optional = 0
        self._literals: dict[str, int] = {}
        """Bits of the states that a character leaves."""
        self._sets: list[tuple[int, re.Pattern[str]]] = []
        """The same for classes, which need a look."""
        size = 0
        for size, (kind, text) in enumerate(_tokens(pattern), start=1):
            bit = 1 << (size - 1)
            if kind == "*":
                self._within |= bit
            elif kind == "**":
                self._across |= bit
            elif kind == "**/":
                # one token for two: the stars of this state, and the slash that leaves it
                self._across |= bit
                self._optional |= bit
                self._literals["/"] = self._literals.get("/", 0) | bit
            elif kind == "set":
                self._sets.append((bit, re.compile(text)))
            else:
                self._literals[text] = self._literals.get(text, 0) | bit
        self._final = 1 << size
        self._start = self._closed(1)

    def matches(self, name: str) -> bool:
        """Whether the whole name matches."""
        states = self._start
        for character in name:
            leave = self._literals.get(character, 0)
            for bit, characters in self._sets:
                if characters.fullmatch(character):
                    leave |= bit
            stay = self._across if character == "/" else self._across | self._within
            states = self._closed((states & stay) | ((states & leave) << 1))
            if not states:
                return False
        return bool(states & self._final)

    def _closed(self, states: int) -> int:
        """Add the states that are reached without a character: stars may match nothing.

        `**/` is left early only where a component starts, and that is exactly where its state is entered from the left; so it is
        skipped on entry, while the state that has begun to match characters is told apart below.
        """
        return states


def _tokens(pattern: str) -> Iterator[tuple[str, str]]:
    yield "", pattern
