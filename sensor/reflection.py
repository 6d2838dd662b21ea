"""What was shown to a server and comes back in its answer: refusals that quote the password, error pages that list the request's headers.

An error is made for people to read. So whatever was secret in a request is taken out of the error that answers it, before anybody else sees
it. Pure; where requests are sent (`transport`, the cloud SDKs' own connections) this is asked.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl, quote, quote_plus

_HEADERS = re.compile(r"(?i)(?:authorization|token|secret|cookie|api-key|identity-header)$")
_FIELDS = re.compile(r"(?i)(?:password|passwd|secret|assertion|token)$")
_SHORTEST = 6
"""What is shorter cannot be told from a word; taking it out would mangle every text."""
_HEAD = 16
"""Of a long secret so much of the beginning is enough to be recognised: servers cut what they quote."""
_LONG = 24
_MOST_BODY = 256 * 1024
_GAP = b"***"


def secrets_shown(headers: Mapping[str, str], body: bytes | None = None) -> tuple[str, ...]:
    """The secrets in a request: in its headers, and in the fields of its form or JSON."""
    found: dict[str, None] = {}
    for name, value in headers.items():
        if _HEADERS.search(name):
            found.update(dict.fromkeys(_of_header(value)))
    if body is not None and len(body) <= _MOST_BODY:
        found.update(dict.fromkeys(_of_body(body)))
    return tuple(sorted((one for one in found if len(one) >= _SHORTEST), key=len, reverse=True))


def without_secrets(text: bytes, secrets: tuple[str, ...]) -> bytes:
    """A text with `***` in place of secrets, in whichever of the usual forms they are: plain, base64, percent-encoded, as JSON."""
    for secret in secrets:
        for form in _forms(secret):
            text = text.replace(form, _GAP)
            if len(form) >= _LONG:
                text = re.sub(re.escape(form[:_HEAD]) + rb"[^\s\"'<>]*", _GAP, text)
    return text


def _of_header(value: str) -> Iterator[str]:
    yield value
    scheme, _, rest = value.partition(" ")
    yield rest
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(rest, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return
        yield pair
        yield pair.partition(":")[2]


def _of_body(body: bytes) -> Iterator[str]:
    try:
        text = body.decode()
        fields = json.loads(text).items() if text.startswith("{") else parse_qsl(text)
    except (ValueError, RecursionError):
        return
    for name, value in fields:
        if isinstance(value, str) and _FIELDS.search(name):
            yield value


def _forms(secret: str) -> Iterator[bytes]:
    plain = secret.encode("utf-8", "surrogateescape")
    yield plain
    yield base64.b64encode(plain).rstrip(b"=")
    yield from (quote(plain, safe="").encode(), quote_plus(plain).encode(), json.dumps(secret)[1:-1].encode())
