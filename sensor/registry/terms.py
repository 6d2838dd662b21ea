"""Who is talked to and on what terms: the address of a registry, where its credential comes from, what may be done with it.

Values and ports alone; `session` keeps to them, `kinds` fill them in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from sensor.errors import ConfigError, RegistryError
from sensor.registry.login import Answer, Credential
from sensor.registry.port import covers


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a registry is. `scheme` is empty when the configuration leaves it open; `path` is "" or begins with a slash."""

    host: str
    scheme: str = ""
    path: str = ""
    """Base below which everything of the distribution protocol lies."""
    namespace: str = ""
    """Repositories outside of it are not asked for, and the credential is not for them: `team`, `project/repository`. Empty: no bound."""
    named: str = ""
    """The host as references name it, where another one serves it: docker.io for registry-1.docker.io."""

    def covers(self, repository: str) -> bool:
        """Whether a repository lies within the namespace."""
        return covers(self.namespace, repository)


def parse_address(url: str) -> Address:
    """Read `host[:port]`, with or without a scheme, a path and a pasted `/v2/` behind it.

    Raises:
        ConfigError: no host, another scheme, or a user name in it.
    """
    advice = "expected host[:port], or the same with http:// or https:// in front"
    text = url.strip()
    shown = re.sub(r"^(\w+://)?[^/]*@", r"\1", text.partition("?")[0])[:200]  # neither a password nor a token
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        port = parts.port
    except ValueError as error:
        message = f"not the address of a registry: {shown!r}"
        raise ConfigError(message, advice) from error
    if parts.username is not None:
        message = f"the address of a registry must not hold a user name: {(parts.hostname or '')[:200]!r}"
        raise ConfigError(message, "use the keys username and password")
    if not parts.hostname or parts.scheme not in {"", "http", "https"} or parts.query or parts.fragment or " " in text:
        message = f"not the address of a registry: {shown!r}"
        raise ConfigError(message, advice)
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = parts.path.rstrip("/").removesuffix("/v2")
    return Address(host=f"{name}:{port}" if port else name, scheme=parts.scheme, path=path)


class CredentialSource(Protocol):
    """Where the credential of a registry comes from: the configuration, or a cloud's identity service."""

    async def credential(self, *, renew: bool) -> Credential | None:
        """The credential now, None for an anonymous client. `renew`: the last one was refused, look again.

        Raises:
            SecretError: it cannot be read.
        """


@runtime_checkable
class TellingSource(Protocol):
    """A credential source that can say why it has given none although one was to be expected."""

    @property
    def missing(self) -> str:
        """Why the last answer was None; empty where nothing was to be expected."""


def missing_credential(source: object) -> str:
    """Why a source has given no credential, where it can say so."""
    return source.missing if isinstance(source, TellingSource) else ""


@runtime_checkable
class ClosingSource(Protocol):
    """A credential source that holds something open: an identity of the machine, with its own connections."""

    async def close(self) -> None:
        """Release it. The session does so when it is closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A request that did not succeed, for a kind that can say why in its provider's own words."""

    error: RegistryError
    answer: Answer | None = None
    """The last answer; None when the login service answered, or none was waited for."""
    credential: Credential | None = field(default=None, repr=False)
    scope: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What may be done in a conversation: the operator's and the provider kind's say."""

    insecure: bool = False
    trusted_realms: tuple[str, ...] = ()
    expired: Callable[[Answer], bool] = lambda _answer: False
    """Whether a 400 or 403 means an expired login (ECR)."""
    doubtful: Callable[[Answer], bool] = lambda _answer: False
    """Whether a token service's refusal is to be heard twice, after a pause, because it may mean throttling (GHCR)."""
    prefer_basic: bool = False
    """Send Basic where a token is asked for too: the token service does not tell a wrong password (Harbor)."""
    explain: Callable[[Refusal], RegistryError] = lambda refusal: refusal.error
    """The provider's own words for an error."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request to the registry itself."""
