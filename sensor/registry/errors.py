"""How a registry can disappoint, with the words for it.

    RegistryError (sensor/errors.py)
    ├── RegistryUnauthorized   401: nobody is logged in, or the credential was refused
    ├── RegistryForbidden      logged in, but without the right (or, as many registries hide it: no such repository)
    ├── RegistryNotFound       no such repository, tag, manifest or blob
    ├── RegistryRateLimited    429, or a pause that the registry asked for
    ├── RegistryUnavailable    5xx
    ├── ImageWithheld          listed, but held back by a rule of the registry: quarantine, policy, archive, lock
    ├── CannotEnumerate        repositories cannot be listed with this credential; says nothing about whether there are any
    ├── NotARegistry           a web page, or something else that does not speak the distribution protocol
    └── UnexpectedAnswer       anything else that the protocol does not provide for

Messages carry the request (method and URL without its query, which may hold a signature) and the status. No I/O here: the pure
parts of the package raise these too.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import msgspec

from sensor.errors import RegistryError

UNAUTHENTICATED = "reachable but unauthenticated"
"""The promised wording for a 401 when no credential is configured."""
AUTHENTICATION_FAILED = "authentication failed"
"""The promised wording for a 401 in spite of a credential."""

_PLAIN_HTTP_TO_TLS = re.compile(rb"HTTP request (?:was sent )?to (?:an )?HTTPS (?:server|port)", re.IGNORECASE)
_MOST_DETAIL = 300


def as_refused_login(message: str) -> str:
    """A message with the promised wording for a refused credential in front, once."""
    return message if AUTHENTICATION_FAILED in message else f"{AUTHENTICATION_FAILED}: {message}"


class RegistryUnauthorized(RegistryError):
    """The registry wants a login: none is configured, or the configured one was refused."""


class RegistryForbidden(RegistryError):
    """The credential is good but lacks the right, or the repository does not exist: most registries hide which."""


class RegistryNotFound(RegistryError):
    """There is no such repository, tag, manifest or blob."""


class RegistryRateLimited(RegistryError):
    """The registry wants a pause; `retry_after` says how long, if it said."""

    retryable = True


class RegistryUnavailable(RegistryError):
    """The registry has a failure of its own."""

    retryable = True


class ImageWithheld(RegistryError):
    """The registry holds an image back by a rule of its own. That is no fault: the image is skipped, with this reason."""


class CannotEnumerate(RegistryError):
    """Repositories cannot be listed. This is not an empty registry: nothing may be concluded from it."""

    fault = ""
    """What is wrong with the configured `api`, where that is the reason; see `native.api_fault`."""


class NotARegistry(RegistryError):
    """What answers there is no registry."""


class UnexpectedAnswer(RegistryError):
    """An answer that the distribution protocol does not provide for."""


class _Item(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Body(msgspec.Struct):
    errors: tuple[_Item, ...] | None = None
    details: object = None
    detail: object = None
    message: object = None
    """Docker Hub's token service and API say `details` and `detail`, GitHub and GitLab `message`."""


def shown_url(url: str) -> str:
    """A URL for messages: without user, query and fragment, which may carry secrets."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "an unreadable URL"
    return inert(f"{parts.scheme}://{host}{parts.path}")


def inert(text: str) -> str:
    """Text from outside, cut and without control characters, fit for a message."""
    return "".join(c if c.isprintable() else " " for c in text)[:_MOST_DETAIL].strip()


def error_detail(body: bytes) -> str:
    """Codes and messages of an error body (OCI distribution 1.1, "Error Codes"), or its first words when it is plain text."""
    try:
        said = msgspec.json.decode(body, type=_Body)
        found = "; ".join(f"{item.code}: {item.message}".strip(": ") for item in (said.errors or ())[:3])
        return inert(
            found or next((one for one in (said.details, said.detail, said.message) if isinstance(one, str)), "")
        )
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return "" if is_html(body) or body[:1] in b"{[" else inert(body[:_MOST_DETAIL].decode("utf-8", "replace"))


def error_codes(body: bytes) -> frozenset[str]:
    """The codes of an error body, in capitals."""
    try:
        return frozenset(item.code.upper() for item in msgspec.json.decode(body, type=_Body).errors or ())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return frozenset()


def is_html(body: bytes, content_type: str = "") -> bool:
    """Whether an answer is a web page: a login form, a portal, a proxy's block page."""
    return content_type.lower().startswith(("text/html", "application/xhtml")) or (
        body[:512].lstrip().lower().startswith((b"<!doctype html", b"<html"))
    )


def answer_error(  # noqa: PLR0911 - a table in prose
    method: str, url: str, status: int, body: bytes = b"", *, content_type: str = "", retry_after: float | None = None
) -> RegistryError:
    """The error for an answer whose status ends a request. 401 is login's business; it is mapped here for completeness."""
    detail = error_detail(body)
    message = f"{method} {shown_url(url)}: status {status}" + (f", {detail}" if detail else "")
    if status == 400 and _PLAIN_HTTP_TO_TLS.search(body):
        return UnexpectedAnswer(
            f"{message}; the port speaks TLS", "write https:// in front of the host and drop `insecure`"
        )
    if status == 401:
        return RegistryUnauthorized(f"{AUTHENTICATION_FAILED}: {message}", "check user name and password")
    if status in {403, 451}:
        return RegistryForbidden(message, "give this credential the right to pull and list, or exclude the repository")
    if status == 412:
        return ImageWithheld(message, "a policy of the registry blocks pulling this image; lift it for this credential")
    if status == 404:
        if is_html(body, content_type):
            return NotARegistry(f"{message}, a web page", "check host, port and path: this is not a registry's address")
        return RegistryNotFound(message, "it may have been deleted; check the name")
    if status == 429:
        return RegistryRateLimited(
            message, "the registry limits requests; they are repeated later", retry_after=retry_after
        )
    if status >= 500 or status == 408:
        return RegistryUnavailable(
            message, "look at the registry's own log; the request is repeated later", retry_after=retry_after
        )
    if is_html(body, content_type):
        return NotARegistry(f"{message}, a web page", "check host, port and path: this is not a registry's address")
    if 300 <= status < 400:
        return UnexpectedAnswer(message, "the registry redirects in a way that is not followed; use its final address")
    return UnexpectedAnswer(message, "check that the URL is that of a registry")
