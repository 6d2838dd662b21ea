"""Test Connection on an open registry: everything a sweep does, on one image, in about a dozen requests at most.

`check_registry` reaches it, logs in, lists, and reads one manifest and the first byte of one blob. Which provider it is and how it is
opened is `check`'s business; what an answer means is in `check_findings`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

from sensor.errors import NetworkError, SensorError
from sensor.failures import ProxyRefused
from sensor.registry.check_findings import (
    clock_words,
    granted_by,
    is_odd_base,
    judge_base,
    judge_login,
    method_notices,
    not_a_registry,
    pause_words,
    problem_of,
    shown_user,
    standing_notices,
    step_of,
)
from sensor.registry.check_reading import REFUSALS, Sample, Walk, read_sample
from sensor.registry.check_report import STEPS, Access, Notice, Report, Step
from sensor.registry.client import RegistryClient
from sensor.registry.errors import AUTHENTICATION_FAILED, UNAUTHENTICATED, RegistryUnauthorized
from sensor.registry.login import StaticToken
from sensor.registry.port import Ping, Registry, Standing
from sensor.registry.tokens import granted
from sensor.route import shown_host
from sensor.tls import TlsOnly, certificate_of

_GREETING_SECONDS = 5.0
PLAIN_HTTP = "plain HTTP, tested without a credential"


async def check_registry(
    registry: Registry,
    sample: Sample | None = None,
    *,
    stranger: Callable[[], Registry] | None = None,
    bare: bool = False,
    now: Callable[[], float] = time.time,
) -> Report:
    """Try everything a sweep does. Never raises for what is wrong with the registry: it reports.

    `stranger` opens the same registry without a credential; it is asked for one manifest where nothing else tells whether the credential
    made a difference. `bare` asks `GET /v2/` without a credential and nothing else.
    """
    walk = Walk(registry=registry, sample=sample or Sample(), stranger=stranger, now=now)
    try:
        ping = await (_bare_ping(registry) if bare else registry.ping())
        if not bare:
            walk.credential = await walk.session.credential() if walk.session else None
            walk.method = await registry.method()
    except SensorError as error:
        return await _not_reached(walk, error)
    base = walk.session.base if walk.session else None
    if base is not None and (wrong := judge_base(base)):
        return await _not_reached(walk, wrong)
    _reached(walk, ping.scheme)
    walk.ok("ping", f"{ping.latency_ms:.0f} ms")
    if bare:
        return _bare_report(walk, ping)
    given = walk.credential is not None
    walk.notices += method_notices(walk.method, named=bool(walk.sample.names), given=given)
    if walk.credential is not None and ping.scheme == "http":
        message = "the credential is sent in plain HTTP, for everybody on the way to read"
        walk.notices.append(Notice(code="plain_http", message=message, advice="give the registry TLS"))
    who = shown_user(walk.credential)
    refused = RegistryUnauthorized(f"{ping.detail} (logging in as {who})" if who else ping.detail, ping.advice)
    if ping.authenticated:
        walk.ok("login", ping.detail)
        await _who_we_are(walk)
        reason = await read_sample(walk)
    elif walk.credential is None:
        reason = await _read_without_login(walk, refused)
    else:
        walk.failed("login", refused)
        reason = "not logged in"
    return await _conclude(walk, ping, reason)


# -- reaching it -------------------------------------------------------------------------------------------------------


async def _bare_ping(registry: Registry) -> Ping:
    """`GET /v2/` and nothing else."""
    assert isinstance(registry, RegistryClient)  # noqa: S101 - for the type checker
    probe = await registry.session.probe()
    said = "answers without a login" if probe.status == 200 else UNAUTHENTICATED
    return Ping(
        reachable=True,
        authenticated=probe.status == 200,
        latency_ms=probe.latency_ms,
        scheme=probe.scheme,
        detail=f"{said}: {PLAIN_HTTP}",
    )


def _reached(walk: Walk, scheme: str) -> None:
    """The steps below HTTP have all gone well. What a proxy does for us is said as such."""
    session = walk.session
    proxy = session.transport.route.proxy_for(urlsplit(f"//{session.address.host}").hostname or "") if session else None
    if proxy:
        walk.skipped("resolve", "left to the proxy")
        walk.ok("connect", f"through the proxy {shown_host(proxy)}")
    else:
        walk.ok("resolve")
        walk.ok("connect")
    if scheme == "https":
        walk.ok("tls")
    else:
        walk.skipped("tls", "plain HTTP" if scheme == "http" else "not over the network")


async def _not_reached(walk: Walk, error: SensorError) -> Report:
    """Put an error down to the step it arose in: before there was an answer, with a bad answer, or with the login behind a good one."""
    base = walk.session.base if walk.session else None
    if base is None:
        error = await _second_look(walk, error)
        step = step_of(error)
    else:
        error = judge_base(base) or error
        step = "login" if base.status in {200, 401, 403} and judge_base(base) is None else "ping"
    if base is not None:
        _reached(walk, urlsplit(base.url).scheme)
    elif walk.session is None:
        for name in STEPS[:3]:
            walk.skipped(name, "not over the network")
    elif (
        step in {"connect", "tls", "ping"}
        and not isinstance(error, ProxyRefused)
        and problem_of(error) != "configuration"
    ):
        walk.ok("resolve")
        if step != "connect":
            walk.ok("connect")
    if step == "login":
        walk.ok("ping")
    walk.failed("connect" if isinstance(error, ProxyRefused) else step, error)
    return Report(
        reachable=base is not None and not isinstance(error, ProxyRefused),
        authenticated=False,
        access="none",
        clock_skew=walk.skew,
        requests=walk.registry.requests,
        detail=_words(walk, error),
        problem=problem_of(error),
        advice=_advice(walk, error),
        notices=tuple(_timely(walk)),
        steps=walk.finish("not logged in" if step == "login" else "not reached"),
    )


async def _second_look(walk: Walk, error: SensorError) -> SensorError:
    """A port that speaks TLS often just hangs up on plain HTTP: see whether it takes a greeting. Nothing is sent on it."""
    session = walk.session
    if session is None or session.address.scheme != "http" or type(error) is not NetworkError:
        return error
    where = urlsplit(f"//{session.address.host}")
    if session.transport.route.proxy_for(where.hostname or ""):
        return error
    found = await certificate_of(where.hostname, where.port or 80, _GREETING_SECONDS)
    if not found.issuer:
        return error
    message = f"{session.address.host} speaks TLS, but was asked in plain HTTP"
    return TlsOnly(message, "write https:// in front of the host, and no insecure")


def _bare_report(walk: Walk, ping: Ping) -> Report:
    walk.skipped("login", PLAIN_HTTP)
    return Report(
        reachable=True,
        authenticated=False,
        access="anonymous" if ping.authenticated else "none",
        latency_ms=round(ping.latency_ms, 1),
        clock_skew=walk.skew,
        requests=walk.registry.requests,
        detail=ping.detail,
        problem="insecure",
        advice="give the registry TLS; or, if it is internal and trusted, set insecure: true (on the command line: --insecure)",
        notices=tuple(_timely(walk)),
        steps=walk.finish("plain HTTP is not allowed for this registry (insecure: false)"),
    )


# -- logging in --------------------------------------------------------------------------------------------------------


async def _who_we_are(walk: Walk) -> None:
    """Identity, expiry and rights, as far as the provider tells. That it does not is no failure."""
    try:
        walk.standing = await walk.registry.standing()
    except SensorError as error:
        walk.standing = Standing(detail=f"not told: {error.message}")
    if walk.standing.whose:
        walk.other = walk.standing
        walk.notices += standing_notices(walk.other, walk.now())
        walk.standing = Standing(identity=shown_user(walk.credential))
    if walk.standing.expires is None and isinstance(walk.credential, StaticToken):
        claims = granted(walk.credential.token)
        walk.standing = replace(walk.standing, expires=claims.expires if claims else None)
    walk.notices += standing_notices(walk.standing, walk.now())


async def _read_without_login(walk: Walk, refused: RegistryUnauthorized) -> str:
    """Nobody is logged in, but what is public may be readable all the same (Harbor's and others' tokens for one repository)."""
    reason = await read_sample(walk)
    if walk.can_pull:
        walk.skipped("login", refused.message)
        return reason
    walk.forget("catalog", "tags", "manifest", "blob")
    walk.can_list, walk.unlisted = walk.can_list or None, None
    walk.notices.clear()
    walk.failures.clear()
    walk.failed("login", refused)
    return "not logged in"


# -- the conclusion ----------------------------------------------------------------------------------------------------


async def _conclude(walk: Walk, ping: Ping, reason: str) -> Report:
    authenticated, why = await _proof(walk, ping)
    if authenticated is False and walk.credential is not None and ping.authenticated:
        advice = "check the credential: what could be read is what everybody may read"
        walk.failures.insert(0, RegistryUnauthorized(f"{AUTHENTICATION_FAILED}: {why}", advice))
        walk.steps["login"] = Step(name="login", outcome="failed", detail=walk.failures[0].message, advice=advice)
    elif authenticated is None:
        walk.ok("login", f"{ping.detail}, not proven: {why}")
        message = f"whether the credential was accepted cannot be told: {why}"
        walk.notices.append(Notice(code="login_unproven", message=message))
    elif authenticated and walk.steps["login"].outcome == "ok":
        walk.ok("login", f"{ping.detail}, {why}" if why else ping.detail)
    _doubt_registry(walk)
    walk.do_without_list()
    access = _access(walk, ping, authenticated)
    # a catalogue that cannot be listed is no obstacle when a named repository could be read
    counting = [error for error in walk.failures if not (walk.can_pull and error is walk.unlisted)]
    error = next(iter(counting), None)
    session, claims = walk.session, granted_by(walk.session.accepted if walk.session else None)
    return Report(
        reachable=ping.reachable,
        authenticated=authenticated,
        access=access,
        can_list=walk.can_list,
        can_pull=walk.can_pull,
        latency_ms=round(ping.latency_ms, 1),
        usable=error is None and access != "none",
        method=walk.method.name,
        identity=walk.standing.identity or (claims.subject if claims and authenticated else ""),
        credential_expires=walk.standing.expires,
        may_write=walk.standing.may_write,
        standing=walk.standing.detail,
        other=walk.other,
        source=walk.source,
        quota=session.transport.budget(session.base.url).quota if session and session.base else None,
        clock_skew=walk.skew,
        requests=walk.registry.requests + walk.requests,
        detail=_detail(walk, ping, error),
        problem=problem_of(error) if error else "cannot_list" if walk.unlisted else "",
        advice=_advice(walk, error or walk.unlisted),
        # that nothing is encrypted was allowed on purpose: whatever else there is comes first
        notices=tuple(sorted(_timely(walk) + walk.notices, key=lambda notice: notice.code == "plain_http")),
        steps=walk.finish(reason),
    )


async def _proof(walk: Walk, ping: Ping) -> tuple[bool | None, str]:
    """Whether the credential itself was accepted: from what the registry let pass, else by what a stranger is refused."""
    if walk.credential is None or not ping.authenticated:
        return False, ""
    session = walk.session
    assert session is not None  # noqa: S101 - a credential is a session's
    open_base = session.base is not None and session.base.status == 200
    accepted = session.accepted
    proven, why = judge_login(accepted, open_base=open_base)
    if proven is not None or accepted is None or accepted.way == "nothing":
        return proven, why
    if walk.can_pull is False and walk.can_list is not True:
        return None, f"{why}, and nothing was granted with it"
    if walk.stranger is not None and await _stranger_is_refused(walk, walk.stranger):
        return True, "without it the registry refuses"
    if walk.read is not None and walk.stranger is not None:
        return None, "only what is public could be read"
    return None, why


async def _stranger_is_refused(walk: Walk, stranger: Callable[[], Registry]) -> bool:
    """Whether the same request fails without a credential: the manifest that was read, else the login."""
    registry: Registry | None = None
    try:
        registry = stranger()
        if walk.read is None:
            return not (await registry.ping()).authenticated
        await registry.head(*walk.read)
    except REFUSALS:
        return True
    except SensorError:
        return False
    finally:
        if registry is not None:
            walk.requests += registry.requests
            await registry.close()
    return False


def _doubt_registry(walk: Walk) -> None:
    """An odd answer to `GET /v2/`, followed by nothing that a registry says: another web service."""
    base = walk.session.base if walk.session else None
    found = walk.source.repositories if walk.source and walk.can_list else 0
    if base is not None and is_odd_base(base) and not found and not walk.can_pull:
        error = not_a_registry(base)
        walk.failures.insert(0, error)
        walk.steps["ping"] = Step(name="ping", outcome="failed", detail=error.message, advice=error.advice)


def _access(walk: Walk, ping: Ping, authenticated: bool | None) -> Access:  # noqa: FBT001 - three values
    if authenticated:
        return "authenticated"
    if walk.can_list or walk.can_pull:
        return "anonymous"
    # a token that everybody gets is no access yet; an answer without any login is
    base = walk.session.base if walk.session else None
    granted_all = walk.can_list is not False or (base is not None and base.status == 200)
    open_to_all = walk.credential is None and ping.authenticated and walk.can_pull is not False
    return "anonymous" if open_to_all and granted_all else "none"


def _detail(walk: Walk, ping: Ping, error: SensorError | None) -> str:
    if error is not None:
        return _words(walk, error)
    if not walk.can_pull or (walk.unlisted is None and walk.can_list is not False):
        return ping.detail
    return f"{ping.detail}; {'forbidden to list' if walk.can_list is False else 'listing failed'}, but able to pull"


def _words(walk: Walk, error: SensorError) -> str:
    if problem_of(error) != "rate_limited":
        return error.message
    when = pause_words(error, walk.now())
    return f"rate limited: {error.message}" + (f"; {when}" if when else "")


def _advice(walk: Walk, error: SensorError | None) -> str:
    """What to do about an error; where a wrong clock may be behind it, that first."""
    if error is None:
        return ""
    clock = clock_words(walk.skew)
    if clock and problem_of(error) in {"authentication_failed", "forbidden"}:
        return f"{clock}: set it right, tokens depend on it; then {error.advice or 'try again'}"
    return error.advice


def _timely(walk: Walk) -> list[Notice]:
    clock = clock_words(walk.skew)
    return [Notice(code="clock_skew", message=clock, advice="synchronise it (NTP)")] if clock else []
