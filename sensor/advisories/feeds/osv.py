"""OSV records (schema 1.7.5) to `Advisory` and `Affected`: typed, tolerant of unknown fields, wrong free-form fields and nulls.

Decides what is worth keeping: withdrawn records, errata without a vulnerability, GIT ranges and entries without versions go. Evaluating what
stays (`introduced: "0"`, `fixed: "0"`, `last_affected`, unsorted events) is `scan.ranges`' business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from sensor.advisories.feeds.feed import Dropped, Feed, Parsed, Record
from sensor.errors import DataError
from sensor.limits import Limits
from sensor.model.advisory import Advisory, Affected, Range
from sensor.scan.severity import severity_of_word
from sensor.versions import order_of
from sensor.versions.names import base_ecosystem, normal_name

_CVE = re.compile(r"CVE-[0-9]{4}-[0-9]{4,}")
_NO_SECURITY = re.compile(r"[A-Z]{2}(?:BA|EA)-")
"""Errata for bugs and enhancements (ALBA, ALEA, RHBA, ...)."""
_RATED_SUMMARY = re.compile(r"(critical|important|moderate|low)\s*:", re.IGNORECASE)
_RPM_FILE = re.compile(r"(.+)-[^-]+-[^-]+\.rpm")
_UTC = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?Z")
_DISTRO_ORDERS = frozenset({"deb", "apk", "rpm"})
_ID_CHARS = 256
_SHORT_CHARS = 1_024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class _Event(msgspec.Struct, gc=False):
    introduced: str | None = None
    fixed: str | None = None
    last_affected: str | None = None
    limit: str | None = None


class _Range(msgspec.Struct, gc=False):
    type: str = ""
    events: list[_Event] | None = None


class _Package(msgspec.Struct, gc=False):
    ecosystem: str = ""
    name: str = ""


class _Severity(msgspec.Struct, gc=False):
    type: str = ""
    score: str = ""


class _Specific(msgspec.Struct, gc=False):
    """The few free-form fields that mean something to us (OSV schema, "database_specific"); their types are checked at use."""

    severity: Any = None
    urgency: Any = None
    ubuntu_priority: Any = None
    binaries: Any = None


class _Affected(msgspec.Struct, gc=False):
    package: _Package | None = None
    ranges: list[_Range] | None = None
    versions: list[str] | None = None
    severity: list[_Severity] | None = None
    ecosystem_specific: _Specific | None = None
    database_specific: _Specific | None = None


class _Reference(msgspec.Struct, gc=False):
    type: str = ""
    url: str = ""


class _Osv(msgspec.Struct, gc=False):
    id: str
    modified: str = ""
    published: str | None = None
    withdrawn: str | None = None
    aliases: list[str] | None = None
    upstream: list[str] | None = None
    related: list[str] | None = None
    severity: list[_Severity] | None = None
    summary: str | None = None
    details: str | None = None
    references: list[_Reference] | None = None
    affected: list[_Affected] | None = None
    database_specific: _Specific | None = None


_DECODER = msgspec.json.Decoder(_Osv)


def parse(data: bytes, limits: Limits) -> Parsed:
    """Read one record.

    Raises:
        DataError: no JSON, or an essential field is missing or of the wrong type.
    """
    try:
        osv = _DECODER.decode(data.removeprefix(_BYTE_ORDER_MARK))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        message = f"not an OSV record: {error}"
        raise DataError(message) from error
    if not osv.id or len(osv.id) > _ID_CHARS or not osv.id.isprintable():
        raise DataError("not an OSV record: its id is empty, overlong or unprintable")
    modified = moment(osv.modified)
    if osv.withdrawn:
        return Dropped(id=osv.id, modified=modified, reason="withdrawn")
    affected, unsupported, empty = _entries(osv)
    aliases, upstream = _names(osv)
    if _NO_SECURITY.match(osv.id) and not any(_CVE.fullmatch(name) for name in (*aliases, *upstream)):
        return Dropped(id=osv.id, modified=modified, reason="not-security", unsupported=unsupported, empty=empty)
    severity = _severity(osv)
    rating = _rating(osv)
    # The judgement of a record about other ecosystems serves the records of the same vulnerability that carry none.
    lends_severity = bool(severity or severity_of_word(rating)) and any(
        _CVE.fullmatch(name) for name in (osv.id, *aliases, *upstream)
    )
    if not affected and not lends_severity:
        return Dropped(id=osv.id, modified=modified, reason="nothing-usable", unsupported=unsupported, empty=empty)
    advisory = Advisory(
        id=osv.id,
        modified=modified,
        published=moment(osv.published or ""),
        aliases=aliases,
        upstream=upstream,
        severity=severity,
        rating=rating,
        summary=_shortened(osv.summary, _SHORT_CHARS),
        details=_shortened(osv.details, limits.advisory_text_chars),
        url=_best_url(osv.references or ()),
        is_malware=osv.id.startswith("MAL-"),
    )
    return Record(advisory=advisory, affected=affected, unsupported=unsupported, empty=empty)


def moment(text: str) -> str:
    """An RFC 3339 time in UTC, ending in Z; empty where it is none."""
    if _UTC.fullmatch(text):
        return text
    try:
        read = datetime.fromisoformat(text)
        utc = read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    except (ValueError, OverflowError):
        return ""
    return utc.isoformat().replace("+00:00", "Z")


def _entries(osv: _Osv) -> tuple[tuple[Affected, ...], tuple[str, ...], int]:
    entries: list[Affected] = []
    unsupported: list[str] = []
    empty = 0
    for claim in osv.affected or ():
        package = claim.package
        if package is None or not package.ecosystem or not package.name.strip():
            empty += 1  # legal: a record about commits only
            continue
        order = order_of(package.ecosystem)
        if order is None:
            unsupported.append(base_ecosystem(package.ecosystem))
            continue
        ranges = tuple(_ranges(claim.ranges or ()))
        if not ranges and not claim.versions:
            empty += 1
            continue
        specific = claim.ecosystem_specific
        # A distribution's list only repeats its ranges; a language's may hold versions that no range can.
        is_distro = order.name in _DISTRO_ORDERS
        entries.append(
            Affected(
                advisory=osv.id,
                ecosystem=package.ecosystem,
                name=normal_name(package.ecosystem, package.name),
                ranges=ranges,
                versions=() if ranges and is_distro else tuple(claim.versions or ()),
                urgency=_word(specific.urgency) if specific else "",
                binaries=_binaries(specific.binaries) if specific and order.name == "rpm" else (),
            )
        )
    return tuple(entries), tuple(unsupported), empty


def _ranges(ranges: Iterable[_Range]) -> Iterator[Range]:
    for range_ in ranges:
        if range_.type in {"SEMVER", "ECOSYSTEM"} and range_.events:
            kind: Literal["SEMVER", "ECOSYSTEM"] = "SEMVER" if range_.type == "SEMVER" else "ECOSYSTEM"
            events = tuple(_events(range_.events))
            if events:
                yield Range(type=kind, events=events)


def _events(
    events: Iterable[_Event],
) -> Iterator[tuple[Literal["introduced", "fixed", "last_affected", "limit"], str]]:
    for event in events:
        if event.introduced is not None:
            yield "introduced", event.introduced
        if event.fixed is not None:
            yield "fixed", event.fixed
        if event.last_affected is not None:
            yield "last_affected", event.last_affected
        if event.limit is not None:
            yield "limit", event.limit


def _names(osv: _Osv) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Aliases and upstream.

    A distribution's record covers CVEs, it is not another name of them (OSV schema, "upstream"). Older exports wrote them into `aliases`, where
    the closure would take all CVEs of one erratum for the same vulnerability; AlmaLinux and Rocky Linux write them into `related`.
    """
    aliases = _distinct(osv.aliases, osv.id)
    upstream = _distinct(osv.upstream, osv.id)
    if not _is_distro(osv):
        return tuple(aliases), tuple(upstream)
    upstream += [name for name in aliases if _CVE.fullmatch(name) and name not in upstream]
    aliases = [name for name in aliases if not _CVE.fullmatch(name)]
    if not any(_CVE.fullmatch(name) for name in upstream):
        upstream += [name for name in _distinct(osv.related, osv.id) if _CVE.fullmatch(name)]
    return tuple(aliases), tuple(upstream)


