"""Judgements of Test Connection: what an answer, an error, a token, a date mean, in words to act on. Pure.

Who asks, and in which order, is `check_steps`' business.
"""

from __future__ import annotations

import html
import re
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import msgspec

from sensor.errors import ConfigError, DataError, NetworkError, RegistryError, SecretError, SensorError
from sensor.failures import ProxyRefused, ProxyUnreachable, Refused, TimedOut, Unresolved, proxy_refused
from sensor.registry.check_report import Notice, shown_time
from sensor.registry.errors import (
    AUTHENTICATION_FAILED,
    CannotEnumerate,
    ImageWithheld,
    NotARegistry,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    RegistryUnavailable,
    inert,
    is_html,
    shown_url,
)
from sensor.registry.login import Accepted, Basic, Credential
from sensor.registry.port import Method, Standing
from sensor.registry.tokens import Granted, granted
from sensor.route import redirect_target, shown_host
from sensor.tls import Expired, NotTls, TlsOnly, Untrusted, WrongName
from sensor.transport import Reply

_MOST_SKEW = 300.0
"""Seconds that two clocks may differ: what token services and signed requests put up with (AWS and Azure: 5 minutes)."""
_DAY = 86_400.0
_EXPIRES_SOON = 14 * _DAY
_TITLE = re.compile(rb"<title[^>]*>([^<]{1,300})", re.IGNORECASE)
_NOBODIES = frozenset({"00000000-0000-0000-0000-000000000000", "<token>", "oauth2accesstoken", "_token", "AWS"})
"""User names that go with a token of whomever, and name nobody."""
_PLAIN_BASES = frozenset({b"", b"{}", b"true", b"[]", b"null"})
"""Bodies of `GET /v2/` in use; the specification asks for none."""

_PROBLEMS: tuple[tuple[type[SensorError], str], ...] = (
    (Unresolved, "dns"),
    (Refused, "refused"),
    (TimedOut, "timeout"),
    (ProxyRefused, "proxy_refused"),
    (ProxyUnreachable, "proxy_unreachable"),
    (Expired, "tls_expired"),
    (WrongName, "tls_name"),
    (Untrusted, "tls_untrusted"),
    (NotTls, "not_tls"),
    (TlsOnly, "tls_only"),
    (NotARegistry, "not_a_registry"),
    (CannotEnumerate, "cannot_list"),
    (RegistryForbidden, "forbidden"),
    (RegistryNotFound, "not_found"),
    (RegistryRateLimited, "rate_limited"),
    (RegistryUnavailable, "out_of_order"),
    (ImageWithheld, "withheld"),
    (SecretError, "credential_unreadable"),
    (ConfigError, "configuration"),
    (DataError, "broken_answer"),
    (NetworkError, "network"),
)


def problem_of(error: SensorError) -> str:
    """A stable word for an error; `unexpected_answer` when none fits better."""
    if isinstance(error, RegistryUnauthorized):
        return "authentication_failed" if AUTHENTICATION_FAILED in error.message else "unauthenticated"
    return next((word for kind, word in _PROBLEMS if isinstance(error, kind)), "unexpected_answer")


def step_of(error: SensorError) -> str:
    """The step in which an error without an answer of the registry arose."""
    match error:
        case Unresolved():
            return "resolve"
        case Untrusted() | NotTls() | TlsOnly() | ConfigError():  # what is wrong there is the file of authorities
            return "tls"
        case Refused() | TimedOut(connected=False) | ProxyRefused() | ProxyUnreachable():
            return "connect"
        case NetworkError(retryable=False):
            return "tls"
        case SecretError():
            return "login"
        case _:
            return "ping"


def judge_base(reply: Reply) -> SensorError | None:
    """What is wrong with an answer to `GET /v2/` that cannot be a registry's, or None when it may be one."""
    host, status = shown_host(reply.url), reply.status
    if status == 407:
        return proxy_refused(host, status)
    if 300 <= status < 400 and (location := reply.headers.get("location")):
        return _redirected(reply.url, location)
    page = is_html(reply.body, reply.headers.get("content-type", ""))
    if status == 511 or (status == 200 and page):
        return NotARegistry(
            f"GET {shown_url(reply.url)}: status {status}, a web page{_title(reply.body)} instead of a registry's answer",
            "it may be a captive portal, a proxy's page, or the provider's web interface: check host, port and path; "
            "log in to the portal, or name the host in http.no_proxy",
        )
    if status == 403 and page and "docker-distribution-api-version" not in reply.headers:
        return RegistryForbidden(
            f"GET {shown_url(reply.url)}: status 403, a web page{_title(reply.body)}",
            "a proxy or firewall in between seems to block it: allow the host there, or name it in http.no_proxy",
        )
    return None


def _redirected(url: str, location: str) -> SensorError:
    """A registry does not send its clients elsewhere with `GET /v2/`."""
    try:
        target = redirect_target(url, location)
    except DataError as error:
        return NotARegistry(f"GET {shown_url(url)}: {error.message}", "check host, port and path")
    here, there = urlsplit(url), urlsplit(target)
    if here.hostname != there.hostname:
        return NotARegistry(
            f"GET {shown_url(url)}: redirected to another host, {shown_url(target)}",
            "that is a captive portal, a login page, or the registry's new address: open it in a browser from this network, "
            "and write the registry's own host",
        )
    if (here.scheme, there.scheme) == ("http", "https"):
        return TlsOnly(
            f"GET {shown_url(url)}: redirected to {shown_url(target)}",
            "write https:// in front of the host, and no insecure",
        )
    return NotARegistry(
        f"GET {shown_url(url)}: redirected to {shown_url(target)}",
        "that is a login page or a web interface, not a registry: check port and path",
    )


