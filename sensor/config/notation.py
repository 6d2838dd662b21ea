"""How a pattern, a duration, a cron expression, a URL and a host are written. `check_...` answer with a complaint in words, or an empty string.

Checks the notation only. What a pattern matches is decided in `catalog.globs`, when a cron expression runs in `triggers.schedule`.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from sensor.config.schema import Cron, Every, Schedule

ON_DISK = {"oci": "layout", "archive": "archive", "oci-archive": "archive", "docker-archive": "archive"}
"""Schemes of registries on disk, with their providers. The last two are skopeo's words for what `archive` tells apart by itself."""


def on_disk(url: str) -> tuple[str, str] | None:
    """Scheme and path of a registry on disk (`oci:/path`, `archive:/path`); None for one on a network. Takes any text."""
    scheme, colon, path = url.partition(":")
    return (scheme, path.removeprefix("//")) if colon and scheme in ON_DISK else None


def check_glob(pattern: str) -> str:
    """What is wrong with a glob, or an empty string. `*`, `**`, `?`, `[a-z]` and `[!a-z]` have a meaning."""
    if not pattern or len(pattern) > 512 or not pattern.isprintable():
        return "expected a pattern of 1 to 512 characters"
    position = 0
    while (position := pattern.find("[", position)) >= 0:
        start = position + (2 if pattern[position + 1 : position + 2] == "!" else 1)
        end = pattern.find("]", start + 1)  # a bracket right after the opening one is a member of the class
        if end < 0:
            return "a [ is not closed"
        for low, high in re.findall(r"(?s)(.)-(.)", pattern[start:end]):
            if low > high:
                return f"the range {low}-{high} is upside down"
        position = end + 1
    return ""


def show_duration(seconds: float) -> str:
    """A duration as the configuration would have it: `90d`, `15m`, `1.5s`."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def show_schedule(schedule: Schedule) -> str:
    """A schedule for people: `daily`, `every 15m`, `cron 30 2 * * *`."""
    match schedule:
        case Every(every=seconds):
            return f"every {show_duration(seconds)}"
        case Cron(cron=expression):
            return f"cron {expression}"
        case word:
            return word


_CRON = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day", 1, 31, ()),
    ("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    ("weekday", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)


def check_cron(expression: str) -> str:
    """What is wrong with a cron expression of five fields (crontab(5)), or an empty string."""
    fields = expression.split()
    if len(fields) != len(_CRON):
        return f"expected five fields (minute hour day month weekday), found {len(fields)}"
    for text, (name, low, high, words) in zip(fields, _CRON, strict=True):
        for part in text.split(","):
            if complaint := _check_cron_part(part, low, high, words):
                return f"{name}: {complaint}"
    return ""


def _check_cron_part(part: str, low: int, high: int, words: tuple[str, ...]) -> str:
    span, slash, step = part.partition("/")
    if slash and not (re.fullmatch(r"[0-9]{1,3}", step) and 1 <= int(step) <= high - low):
        return f"the step after / is not a number from 1 to {high - low}"
    if span == "*":
        return ""
    ends = span.split("-")
    values = []
    for end in ends:
        if end.lower() in words:
            values.append(words.index(end.lower()) + (1 if low else 0))
        elif re.fullmatch(r"[0-9]{1,3}", end) and low <= int(end) <= high:
            values.append(int(end))
        else:
            return f"expected *, or numbers from {low} to {high}"
    if len(values) > 2 or values != sorted(values):
        return "a range must rise, as in 1-5"
    return ""


_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})")


def split_url(text: str) -> SplitResult | None:
    """The parts of a URL, also of one without a scheme; None when it cannot be one."""
    if not text.isprintable() or " " in text:
        return None
    try:
        url = urlsplit(text if "://" in text else f"//{text}")
        _ = url.port  # raises for a port that is no number
    except ValueError:
        return None
    return url


def has_host(url: SplitResult) -> bool:
    """Whether a URL names a host (and no port 0)."""
    host = url.hostname or ""
    return bool(_HOST.fullmatch(host) or _is_address(host)) and url.port != 0


def is_host_port(text: str) -> bool:
    """Whether the text is `host` or `host:port` and nothing else."""
    url = split_url(text)
    return (
        url is not None
        and "://" not in text
        and "@" not in text
        and has_host(url)
        and not (url.path or url.query or url.fragment)
    )


def is_listen_address(text: str) -> bool:
    """Whether the text is `host:port` to listen on; port 0 lets the system choose."""
    host, colon, port = text.rpartition(":")
    good = _HOST.fullmatch(host) or _is_address(host.strip("[]"))
    return bool(colon and good and re.fullmatch(r"[0-9]{1,5}", port) and int(port) <= 65535)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
