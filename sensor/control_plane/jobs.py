"""From a claimed job to a request for a scan, or to the words with which it is refused. Pure.

A claim is for ever, so every job gets an answer: what cannot be done is refused with a text that says what was given and what would work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sensor.control_plane.wire import Job
from sensor.errors import DataError
from sensor.model.reference import DOCKER_HUB, Reference, parse_reference
from sensor.model.request import JobRequest

ENGINE = "harborguard-sensor"
SERVED: Mapping[str, str] = {
    ENGINE: "vulnerabilities, packages",
    "trivy": "vulnerabilities, packages",
    "grype": "vulnerabilities",
    "osv": "vulnerabilities",
    "syft": "packages",
}
"""Scanners that a dashboard may ask for, and what of theirs the sensor's own engine gives."""
UNSERVED: Mapping[str, str] = {"dockle": "compliance", "dive": "efficiency"}
"""And those whose kind of findings it does not give."""

_COLON_DIGEST = re.compile(r":(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$")
_SCHEME = re.compile(r"^https?://", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A job that cannot be done. With `has_scan` a FAILED envelope goes first, else the scan would run for ever on the dashboard."""

    job: str
    reason: str
    reference: str = ""
    has_scan: bool = True


def request_of(
    job: Job, *, link: str, default_registry: str = "", fallback_registries: tuple[str, ...] = ()
) -> JobRequest | Refusal:
    """What a job asks for.

    A reference without a host is completed by `default_registry`, and by each of `fallback_registries` for when there is no such image; without
    either the job is refused.
    """
    kind = job.type.strip().lower()
    if kind != "scan":
        return Refusal(
            job=job.id,
            reason=f"this sensor does not know jobs of type {job.type[:50]!r}, only SCAN",
            has_scan=False,
        )
    scan = job.scan
    if scan is None or not scan.image_ref.strip():
        return Refusal(job=job.id, reason="the job names no image to scan")
    given = scan.image_ref.strip()
    source = scan.source.strip().lower()
    if (refused := _refused_source(source)) is not None:
        return Refusal(job=job.id, reason=f"{refused} (the job names {given[:300]!r})", reference=given)
    try:
        reference = repaired_reference(given)
    except DataError as error:
        return Refusal(job=job.id, reason=f"the job's image reference is unusable: {error}", reference=given)
    if reference.registry:
        return JobRequest(link=link, job=job.id, reference=str(reference), scanners=scan.scanners)
    hosts = dict.fromkeys(host for host in (default_registry, *fallback_registries) if host)
    if not hosts:
        return Refusal(job=job.id, reason=_hostless(given, reference), reference=given)
    first, *others = (str(at_registry(host, reference)) for host in hosts)
    return JobRequest(link=link, job=job.id, reference=first, scanners=scan.scanners, fallbacks=tuple(others))


def repaired_reference(text: str) -> Reference:
    """Read a reference as dashboards write it: with a scheme, a digest in the tag's place, or a default tag behind a complete reference.

    Raises:
        DataError: still not a reference.
    """
    text = _SCHEME.sub("", text.strip()).rstrip("/")
    # `name:sha256:...`: the dashboard joins name and tag by a colon, and the tag was a digest
    if "@" not in text:
        text = _COLON_DIGEST.sub(r"@\1", text)
    head, slash, last = text.rpartition("/")
    name, at, digest = last.partition("@")
    # `app:2:latest`, `app@sha256:...:latest`: it appended its default tag to a name that was complete
    if digest.count(":") == 2:
        digest = digest.rpartition(":")[0]
    if name.count(":") == 2:
        name = name.rpartition(":")[0]
    return parse_reference(f"{head}{slash}{name}{at}{digest}")


def scanner_notes(scanners: tuple[str, ...]) -> tuple[str, ...]:
    """One sentence for each scanner asked for that was not run, for the result. No names mean the sensor's defaults, and no note."""
    notes = []
    for name in dict.fromkeys(name.strip().lower() for name in scanners):
        if (kind := UNSERVED.get(name)) is not None:
            notes.append(
                f"{kind} is not served: {name} was asked for, and this sensor's engine has nothing of that kind"
            )
        elif name not in SERVED:
            notes.append(f"{name[:50]!r} was asked for; this sensor does not know it")
    return tuple(notes)


def served_scanners(scanners: tuple[str, ...], version: str) -> dict[str, str]:
    """For each other scanner asked for that the engine stands in for: what it gives, and who did it, in the place of that one's version."""
    asked = dict.fromkeys(name.strip().lower() for name in scanners)
    return {name: f"{SERVED[name]} by {ENGINE} {version}" for name in asked if name in SERVED and name != ENGINE}


def _refused_source(source: str) -> str | None:
    match source:
        case "registry" | "registry_private" | "":
            return None
        case "tar":
            return "this sensor reads images from registries; a tar file on the dashboard's disk is out of its reach"
        case "docker" | "local":
            return "this sensor reads images from registries and has no Docker socket; push the image to a registry"
        case "s3":
            return "this sensor reads images from registries, not from an S3 bucket"
        case _:
            return f"this sensor does not know the image source {source[:50]!r}, only registry"


def _hostless(given: str, reference: Reference) -> str:
    return (
        f"the job names {given[:300]!r} without a registry host, and guessing one could scan another image of the same name; "
        f"set control_plane.default_registry, or start the scan with the full reference, such as registry.example.com/{reference}"
    )


def at_registry(registry: str, reference: Reference) -> Reference:
    """The reference, completed by a host; a short name at Docker Hub stands below `library`."""
    is_short = registry.lower() in DOCKER_HUB and "/" not in reference.repository
    repository = f"library/{reference.repository}" if is_short else reference.repository
    return Reference(registry=registry, repository=repository, tag=reference.tag, digest=reference.digest)
