"""Bearer tokens: where one may be asked for, and how long it lives. Pure; the order of the dance is in `login`.

The realm of a challenge is a URL that the other side chose, so it is checked before a secret goes there (CNCF distribution, "Token
Authentication Specification"; the SSRF findings against other clients).
"""

from __future__ import annotations

import base64
import ipaddress
import re
import socket
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

import msgspec

from sensor.registry.errors import UnexpectedAnswer
from sensor.secret import Secret

_NO_LIFE_GIVEN = 60.0
"""Seconds, from the token specification, when neither `expires_in` nor the token itself tells."""
_LONGEST_LIFE = 86400.0
"""No issuer means more; a wrong unit (milliseconds) does."""
_METADATA_NAMES = frozenset({"metadata.google.internal", "metadata", "instance-data"})
_PRIVATE_SUFFIXES = (".local", ".internal", ".lan", ".home.arpa", ".localhost", ".intranet", ".corp")
_MOST_TOKENS = 10_000
"""About 2 KiB each, so that a sweep over a large registry does not fetch them anew every time."""
_NUMERIC = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}", re.IGNORECASE)
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""Networks with IPv6 alone reach IPv4 addresses by these (RFC 6052)."""
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A bearer token, with the moment (of the caller's clock) from which a new one is fetched instead."""

    value: Secret = field(repr=False)
    renew_at: float

    @property
    def header(self) -> str:
        """The Authorization value."""
        return f"Bearer {self.value.reveal()}"

    def fresh(self, now: float) -> bool:
        """Whether it may still be used."""
        return now < self.renew_at


@dataclass(frozen=True, slots=True)
class TokenKey:
    """What a token is good for."""

    realm: str
    service: str
    scope: str

    @property
    def url(self) -> str:
        """Where to ask for it."""
        told = (("service", self.service), ("scope", self.scope))
        query = "&".join(f"{name}={quote(value, safe=':/,*')}" for name, value in told if value)
        return self.realm + (f"{'&' if urlsplit(self.realm).query else '?'}{query}" if query else "")


