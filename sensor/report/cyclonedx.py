"""A judged image as a CycloneDX 1.6 JSON document: components, findings as vulnerabilities, gaps as properties. Pure.

The document depends on the result alone: the same result gives the same bytes, serial number included, so that files can be compared. A
component stands once for each place where a package was found, because the place is what an operator has to fix.
"""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote

import msgspec

from sensor.control_plane.wire import clean_text
from sensor.errors import DataError
from sensor.model.finding import Finding, ImageResult, Severity
from sensor.model.package import InstalledPackage
from sensor.model.reference import parse_reference

SPEC_VERSION = "1.6"
_NAMESPACE = "urn:harborguard-sensor:"
_PROPERTY = "harborguard:"
_SEVERITY = {
    Severity.CRITICAL: "critical",
    Severity.HIGH: "high",
    Severity.MEDIUM: "medium",
    Severity.LOW: "low",
    Severity.INFO: "info",
}
_METHODS = (("CVSS:4.0", "CVSSv4"), ("CVSS:3.1", "CVSSv31"), ("CVSS:3.0", "CVSSv3"), ("AV:", "CVSSv2"))


class _Object(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A CycloneDX object: camel case, nothing empty is written."""


class _Property(_Object, frozen=True, kw_only=True):
    name: str
    value: str


class _LicenseName(_Object, frozen=True, kw_only=True):
    name: str


class _License(_Object, frozen=True, kw_only=True):
    license: _LicenseName


class _Component(_Object, frozen=True, kw_only=True):
    type: Literal["container", "library", "operating-system", "application"]
    name: str
    bom_ref: str = msgspec.field(name="bom-ref")
    version: str = ""
    purl: str = ""
    licenses: tuple[_License, ...] = ()
    properties: tuple[_Property, ...] = ()


class _Tools(_Object, frozen=True, kw_only=True):
    components: tuple[_Component, ...]


class _Metadata(_Object, frozen=True, kw_only=True):
    timestamp: str
    tools: _Tools
    component: _Component
    properties: tuple[_Property, ...] = ()


class _Source(_Object, frozen=True, kw_only=True):
    name: str
    url: str = ""


class _Rating(_Object, frozen=True, kw_only=True):
    severity: str
    source: _Source | None = None
    score: float | None = None
    method: str = ""
    vector: str = ""


class _Affects(_Object, frozen=True, kw_only=True):
    ref: str


class _Reference(_Object, frozen=True, kw_only=True):
    id: str
    source: _Source


class _Vulnerability(_Object, frozen=True, kw_only=True):
    bom_ref: str = msgspec.field(name="bom-ref")
    id: str
    source: _Source | None = None
    references: tuple[_Reference, ...] = ()
    ratings: tuple[_Rating, ...] = ()
    description: str = ""
    detail: str = ""
    recommendation: str = ""
    affects: tuple[_Affects, ...] = ()
    properties: tuple[_Property, ...] = ()


class _Bom(_Object, frozen=True, kw_only=True):
    schema: str = msgspec.field(name="$schema")
    bom_format: Literal["CycloneDX"]
    spec_version: str
    serial_number: str
    version: int
    metadata: _Metadata
    components: tuple[_Component, ...]
    dependencies: tuple[_Affects, ...] = ()
    vulnerabilities: tuple[_Vulnerability, ...] = ()


def cyclonedx(result: ImageResult, *, version: str) -> bytes:
    """The document, UTF-8. `version` is the sensor's.

    Raises:
        DataError: the result's time is none.
    """
    components: dict[str, _Component] = {}
    for installed in result.inventory.packages:
        component = _component(installed)
        components.setdefault(component.bom_ref, component)
    vulnerabilities: dict[str, _Vulnerability] = {}
    for finding in result.match.findings:
        vulnerability = _vulnerability(finding, components)
        vulnerabilities.setdefault(vulnerability.bom_ref, vulnerability)
    body = _Bom(
        schema=f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        bom_format="CycloneDX",
        spec_version=SPEC_VERSION,
        serial_number="",
        version=1,
        metadata=_metadata(result, version),
        components=(*_operating_system(result), *components.values()),
        vulnerabilities=tuple(vulnerabilities.values()),
    )
    # made from the content: the same result is the same document
    serial = uuid.uuid5(uuid.NAMESPACE_URL, _NAMESPACE + hashlib.sha256(msgspec.json.encode(body)).hexdigest())
    return msgspec.json.encode(msgspec.structs.replace(body, serial_number=f"urn:uuid:{serial}"))


def _metadata(result: ImageResult, version: str) -> _Metadata:
    try:
        moment = datetime.fromisoformat(result.finished_at)
    except ValueError as error:
        message = f"not a time: {result.finished_at[:50]!r}"
        raise DataError(message) from error
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    try:
        reference = parse_reference(result.reference)
        name = f"{reference.registry}/{reference.repository}" if reference.registry else reference.repository
        last = reference.repository.rpartition("/")[2]
        purl = f"pkg:oci/{quote(last)}@{quote(result.digest, safe='')}?repository_url={quote(name, safe='')}"
        purl += f"&tag={quote(reference.tag)}" if reference.tag else ""
    except DataError:
        name, purl = clean_text(result.reference), ""
    gaps = [_Property(name=f"{_PROPERTY}gap", value=_said(g.kind, g.subject, g.reason)) for g in result.gaps]
    return _Metadata(
        timestamp=moment.isoformat(timespec="seconds").replace("+00:00", "Z"),
        tools=_Tools(
            components=(
                _Component(
                    type="application", name="harborguard-sensor", version=version, bom_ref="tool:harborguard-sensor"
                ),
            )
        ),
        component=_Component(
            type="container",
            name=name,
            version=result.digest,
            bom_ref=f"image:{result.digest}",
            purl=purl,
            properties=_properties(
                reference=result.reference,
                platform=result.inventory.platform,
                manifest=result.inventory.manifest,
            ),
        ),
        properties=(*_properties(status=result.status.value, advisories=result.match.revision), *gaps),
    )


def _operating_system(result: ImageResult) -> tuple[_Component, ...]:
    release = result.inventory.os_release
    if release is None:
        return ()
    return (
        _Component(
            type="operating-system",
            name=clean_text(release.id),
            version=clean_text(release.version_id),
            bom_ref=f"os:{clean_text(release.id)}",
            properties=_properties(pretty_name=release.pretty_name),
        ),
    )


def _component(installed: InstalledPackage) -> _Component:
    package = installed.package
    return _Component(
        type="library",
        name=clean_text(package.name),
        version=clean_text(package.version),
        bom_ref=_ref(installed.purl, package.path, installed.layer),
        purl=clean_text(installed.purl),
        licenses=(_License(license=_LicenseName(name=clean_text(package.license))),) if package.license else (),
        properties=_properties(
            path=package.path, layer=installed.layer, owner=installed.owner, source_package=package.source_name
        ),
    )


def _vulnerability(finding: Finding, components: dict[str, _Component]) -> _Vulnerability:
    target = _ref(finding.purl, finding.path, finding.layer)
    others = dict.fromkeys(name for name in (finding.advisory, *finding.aliases) if name != finding.vulnerability)
    method = next((name for prefix, name in _METHODS if finding.vector.startswith(prefix)), "")
    known = finding.score is not None and 0 <= finding.score <= 10
    return _Vulnerability(
        bom_ref=_ref(finding.vulnerability, target, finding.advisory),
        id=clean_text(finding.vulnerability),
        source=_Source(name=clean_text(finding.advisory), url=_url(finding.url)) if finding.advisory else None,
        references=tuple(_Reference(id=clean_text(name), source=_Source(name="OSV")) for name in others if name),
        ratings=(
            _Rating(
                # nobody rated it: INFO is the control plane's word for that, CycloneDX has its own
                severity=_SEVERITY[finding.severity] if finding.severity_source else "unknown",
                source=_Source(name=clean_text(finding.severity_source)) if finding.severity_source else None,
                score=finding.score if known else None,
                method=method,
                vector=clean_text(finding.vector) if method else "",
            ),
        ),
        description=clean_text(finding.title),
        detail=clean_text(finding.description),
        recommendation=clean_text(f"update to {finding.fixed_version}") if finding.fixed_version else "",
        # only what the document holds: a dangling reference makes it invalid
        affects=(_Affects(ref=target),) if target in components else (),
        properties=_properties(
            state=finding.state, affected_range=finding.affected_range, matched_name=finding.matched_name
        ),
    )


def _properties(**values: str) -> tuple[_Property, ...]:
    return tuple(
        _Property(name=_PROPERTY + name.replace("_", "-"), value=clean_text(value))
        for name, value in values.items()
        if value
    )


def _ref(*parts: str) -> str:
    """An id inside the document: unique for its parts, and without characters that a reader may trip over."""
    return "ref:" + hashlib.sha256("\0".join(clean_text(part) for part in parts).encode()).hexdigest()[:32]


def _url(text: str) -> str:
    """A link as the schema wants it (iri-reference), or nothing."""
    text = clean_text(text)
    return quote(text, safe=":/?#[]@!$&'()*+,;=%~") if text.startswith(("http://", "https://")) else ""


def _said(*parts: str) -> str:
    return clean_text(": ".join(part for part in parts if part))
