"""What Test Connection found out, as a value and as a document with stable keys. No I/O, and nothing secret in it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sensor.pacing import Quota
from sensor.registry.port import Standing

Outcome = Literal["ok", "failed", "skipped"]
Access = Literal["anonymous", "authenticated", "none"]
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
class Notice:
    """Something that works, but should be looked at. `code` is a stable word for scripts."""

    code: str
    message: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """Another provider that the answer of `GET /v2/` looks like."""

    provider: str
    title: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the names of repositories come from: the provider's API, `_catalog`, or the configuration."""

    name: str = ""
    """Empty: from nowhere, they cannot be listed."""
    repositories: int = 0
    complete: bool = True
    """Whether these are all; a test asks for the first pages only."""
    reason: str = ""
    """Why they are not all there are, or why they could not be listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What Test Connection found out."""

    name: str = ""
    url: str = ""
    provider: str = ""
    provider_title: str = ""
    provider_reason: str = ""
    """Why it is taken for that provider."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What the URL tells besides: account, region, project."""
    looks_like: Guess | None = None

    reachable: bool
    """Whether something answered in HTTP (for a layout: whether it is there)."""
    authenticated: bool | None
    """Whether the credential itself was accepted; None: that could not be told. Never true for an anonymous client."""
    access: Access
    can_list: bool | None = None
    """None: not tried, or no answer that tells."""
    can_pull: bool | None = None
    latency_ms: float | None = None
    usable: bool = False
    """Whether a sweep would work. A catalogue that cannot be listed is no obstacle when a named repository could be read."""

    method: str = ""
    """Which way of logging in is used."""
    identity: str = ""
    credential_expires: float | None = None
    """Unix time; None: never, or not told."""
    may_write: bool | None = None
    standing: str = ""
    """What the three above were read from, or why they could not be."""
    other: Standing | None = None
    """What is told of another credential than the registry's login: that of the provider's API."""
    source: Source | None = None
    quota: Quota | None = None
    clock_skew: float | None = None
    """Seconds by which our clock is ahead of the registry's; None: it told no time."""
    requests: int = 0

    detail: str
    """`reachable but unauthenticated`, `authentication failed`, or how it went, with the reason behind it."""
    problem: str = ""
    """A stable word for what stands in the way (see `check_findings.problem_of`); empty: nothing does."""
    advice: str = ""
    """The first thing to do."""
    notices: tuple[Notice, ...] = ()
    steps: tuple[Step, ...] = ()


def describe_report(report: Report) -> dict[str, object]:
    """The report as a document for scripts and for the console. Keys stay; new ones may come. Times are ISO 8601 in UTC."""
    guess, source, quota = report.looks_like, report.source, report.quota
    return {
        "registry": report.name,
        "url": report.url,
        "provider": report.provider,
        "providerTitle": report.provider_title,
        "providerReason": report.provider_reason,
        "detectedBy": {"reason": report.provider_reason, "facts": dict(report.facts)},
        "looksLike": guess and {"provider": guess.provider, "title": guess.title, "reason": guess.reason},
        "reachable": report.reachable,
        "authenticated": report.authenticated,
        "access": report.access,
        "canList": report.can_list,
        "canPull": report.can_pull,
        "latencyMs": report.latency_ms,
        "usable": report.usable,
        "method": report.method,
        "identity": report.identity,
        "credentialExpires": shown_time(report.credential_expires),
        "mayWrite": report.may_write,
        "standing": report.standing,
        "apiCredential": report.other
        and {
            "setting": report.other.whose,
            "identity": report.other.identity,
            "expires": shown_time(report.other.expires),
            "mayWrite": report.other.may_write,
            "detail": report.other.detail,
        },
        "listing": source
        and {
            "source": source.name,
            "repositories": source.repositories,
            "complete": source.complete,
            "reason": source.reason,
        },
        "quota": quota
        and {
            "limit": quota.limit,
            "remaining": quota.remaining,
            "windowSeconds": quota.window or None,
            "source": quota.source,
        },
        "clockSkewSeconds": None if report.clock_skew is None else round(report.clock_skew),
        "requests": report.requests,
        "detail": report.detail,
        "problem": report.problem,
        "advice": report.advice,
        "warnings": [
            {"code": notice.code, "message": notice.message, "advice": notice.advice} for notice in report.notices
        ],
        "steps": [
            {"name": step.name, "outcome": step.outcome, "detail": step.detail, "advice": step.advice}
            for step in report.steps
        ],
    }


def shown_time(moment: float | None) -> str | None:
    """ISO 8601 in UTC of a Unix time; None when there is none, or none that a calendar has."""
    if moment is None:
        return None
    try:
        return dt.datetime.fromtimestamp(moment, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return None