class TokenCache:
    """Tokens of one login by what they are good for. A registry may have any number of repositories, each with its own."""

    def __init__(self, most: int = _MOST_TOKENS) -> None:
        self._most = most
        self._tokens: dict[TokenKey, Token] = {}
        self._issued: dict[TokenKey, int] = {}

    def get(self, key: TokenKey, now: float) -> Token | None:
        """A token that may still be used."""
        token = self._tokens.get(key)
        return token if token is not None and token.fresh(now) else None

    def put(self, key: TokenKey, token: Token, now: float) -> None:
        """Keep a new token. Where there is no room, those that are over are dropped, else the oldest tenth."""
        if len(self._tokens) >= self._most and key not in self._tokens:
            over = [old for old, kept in self._tokens.items() if not kept.fresh(now)]
            for old in over or list(self._tokens)[: max(self._most // 10, 1)]:
                del self._tokens[old]
        if len(self._issued) >= 2 * self._most and key not in self._issued:
            self._issued = {kept: count for kept, count in self._issued.items() if kept in self._tokens}
        self._tokens[key] = token
        self._issued[key] = self.issued(key) + 1

    def issued(self, key: TokenKey) -> int:
        """How many tokens a key has seen."""
        return self._issued.get(key, 0)

    def drop(self, key: TokenKey, header: str | None) -> None:
        """A token was refused; one that another flow has got meanwhile stays."""
        kept = self._tokens.get(key)
        if kept is not None and kept.header == header:
            del self._tokens[key]

    def clear(self) -> None:
        """Forget all tokens: they were for another credential."""
        self._tokens.clear()


def covers_scope(asked: str, wanted: str) -> bool:
    """Whether one scope (`type:name:actions`) holds all that another one does."""
    (what, _, may), (which, _, needs) = asked.rpartition(":"), wanted.rpartition(":")
    return what == which and set(needs.split(",")) <= set(may.split(","))


class _TokenBody(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None
    expires_in: float | str | None = None


class _Claims(msgspec.Struct):
    exp: float | None = None
    iat: float | None = None
    nbf: float | None = None


class _Access(msgspec.Struct):
    type: str = ""
    name: str = ""
    actions: tuple[str, ...] = ()


class _Grants(msgspec.Struct):
    sub: str | None = None
    access: tuple[_Access, ...] | None = None
    exp: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """What a token says of itself. Nothing of it is verified: for information only, never for a decision about rights."""

    subject: str
    """Who it was given to; empty for an anonymous client (CNCF distribution, "Token Authentication Implementation", `sub`)."""
    access: tuple[str, ...] = ()
    """`type:name:actions`, as scopes are written."""
    expires: float | None = None
    """Unix time, by the issuer's clock."""

    @property
    def anonymous(self) -> bool:
        """Whether it was given to nobody. Some issuers have a name for that: `(anonymous)`, `.../users/anonymous`."""
        return self.subject.rpartition("/")[2].strip("()").lower() in {"", "anonymous"}


def granted(token: Secret) -> Granted | None:
    """The claims of a token that is a JWT with a subject; None for any other token (most are opaque)."""
    try:
        claims = msgspec.json.decode(jwt_payload(token.reveal()), type=_Grants)
    except (ValueError, msgspec.DecodeError, RecursionError):
        return None
    if claims.sub is None:
        return None
    access = (f"{entry.type}:{entry.name}:{','.join(entry.actions)}" for entry in claims.access or ())
    return Granted(
        subject=_printable(claims.sub), access=tuple(map(_printable, access)), expires=_seconds(claims.exp) or None
    )


def jwt_payload(token: str) -> bytes:
    """The claims of a JWT, as JSON (RFC 7519); nothing is verified. Raises ValueError for anything else."""
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError
    return base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:300])


def parse_token(body: bytes, now: float, realm: str) -> Token:
    """Read the answer of a token endpoint. `now` is the caller's clock, `realm` is for the message.

    Raises:
        UnexpectedAnswer: not JSON, or no token in it.
    """
    try:
        answer = msgspec.json.decode(body, type=_TokenBody)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"the token service {realm} did not answer with a token"
        raise UnexpectedAnswer(message, "check the realm in the registry's configuration") from error
    text = answer.token or answer.access_token or ""
    if not _TOKEN.fullmatch(text):
        message = f"the token service {realm} answered without a usable token"
        raise UnexpectedAnswer(message, "look at the log of the token service")
    life = _seconds(answer.expires_in) or _life_of_jwt(text) or _NO_LIFE_GIVEN
    life = min(life, _LONGEST_LIFE)
    return Token(value=Secret(text), renew_at=now + life - min(life / 10, 60.0))


def _seconds(value: float | str | None) -> float:
    """A positive number of seconds, or 0. Some issuers send it as a string."""
    try:
        seconds = float(value or 0)
    except ValueError:
        return 0.0
    return seconds if 0 < seconds < float("inf") else 0.0


def _life_of_jwt(token: str) -> float:
    """Seconds between issue and expiry that the token claims, or 0. The difference, because the issuer's clock may be off."""
    try:
        claims = msgspec.json.decode(jwt_payload(token), type=_Claims)
    except (ValueError, msgspec.DecodeError, RecursionError):
        return 0.0
    start = claims.iat if claims.iat is not None else claims.nbf
    return _seconds(claims.exp - start) if claims.exp is not None and start is not None else 0.0


def refuse_realm(realm: str, origin: str, *, with_secret: bool, trusted: tuple[str, ...] = ()) -> str:
    """Why a realm must not be asked, or "" when it may.

    `origin` is the registry's own scheme://host[:port]. `trusted` are hosts, with or without a port, that the operator or the
    provider's kind has named. A secret goes to the registry's own host and to trusted ones only; without a secret any public host will do.
    """
    try:
        where, own = urlsplit(realm), urlsplit(origin)
        host, port = (where.hostname or "").rstrip("."), where.port
    except ValueError:
        return "its URL is malformed"
    if where.scheme not in {"http", "https"} or not host or where.username is not None:
        return "its URL is not usable"
    if _is_metadata(host):
        return "that is a link-local or metadata address"
    if where.scheme == "http" and own.scheme != "http":
        return "it is plain HTTP, but the registry is HTTPS"
    if host == own.hostname or host in trusted or (port is not None and f"{host}:{port}" in trusted):
        return ""
    if is_private_host(host) and not is_private_host(own.hostname or ""):
        return "a private address was named by a public registry"
    return f"{host} is not the registry's own host and not in trusted_realms" if with_secret else ""


def is_private_host(host: str) -> bool:
    """Whether a host is private by its looks: a private or loopback address, a bare name, or a name of an internal zone."""
    address = _address(host)
    if address is None:
        return "." not in host or host.endswith(_PRIVATE_SUFFIXES)
    return address.is_private or address.is_loopback


def is_loopback_host(host: str) -> bool:
    """Whether a host is this machine."""
    address = _address(host)
    return host == "localhost" or host.endswith(".localhost") if address is None else address.is_loopback


def is_forbidden_target(url: str) -> bool:
    """Whether an answer from outside must not lead there: link-local and metadata addresses, whoever asks."""
    try:
        return _is_metadata((urlsplit(url).hostname or "").rstrip("."))
    except ValueError:
        return True


def _is_metadata(host: str) -> bool:
    if host.lower() in _METADATA_NAMES:
        return True
    address = _address(host)
    if address is None:
        return False
    in_aws = isinstance(address, ipaddress.IPv6Address) and address in ipaddress.ip_network("fd00:ec2::/32")
    return address.is_link_local or address.is_unspecified or address.is_multicast or in_aws


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host is, however it is written; None for a name. Resolvers take `0xa9.254.43518` too (inet_aton)."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host)) if _NUMERIC.fullmatch(host) else None
        except OSError:
            return None
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address in _TRANSLATED):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
