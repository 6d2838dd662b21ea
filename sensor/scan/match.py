"""Which vulnerabilities an image has: its packages against the advisories of its distribution and of its languages.

Pure: the advisories are asked for through `AdvisoryLookup`. What cannot be judged becomes a gap, so that "no finding" is never mistaken for
"not vulnerable". Which advisories to ask is `scan.coverage`, one version against one entry is `scan.ranges`, what a vulnerability is called is
`scan.canonical`, how bad it is `scan.severity`; deciding between records is here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sensor.model.advisory import Advisory, AdvisoryLookup, Affected
from sensor.model.finding import SEVERITIES, Finding, MatchResult
from sensor.model.package import Gap, ImageInventory, InstalledPackage, Package
from sensor.scan.canonical import VulnerabilityName, other_names, tracker_cve, vulnerability_names
from sensor.scan.coverage import OS_TYPES, Question, cover, is_kernel_image, is_kernel_source, questions
from sensor.scan.ranges import NOT_AFFECTED, UNDECIDED, Installed, Verdict, fixes_above, judge
from sensor.scan.severity import rate
from sensor.versions import VersionOrder, order_of
from sensor.versions.names import base_ecosystem
from sensor.versions.order import Key
from sensor.versions.rpm import without_epoch

_MODULE_BUILD = ".module"
"""In the release of every rpm that was built as part of a module: `.module_el8.5.0+…`, `.module+el8…`."""
_NAMED_IN_GAP = 3
"""Advisories that a gap's reason names before it only counts them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """What one record says about one package. `urgency` is Debian's word in the entry."""

    advisory: str
    question: Question
    order: VersionOrder
    verdict: Verdict
    urgency: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decision:
    """All claims about one vulnerability of one package, weighed. `claim` is the one to show; `dissent` are records that say otherwise."""

    vulnerability: str
    claim: _Claim
    agreeing: tuple[_Claim, ...]
    dissent: tuple[str, ...] = ()


def match_inventory(inventory: ImageInventory, advisories: AdvisoryLookup) -> MatchResult:
    """Match every package of an image. The result depends on nothing but the arguments and stands in a fixed order."""
    coverage = cover(inventory, advisories)
    boots = any(is_kernel_image(item.package) for item in inventory.packages)
    asking = _Asking(advisories)
    findings: list[Finding] = []
    gaps = list(coverage.gaps)
    consulted: set[str] = set()
    for item in inventory.packages:
        package = item.package
        ecosystems = coverage.ecosystems.get(package.type, ())
        if coverage.is_patched(item):
            continue  # the distribution patches it without changing the version that the language's advisories know
        consulted.update(ecosystems)
        if package.type in OS_TYPES and not boots and is_kernel_source(package.source_name or package.name):
            continue  # headers and tools of a kernel that does not run here
        decisions, undecided = _decide(asking.claims(package, ecosystems), asking)
        findings.extend(_finding(item, decision, asking) for decision in decisions)
        if undecided:
            gaps.append(_not_comparable(item, undecided))
    findings.sort(key=_order)
    return MatchResult(
        revision=advisories.revision,
        findings=tuple(findings),
        gaps=tuple(gaps),
        ecosystems=tuple(sorted(consulted)),
    )


def _order(finding: Finding) -> tuple[int, str, str, str, str, str]:
    return (
        SEVERITIES.index(finding.severity),
        finding.vulnerability,
        finding.package_name,
        finding.package_version,
        finding.path,
        finding.purl,
    )


class _Asking:
    """The look-ups of one run, each made once: many binary packages come from one source and share records."""

    __slots__ = ("_advisories", "_entries", "_others", "_records")

    def __init__(self, advisories: AdvisoryLookup) -> None:
        self._advisories = advisories
        self._entries: dict[tuple[str, str], Mapping[str, Sequence[Affected]]] = {}
        self._records: dict[str, Advisory] = {}
        self._others: dict[str, Sequence[Advisory]] = {}

    def record(self, advisory_id: str) -> Advisory:
        """The record of an id; bare where the database has entries but no record, so that the finding is not lost."""
        if advisory_id not in self._records:
            self._records[advisory_id] = self._advisories.advisory(advisory_id) or Advisory(id=advisory_id)
        return self._records[advisory_id]

    def others(self, vulnerability: str) -> Sequence[Advisory]:
        """All records of one vulnerability."""
        if vulnerability not in self._others:
            self._others[vulnerability] = self._advisories.advisories_for(vulnerability)
        return self._others[vulnerability]

    def claims(self, package: Package, ecosystems: Iterable[str]) -> list[_Claim]:
        """What each record says about the package. A record is heard under the first name that it knows the package by."""
        claims: dict[str, _Claim] = {}
        for ecosystem in ecosystems:
            order = order_of(ecosystem)
            if order is None:
                continue
            for question in questions(package, ecosystem):
                for advisory_id, entries in self._entries_of(question).items():
                    if advisory_id in claims:
                        continue
                    applying = self._applying(package, question, advisory_id, entries)
                    if applying:
                        claims[advisory_id] = _claim(package, question, order, advisory_id, applying)
        return list(claims.values())

    def _entries_of(self, question: Question) -> Mapping[str, Sequence[Affected]]:
        asked = (question.ecosystem, question.name)
        if asked not in self._entries:
            by_advisory: dict[str, list[Affected]] = defaultdict(list)
            for entry in self._advisories.affected(*asked):
                by_advisory[entry.advisory].append(entry)
            self._entries[asked] = by_advisory
        return self._entries[asked]

    def _applying(
        self, package: Package, question: Question, advisory_id: str, entries: Sequence[Affected]
    ) -> Sequence[Affected]:
        """The entries that are about this package: of its module stream, and of its binary where a source's entry names binaries."""
        if package.type != "rpm":
            return entries
        if question.name != package.name:
            entries = [entry for entry in entries if not entry.binaries or package.name in entry.binaries]
        if not package.modularity:
            return [entry for entry in entries if not _module_builds(entry)]
        summary = self.record(advisory_id).summary
        return [entry for entry in entries if _is_of_stream(package, entry, summary)]


