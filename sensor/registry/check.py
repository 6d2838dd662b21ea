"""Test Connection: one step after the other, each with what came of it and what to do.

The three values that HarborGuard's wizard shows (reachable, authenticated, latencyMs) and its two promised phrases come from `ping`; the
steps after it answer the question that matters more: would a sweep find and read anything with this credential?
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal

from sensor.errors import NetworkError, RegistryError, SensorError
from sensor.model.manifest import Descriptor, Index, Manifest, is_attestation
from sensor.registry.port import Registry
from sensor.tls import NotTls, TlsOnly, Untrusted
from sensor.transport import Unresolved

Outcome = Literal["ok", "failed", "skipped"]
STEPS = ("resolve", "connect", "tls", "ping", "login", "catalog", "tags", "manifest", "blob")
"""In order: the name, a connection, the certificate, `GET /v2/`, the credential, repositories, tags, a manifest, a blob."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step and its outcome. A step is skipped when an earlier one has failed or when there is nothing to try it on."""

    name: str
    outcome: Outcome
    detail: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What Test Connection found out."""

    reachable: bool
    authenticated: bool
    latency_ms: float | None
    detail: str
    """`reachable but unauthenticated`, `authentication failed`, or how it went, with the reason behind it."""
    steps: tuple[Step, ...]

    @property
    def usable(self) -> bool:
        """Whether a sweep would work. A catalogue that cannot be listed is no obstacle when a named repository could be read."""
        failed = {step.name for step in self.steps if step.outcome == "failed"}
        read = any(step.name == "tags" and step.outcome == "ok" for step in self.steps)
        return self.reachable and self.authenticated and not (failed - ({"catalog"} if read else set()))


@dataclass(slots=True)
class _Progress:
    steps: list[Step] = field(default_factory=list)

    def ok(self, name: str, detail: str = "") -> None:
        self.steps.append(Step(name=name, outcome="ok", detail=detail))

    def failed(self, name: str, error: SensorError) -> None:
        self.steps.append(Step(name=name, outcome="failed", detail=error.message, advice=error.advice))

    def skipped(self, name: str, detail: str) -> None:
        self.steps.append(Step(name=name, outcome="skipped", detail=detail))

    def finish(self, reason: str) -> tuple[Step, ...]:
        """All steps in order; those that were not reached are skipped with the reason."""
        done = {step.name: step for step in self.steps}
        return tuple(done.get(name) or Step(name=name, outcome="skipped", detail=reason) for name in STEPS)


async def check_registry(registry: Registry, sample_repository: str | None = None) -> Report:
    """Try everything a sweep does, on one repository. Never raises for what is wrong with the registry: it reports.

    `sample_repository` is one that the configuration names; without it the first of the catalogue is taken.
    """
    progress = _Progress()
    try:
        ping = await registry.ping()
    except SensorError as error:
        _explain_connection(progress, error)
        reachable = isinstance(error, RegistryError)
        detail = str(error)
        steps = progress.finish("not reached")
        return Report(reachable=reachable, authenticated=False, latency_ms=None, detail=detail, steps=steps)
    progress.ok("resolve")
    progress.ok("connect")
    if ping.scheme == "https":
        progress.ok("tls")
    else:
        progress.skipped("tls", "plain HTTP" if ping.scheme == "http" else "not over the network")
    progress.ok("ping", f"{ping.latency_ms:.0f} ms")
    if ping.authenticated:
        progress.ok("login", ping.detail)
    else:
        progress.steps.append(Step(name="login", outcome="failed", detail=ping.detail))
    reason = await _check_reading(registry, sample_repository, progress) if ping.authenticated else "not logged in"
    return Report(
        reachable=ping.reachable,
        authenticated=ping.authenticated,
        latency_ms=round(ping.latency_ms, 1),
        detail=ping.detail,
        steps=progress.finish(reason),
    )


def _explain_connection(progress: _Progress, error: SensorError) -> None:
    """Put a failed ping down to the step it failed in."""
    if isinstance(error, Unresolved):
        progress.failed("resolve", error)
        return
    if isinstance(error, NetworkError) and not isinstance(error, (Untrusted, NotTls, TlsOnly)):
        progress.failed("connect", error)
        return
    progress.ok("resolve")
    progress.ok("connect")
    progress.failed("tls" if isinstance(error, NetworkError) else "ping", error)


async def _check_reading(registry: Registry, sample: str | None, progress: _Progress) -> str:
    """Catalogue, tags, manifest, blob. Returns why the steps that were not reached are skipped."""
    try:
        listing = await registry.repositories()
        found = f"{len(listing.names)} repositories" + ("" if listing.complete else f" (partial: {listing.reason})")
        progress.ok("catalog", found)
        sample = sample or next(iter(listing.names), None)
    except SensorError as error:
        progress.failed("catalog", error)
    if sample is None:
        return "no repository to try"
    name = "tags"
    try:
        tags = await registry.tags(sample)
        progress.ok("tags", f"{sample}: {len(tags.names)} tags")
        if not tags.names:
            return f"{sample} has no tags"
        name = "manifest"
        manifest, shown = await _some_manifest(registry, sample, tags.names[-1])
        progress.ok("manifest", shown)
        if manifest is None:
            return "an empty index"
        name = "blob"
        await _touch_blob(registry, sample, manifest.config)
        progress.ok("blob", str(manifest.config.digest))
    except SensorError as error:
        progress.failed(name, error)
    return "an earlier step failed"


async def _some_manifest(registry: Registry, repository: str, tag: str) -> tuple[Manifest | None, str]:
    """The manifest behind a tag; of an index, that of its first image."""
    fetched = await registry.manifest(repository, tag)
    shown = f"{repository}:{tag} is {fetched.digest}"
    for _ in range(2):
        if isinstance(fetched.document, Manifest):
            return fetched.document, shown
        child = _first_image(fetched.document)
        if child is None:
            return None, shown
        fetched = await registry.manifest(repository, child.digest)
    return (fetched.document if isinstance(fetched.document, Manifest) else None), shown


def _first_image(index: Index) -> Descriptor | None:
    return next((child for child in index.manifests if not is_attestation(child)), None)


async def _touch_blob(registry: Registry, repository: str, descriptor: Descriptor) -> None:
    """Read the start of a blob, which takes every redirect that a layer would take."""
    chunks = registry.blob(repository, descriptor)
    if isinstance(chunks, AsyncGenerator):
        async with contextlib.aclosing(chunks):
            await anext(chunks, b"")
    else:
        await anext(chunks, b"")