def _is_distro(osv: _Osv) -> bool:
    orders = (order_of(claim.package.ecosystem) for claim in osv.affected or () if claim.package)
    return any(order.name in _DISTRO_ORDERS for order in orders if order)


def _distinct(names: Iterable[str] | None, own: str) -> list[str]:
    return list(dict.fromkeys(name for name in names or () if name and len(name) <= _ID_CHARS and name != own))


def _severity(osv: _Osv) -> tuple[tuple[str, str], ...]:
    """All judgements, those about a package before those about the record."""
    found: dict[tuple[str, str], None] = {}
    for claim in osv.affected or ():
        for severity in claim.severity or ():
            found[severity.type, severity.score] = None
    for severity in osv.severity or ():
        found[severity.type, severity.score] = None
    return tuple(pair for pair in found if pair[0] and pair[1] and len(pair[1]) <= _SHORT_CHARS)


def _rating(osv: _Osv) -> str:
    """The source's own word: of the record (GitHub, Bitnami), of an entry (Azure Linux, Ubuntu), or before an erratum's summary.

    A word that judges nothing ("Unknown") is taken only where there is no other.
    """
    words = [_word(osv.database_specific.severity)] if osv.database_specific else []
    words += [severity.score for severity in osv.severity or () if severity.type == "Ubuntu"]
    for claim in osv.affected or ():
        if claim.ecosystem_specific:
            words.append(_word(claim.ecosystem_specific.ubuntu_priority))
        if claim.database_specific:
            words.append(_word(claim.database_specific.severity))
    rated = _RATED_SUMMARY.match(osv.summary or "")
    if rated and _is_distro(osv):
        words.append(rated[1])
    return next(filter(severity_of_word, words), next(filter(None, words), ""))


