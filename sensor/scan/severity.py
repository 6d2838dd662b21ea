"""How severe a vulnerability is, from the judgements that its records carry.

Scores come from vectors by the `cvss` library; a vector that it refuses is passed over, the record stays. A distribution's own word comes
before any score (it knows how it built the package); for language packages the score comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from cvss import CVSS2, CVSS3, CVSS4, CVSSError

from sensor.model.advisory import Advisory
from sensor.model.finding import Severity

WORDS: Mapping[str, Severity] = MappingProxyType(
    {
        "critical": Severity.CRITICAL,
        "high": Severity.HIGH,
        "important": Severity.HIGH,
        "medium": Severity.MEDIUM,
        "moderate": Severity.MEDIUM,
        "low": Severity.LOW,
        "minor": Severity.LOW,
        "negligible": Severity.INFO,
        "unimportant": Severity.INFO,
        "none": Severity.INFO,
    }
)
"""Words of Debian (urgency), Ubuntu (priority), Red Hat and its kin, SUSE and GitHub. Words that judge nothing (`not yet assigned`,
`end-of-life`, `untriaged`) are missing on purpose."""

_VECTOR_LENGTH = 512
_TYPES = ("CVSS_V4", "CVSS_V3", "CVSS_V2")
"""The newest scale first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """A severity, whose judgement it is, and the score and vector where any record has one (perhaps another one's)."""

    severity: Severity
    source: str
    score: float | None = None
    vector: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Score:
    severity: Severity
    source: str
    score: float
    vector: str


def severity_of_word(word: str) -> Severity | None:
    """The severity that a source's own word stands for; None where it judges nothing. Debian marks guessed urgencies with `*`."""
    return WORDS.get(word.strip().rstrip("*").lower())


def severity_of_score(score: float, *, is_v2: bool = False) -> Severity:
    """The band of a CVSS base score: specification 3.1 and 4.0 section "Qualitative Severity Rating Scale"; NVD's bands for version 2."""
    if score >= 9.0 and not is_v2:
        return Severity.CRITICAL
    if score >= 7.0:
        return Severity.HIGH
    if score >= 4.0:
        return Severity.MEDIUM
    return Severity.LOW if score > 0.0 or is_v2 else Severity.INFO


@lru_cache(maxsize=16384)
def base_score(kind: str, vector: str) -> float | None:
    """The base score of a vector, `kind` being OSV's severity type; None for another type or an invalid vector."""
    if len(vector) > _VECTOR_LENGTH:
        return None
    try:
        if kind == "CVSS_V4":
            return float(CVSS4(vector).base_score)
        if kind == "CVSS_V3":
            return float(CVSS3(vector).base_score)
        if kind == "CVSS_V2":
            return float(CVSS2(vector.strip("()")).base_score)
    except CVSSError:
        return None
    return None


def rate(
    advisory: Advisory, others: Iterable[Advisory] = (), *, distro: str = "", urgency: str = "", vulnerability: str = ""
) -> Rating:
    """Judge one vulnerability.

    `advisory` is the record that matched, `others` the records of the same vulnerability, `distro` the base name of the distribution whose
    record matched (empty for language packages), `urgency` Debian's word for the package, `vulnerability` the canonical id: among the
    others the record of that name is believed first.
    """
    if advisory.is_malware:
        return Rating(severity=Severity.CRITICAL, source=advisory.id)
    ranked = sorted((o for o in others if o.id != advisory.id), key=lambda other: (other.id != vulnerability, other.id))
    own_score = _score(advisory)
    score = own_score or next(filter(None, map(_score, ranked)), None)
    own_word = _word(advisory, urgency=urgency, source=distro or advisory.id)
    if own_word and (distro or not own_score):
        chosen = own_word
    elif score:
        chosen = (score.severity, score.source)
    else:
        # An erratum's word is that of the worst it fixes, so the one that covers least says most about this vulnerability.
        words = (_word(other, source=other.id) for other in sorted(ranked, key=lambda other: len(other.upstream)))
        chosen = next((word for word in words if word), (Severity.INFO, ""))
    severity, source = chosen
    return Rating(
        severity=severity,
        source=source,
        score=score.score if score else None,
        vector=score.vector if score else "",
    )


def _word(advisory: Advisory, *, source: str, urgency: str = "") -> tuple[Severity, str] | None:
    words: Sequence[str] = (
        urgency,
        advisory.rating,
        *(value for kind, value in advisory.severity if kind not in _TYPES),
    )
    return next(((found, source) for word in words if (found := severity_of_word(word))), None)


def _score(advisory: Advisory) -> _Score | None:
    """The score on the newest scale; the pairs stand in order of precedence, affected-level first."""
    for wanted in _TYPES:
        for kind, vector in advisory.severity:
            score = base_score(kind, vector) if kind == wanted else None
            if score is not None:
                severity = severity_of_score(score, is_v2=kind == "CVSS_V2")
                return _Score(severity=severity, source=f"{kind} of {advisory.id}", score=score, vector=vector)
    return None