def _title(page: bytes) -> str:
    found = _TITLE.search(page[:65536])
    text = inert(html.unescape(found[1].decode("utf-8", "replace")))[:80].strip() if found else ""
    return f" ({text!r})" if text else ""


def is_odd_base(reply: Reply) -> bool:
    """Whether a good answer to `GET /v2/` is unlike any registry's: JSON with something in it, or plain text. Only a suspicion."""
    if reply.status != 200 or "docker-distribution-api-version" in reply.headers:
        return False
    body = reply.body.strip()
    if body in _PLAIN_BASES:
        return False
    try:
        return bool(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True


def not_a_registry(reply: Reply) -> NotARegistry:
    """The error when an odd answer was followed by nothing that a registry says."""
    return NotARegistry(
        f"GET {shown_url(reply.url)}: status {reply.status}, but what answers there does not speak the distribution protocol",
        "check host, port and path: another web service listens there",
    )


# -- who we are there --------------------------------------------------------------------------------------------------


def judge_login(accepted: Accepted | None, *, open_base: bool) -> tuple[bool | None, str]:
    """Whether a configured credential was accepted, as far as the last answer tells, and the reason.

    A token that was let pass proves nothing by itself: some services give an anonymous one to a wrong password. `open_base`: `GET /v2/`
    was answered without a login.
    """
    if accepted is None or accepted.way == "nothing":
        return None, "the registry did not ask for the credential"
    if accepted.way == "basic" or (accepted.way == "static" and not open_base):
        return True, "the credential was accepted"
    claims = granted_by(accepted)
    if claims is None:
        reason = (
            "the registry answers without a login too"
            if accepted.way == "static"
            else "the token does not say whose it is"
        )
        return None, reason
    if claims.anonymous:
        return False, "the token service gave an anonymous token in spite of the credential"
    if claims.subject in _NOBODIES:
        return True, "the credential was accepted"
    return True, f"the token is for {claims.subject}"


def granted_by(accepted: Accepted | None) -> Granted | None:
    """The claims of the token that was let pass, where it is a token that tells."""
    return granted(accepted.token.value) if accepted and accepted.way == "token" and accepted.token else None


def shown_user(credential: Credential | None) -> str:
    """The user name that is logged in with, where it names somebody."""
    return credential.username if isinstance(credential, Basic) and credential.username not in _NOBODIES else ""


def standing_notices(standing: Standing, now: float) -> list[Notice]:
    """What to say about a credential that works: that it ends, that it may do too much."""
    notices = []
    what = standing.whose or "the credential"
    when = shown_time(standing.expires)
    if standing.expires is not None and when is not None:
        left = standing.expires - now
        if left <= 0:
            notices.append(Notice(code="expired", message=f"{what} has expired on {when}", advice="issue a new one"))
        elif left <= _EXPIRES_SOON:
            days = int(left // _DAY)
            soon = f"in {days} day{'' if days == 1 else 's'}" if days else "in less than a day"
            message = f"{what} expires on {when}, {soon}"
            notices.append(Notice(code="expires_soon", message=message, advice="issue a new one before that"))
    if standing.may_write:
        message = f"{what} could push or delete; a sensor needs neither"
        notices.append(Notice(code="may_write", message=message, advice="use one that may only read"))
    return notices


def method_notices(method: Method, *, named: bool = False, given: bool = True) -> list[Notice]:
    """What to say about the way of logging in. `named`: the configuration names repositories; `given`: there is a credential."""
    notices = []
    if method.complaint:  # it says itself what to do
        notices.append(Notice(code="credential_form" if given else "no_credential", message=method.complaint))
    if not method.pulls:
        message = f"with this way of logging in ({method.name}) private images cannot be pulled"
        notices.append(Notice(code="cannot_pull_private", message=message, advice="use another way for private images"))
    if not method.lists and not named:
        message = f"with this way of logging in ({method.name}) repositories cannot be listed"
        notices.append(Notice(code="cannot_list", message=message, advice="name them in repositories.names"))
    return notices


# -- time --------------------------------------------------------------------------------------------------------------


def clock_skew(reply: Reply, now: float) -> float | None:
    """Seconds by which `now` is ahead of the Date of an answer (RFC 9110, 6.6.1), its age in caches included; None without one."""
    try:
        told = parsedate_to_datetime(reply.headers.get("date", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    age = reply.headers.get("age", "")
    return now - told - (int(age) if age.isascii() and age.isdigit() and len(age) < 9 else 0)


def clock_words(skew: float | None) -> str:
    """That the clocks differ too much; empty when they do not."""
    if skew is None or abs(skew) <= _MOST_SKEW:
        return ""
    minutes = round(abs(skew) / 60)
    amount = f"{minutes} minutes" if minutes < 120 else f"{round(abs(skew) / 3600)} hours"
    return f"this machine's clock is {amount} {'ahead of' if skew > 0 else 'behind'} the registry's"


def pause_words(error: SensorError, now: float) -> str:
    """When a registry that is busy may be asked again; empty when it did not say."""
    if not isinstance(error, RegistryError) or error.retry_after is None:
        return ""
    return f"again in {error.retry_after:.0f} s, at {shown_time(now + error.retry_after)}"