def _claim(
    package: Package, question: Question, order: VersionOrder, advisory_id: str, entries: Sequence[Affected]
) -> _Claim:
    installed = Installed(
        version=without_epoch(question.version) if question.ignore_epoch else question.version,
        order=order,
        read_bound=without_epoch if question.ignore_epoch else str,
    )
    # Where a distribution gives ranges, its list only repeats them; a language's list may hold versions that no range can.
    verdict = _judge_all(entries, installed, with_list=package.type not in OS_TYPES)
    if verdict.affected and not verdict.fixed:
        fixes = [fix for entry in entries for fix in fixes_above(entry, installed)]
        verdict = replace(verdict, fixed=min(fixes)[1] if fixes else "")
    return _Claim(
        advisory=advisory_id,
        question=question,
        order=order,
        verdict=verdict,
        urgency=next((entry.urgency for entry in entries if entry.urgency), ""),
    )


def _judge_all(entries: Sequence[Affected], installed: Installed, *, with_list: bool) -> Verdict:
    """Affected if any entry says so. An erratum for a module lists each rebuild of one version: having any of them is having the fix."""
    builds: dict[str, list[Verdict]] = defaultdict(list)
    for number, entry in enumerate(entries):
        module_builds = _module_builds(entry)
        build = module_builds[0].partition(_MODULE_BUILD)[0] if module_builds else str(number)
        builds[build].append(judge(entry, installed, with_list=with_list))
    verdicts = [
        NOT_AFFECTED if any(verdict.affected is False for verdict in rebuilds) else rebuilds[0]
        for rebuilds in builds.values()
    ]
    affected = next((verdict for verdict in verdicts if verdict.affected), None)
    if affected:
        return affected
    return UNDECIDED if any(verdict.affected is None for verdict in verdicts) else NOT_AFFECTED


def _fixes(entry: Affected) -> list[str]:
    return [version for range_ in entry.ranges for kind, version in range_.events if kind == "fixed"]


def _module_builds(entry: Affected) -> list[str]:
    return [version for version in _fixes(entry) if _MODULE_BUILD in version]


def _is_of_stream(package: Package, entry: Affected, summary: str) -> bool:
    """Whether a package of a module is meant: the erratum's summary names the stream (`nodejs:14 security update`).

    Where it does not, a stream named like the version tells: a fix 18.9 is not for a package 16.13 of stream 16.
    """
    builds = _module_builds(entry)
    if not builds:
        return not _fixes(entry)  # a fix outside all modules is another build; "no fix known" is about every build
    module, _, rest = package.modularity.partition(":")
    stream = rest.partition(":")[0]
    named = re.search(rf"(?<![\w.+-]){re.escape(module)}:([\w.+-]*\w)", summary)
    if named:
        return named[1] == stream

    def has_stream_version(version: str) -> bool:
        return without_epoch(version).partition("-")[0].startswith(f"{stream}.")

    return not has_stream_version(package.version) or any(has_stream_version(build) for build in builds)


