"""One advisory's claim about one package, as the matcher needs it: normalised OSV, without its prose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec


class Range(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, array_like=True):
    """One OSV range: events in the record's order, each (kind, version). GIT ranges are dropped at import."""

    type: Literal["SEMVER", "ECOSYSTEM"]
    events: tuple[tuple[Literal["introduced", "fixed", "last_affected", "limit"], str], ...]


class Affected(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One `affected` entry of one record (OSV schema 1.7). `severity` are (type, vector or word) pairs, affected-level first."""

    advisory: str
    ecosystem: str
    """With suffix, as published: `Debian:12`, `Alpine:v3.18`, `PyPI`."""
    name: str
    ranges: tuple[Range, ...] = ()
    versions: tuple[str, ...] = ()
    urgency: str = ""
    """Debian's word (unimportant, low, ...), from ecosystem_specific."""
    binaries: tuple[str, ...] = ()
    """Binary package names the entry is limited to, where the source names them."""


class Advisory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record around the affected entries.

    `aliases` is the closed set of names of the same vulnerability, `upstream` the CVEs that a distro advisory covers.
    """

    id: str
    modified: str = ""
    published: str = ""
    aliases: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()
    severity: tuple[tuple[str, str], ...] = ()
    rating: str = ""
    """The source's own word: GHSA database_specific.severity, the first word of an erratum's summary, Ubuntu's priority."""
    summary: str = ""
    details: str = ""
    url: str = ""
    is_malware: bool = False


class AdvisoryLookup(Protocol):
    """What the matcher asks. Implemented by `advisories.database`, and by a dictionary in tests."""

    @property
    def revision(self) -> str:
        """Identity of the data: results made with another revision are matched again."""

    def affected(self, ecosystem: str, name: str) -> Sequence[Affected]:
        """All entries for one package in one ecosystem (with suffix). The name must be normalised as `normal_name` does."""

    def advisory(self, advisory_id: str) -> Advisory | None:
        """The record of an id."""

    def advisories_for(self, vulnerability: str) -> Sequence[Advisory]:
        """Other records of the same vulnerability (aliases and upstream), for severities and texts."""

    def has_ecosystem(self, ecosystem: str) -> bool:
        """Whether there is any data for this ecosystem with suffix; without it zero findings mean nothing."""
