"""Test Connection: what the command `test`, and the console's wizard, ask of a configured registry.

`check_connection` finds out which provider it is, opens it, and walks through `check_steps`; `describe_report` makes a document of what came
of it. Plain HTTP that was not allowed is looked at without a credential, so that the operator learns what to set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sensor.config.schema import Http
from sensor.config.schema import Registry as Settings
from sensor.errors import ConfigError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.registry.check_findings import problem_of
from sensor.registry.check_reading import Sample
from sensor.registry.check_report import STEPS, Guess, Notice, Report, Step, describe_report
from sensor.registry.check_steps import check_registry
from sensor.registry.client import RegistryClient
from sensor.registry.credentials import Anonymous
from sensor.registry.kinds import KINDS, detect, find_kind, open_registry
from sensor.registry.kinds.kind import Detection, Opening, RegistryKind
from sensor.registry.port import Registry
from sensor.registry.session import Session
from sensor.registry.terms import Terms, parse_address
from sensor.transport import Reply, Retry, Transport

__all__ = ["Notice", "Report", "Sample", "Step", "check_connection", "check_registry", "describe_report"]

_PAGES = 5
"""Pages of a listing that are asked for: enough to find something to read, and an idea of how much there is."""
_IMPATIENT = Retry(attempts=2, first=0.5, most=5.0)
"""Somebody waits: one more try tells a blip from a fault, and a long pause is reported instead of slept through."""


async def check_connection(
    settings: Settings,
    http: Http | None = None,
    limits: Limits = DEFAULT_LIMITS,
    *,
    wanted: Callable[[str], bool] = lambda _repository: True,
    retry: Retry = _IMPATIENT,
) -> Report:
    """Reach a registry, log in, list, and read one manifest and the start of one blob.

    `wanted` says whether a sweep would look at a repository; one of those is tried. Never raises for what is wrong with the registry or its
    settings: it reports.
    """
    http = http or Http()
    limits = replace(limits, pages=min(limits.pages, _PAGES))
    try:
        kind = find_kind(settings)
    except ConfigError as error:
        return _named(_unopened(error), settings, None)
    opening = Opening(settings=settings, http=http, limits=limits, retry=retry)
    if settings.url.strip().lower().startswith("http://") and not settings.insecure:
        return _named(await _check_in_the_clear(opening), settings, kind)
    try:
        registry = open_registry(settings, http, limits, retry=retry)
    except ConfigError as error:
        return _named(_unopened(error), settings, kind)

    def stranger() -> Registry:
        return open_registry(_without_credential(settings), http, limits, retry=retry)

    try:
        sample = Sample(names=settings.repositories.names, wanted=wanted)
        report = await check_registry(registry, sample, stranger=stranger)
        base = registry.session.base if isinstance(registry, RegistryClient) else None
    finally:
        await registry.close()
    if report.problem == "not_tls" and "://" not in settings.url:
        plain = await _check_in_the_clear(opening)
        report = plain if plain.reachable else report
    return _named(report, settings, kind, base)


def _without_credential(settings: Settings) -> Settings:
    """The same registry for somebody whom nobody knows."""
    nothing = {
        "username": "",
        "password": None,
        "token": None,
        "docker_config": None,
        "plugin": None,
        "github_app": None,
    }
    return settings.model_copy(update={**nothing, "auth": "anonymous"})


async def _check_in_the_clear(opening: Opening) -> Report:
    """A registry that speaks plain HTTP, which its settings do not allow: `GET /v2/`, and nothing secret is even read."""
    try:
        address = replace(parse_address(opening.settings.url), scheme="http")
    except ConfigError as error:
        return _unopened(error)
    transport = Transport(opening.route, limits=opening.limits, retry=opening.retry)
    client = RegistryClient(Session(address, transport, Anonymous(), terms=Terms(insecure=True), limits=opening.limits))
    try:
        return await check_registry(client, bare=True)
    finally:
        await client.close()


def _unopened(error: ConfigError) -> Report:
    """The settings are wrong: nothing was tried."""
    steps = tuple(Step(name=name, outcome="skipped", detail="nothing was tried") for name in STEPS)
    return Report(
        reachable=False,
        authenticated=False,
        access="none",
        detail=error.message,
        problem=problem_of(error),
        advice=error.advice,
        steps=steps,
    )


def _named(report: Report, settings: Settings, kind: RegistryKind | None, base: Reply | None = None) -> Report:
    """The report with what is known about the registry beforehand, and with a guess where its answer is another provider's."""
    if settings.provider == "auto":
        found: Detection | None = detect(settings.url)[1]
        reason = found.reason if found else ""
    else:
        found = kind.detect(settings.url) if kind else None
        reason = "as configured"
    guess = _guess(kind, base) if kind is not None and base is not None else None
    notices = report.notices
    if guess is not None:
        message = f"this looks like {guess.title} ({guess.reason})"
        notices = (Notice(code="provider", message=message, advice=f"set provider: {guess.provider}"), *notices)
        if not report.usable:  # the words for what has failed are those of another provider
            report = replace(report, advice=f"set provider: {guess.provider}; {message}")
    return replace(
        report,
        name=settings.name,
        url=settings.url,
        provider=kind.name if kind else settings.provider,
        provider_title=kind.title if kind else "",
        provider_reason=reason,
        facts=dict(found.facts) if found else {},
        looks_like=guess,
        notices=notices,
    )


def _guess(kind: RegistryKind, base: Reply) -> Guess | None:
    """Another provider that recognises its own answer, unless the one in use does too."""
    if kind.recognise(base):
        return None
    for other in KINDS:
        if other is not kind and (reason := other.recognise(base)):
            return Guess(provider=other.name, title=other.title, reason=reason)
    return None