def _decide(claims: Iterable[_Claim], asking: _Asking) -> tuple[list[_Decision], list[str]]:
    """Weigh the claims by vulnerability. Also gives the records that could not be judged and that no other record stands in for."""
    groups: dict[str, list[tuple[str, _Claim]]] = defaultdict(list)
    for claim in claims:
        for name in _names(claim, asking):
            groups[name.group].append((name.id, claim))
    decisions: list[_Decision] = []
    undecided: set[str] = set()
    for members in groups.values():
        against = {claim.advisory for _, claim in members if claim.verdict.affected is False}
        if any(_is_authority(claim) for _, claim in members if claim.advisory in against):
            continue
        agreeing = [(name, claim) for name, claim in members if claim.verdict.affected]
        if not agreeing:
            undecided.update(claim.advisory for _, claim in members if claim.verdict.affected is None)
            continue
        vulnerability, chosen = max(agreeing, key=lambda member: _weight(member[1], asking))
        decisions.append(
            _Decision(
                vulnerability=vulnerability,
                claim=chosen,
                agreeing=tuple(claim for _, claim in agreeing),
                dissent=tuple(sorted(against)),
            )
        )
    return decisions, sorted(undecided)


def _is_distro(claim: _Claim) -> bool:
    return claim.order.name in OS_TYPES


def _names(claim: _Claim, asking: _Asking) -> tuple[VulnerabilityName, ...]:
    """The vulnerabilities of a claim; for a denial only where it can count, which spares reading most records."""
    cve = tracker_cve(claim.advisory)
    if cve:
        return (VulnerabilityName(group=cve, id=cve),)
    if claim.verdict.affected is False and _is_distro(claim):
        return ()
    return vulnerability_names(asking.record(claim.advisory), is_distro=_is_distro(claim))


def _is_authority(claim: _Claim) -> bool:
    """Whether the record's word ends the matter, also if it is "no".

    A distribution's tracker speaks about one CVE in one package where an erratum lists all that one upload fixed; Go's own database is curated
    by module version where other records of the same vulnerability copy ranges.
    """
    if _is_distro(claim):
        return bool(tracker_cve(claim.advisory))
    return claim.question.ecosystem == "Go" and claim.advisory.startswith("GO-")


def _weight(claim: _Claim, asking: _Asking) -> tuple[bool, bool, Key, str, str]:
    """Which of several agreeing records to show: the authority, then one with a fix, the highest fix (it satisfies all), the newest."""
    fixed = claim.verdict.fixed
    return (
        _is_authority(claim),
        bool(fixed),
        claim.order.key(fixed),
        asking.record(claim.advisory).modified,
        claim.advisory,
    )


def _finding(item: InstalledPackage, decision: _Decision, asking: _Asking) -> Finding:
    claim = decision.claim
    advisory = asking.record(claim.advisory)
    others = asking.others(decision.vulnerability)
    rating = rate(
        advisory,
        others,
        distro=base_ecosystem(claim.question.ecosystem) if _is_distro(claim) else "",
        urgency=claim.urgency,
        vulnerability=decision.vulnerability,
    )
    # A language's record of the same CVE may be about a wrapper of the library: its prose does not fit a distribution's package.
    texts = [other for other in others if not _is_distro(claim) or tracker_cve(other.id) == decision.vulnerability]
    aliases: set[str] = set()
    for agreeing in decision.agreeing:
        aliases |= other_names(asking.record(agreeing.advisory), decision.vulnerability)
    range_ = claim.verdict.words
    if decision.dissent:
        range_ += f" ({', '.join(decision.dissent)}: not affected)"
    return Finding(
        vulnerability=decision.vulnerability,
        advisory=advisory.id,
        package_name=item.package.name,
        package_version=item.package.version,
        purl=item.purl,
        path=item.package.path,
        layer=item.layer,
        severity=rating.severity,
        severity_source=rating.source,
        score=rating.score,
        vector=rating.vector,
        fixed_version=claim.verdict.fixed,
        affected_range=range_,
        matched_name=claim.question.name,
        aliases=tuple(sorted(aliases)),
        title=advisory.summary or next((text.summary for text in texts if text.summary), ""),
        description=advisory.details or next((text.details for text in texts if text.details), ""),
        url=advisory.url or next((text.url for text in texts if text.url), ""),
        state=_state(advisory, claim),
    )


def _state(advisory: Advisory, claim: _Claim) -> str:
    if advisory.is_malware:
        return "malware"
    if claim.urgency == "unimportant":
        return "unimportant"
    return "fixed" if claim.verdict.fixed else "unfixed"


def _not_comparable(item: InstalledPackage, advisories: Sequence[str]) -> Gap:
    named = ", ".join(advisories[:_NAMED_IN_GAP])
    if len(advisories) > _NAMED_IN_GAP:
        named += f" and {len(advisories) - _NAMED_IN_GAP} more"
    package = item.package
    return Gap(
        kind="not-comparable",
        subject=item.purl or f"{package.name} {package.version}",
        reason=f"version {package.version[:100]!r} of {package.name} cannot be compared with the range of {named}:"
        " whether it is affected must be looked up by hand",
    )