def _word(value: object) -> str:
    return value.strip() if isinstance(value, str) and len(value) <= 64 else ""


def _binaries(value: object) -> tuple[str, ...]:
    """Names of binary packages: `[{name: version}]` (SUSE), `[{"binary_name": name}]` (Ubuntu), `{arch: [file.rpm]}` (openEuler)."""
    names: dict[str, None] = {}
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict):
            names.update(dict.fromkeys(_texts([item["binary_name"]] if "binary_name" in item else list(item))))
        else:
            names.update(dict.fromkeys(_texts([item])))
    for files in value.values() if isinstance(value, dict) else ():
        matches = map(_RPM_FILE.fullmatch, _texts(files))
        names.update((match[1], None) for match in matches if match)
    return tuple(names)


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str) and text] if isinstance(value, list) else []


def _best_url(references: Iterable[_Reference]) -> str:
    """The first ADVISORY link, else the first; only https, so that no other scheme ever becomes a link."""
    links = [ref for ref in references if ref.url.startswith("https://") and len(ref.url) <= _SHORT_CHARS]
    return next((ref.url for ref in links if ref.type == "ADVISORY"), links[0].url if links else "")


def _shortened(text: str | None, most: int) -> str:
    if not text or len(text) <= most:
        return text or ""
    return text[: most - 1] + "…"


OSV = Feed(name="osv", version=1, reads=lambda name: name.endswith(".json"), parse=parse)
"""One record per `.json` file, as in OSV's bulk exports and in most databases' repositories."""
