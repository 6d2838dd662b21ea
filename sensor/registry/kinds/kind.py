"""What a provider of registries is: one value, in one file, named in one line of `KINDS`.

Kinds differ in who they recognise, where the credential comes from, how repositories and tags are best listed, and a few numbers. All
of that is data or a function here; the protocol itself is `client`'s and `session`'s and is written once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from sensor.config.schema import Http
from sensor.config.schema import Registry as Settings
from sensor.errors import SecretError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.registry.client import Quirks, RegistryClient
from sensor.registry.login import Answer, Basic, Credential, StaticToken
from sensor.registry.port import Registry
from sensor.registry.session import Address, CredentialSource, Session, Terms, parse_address
from sensor.route import Route
from sensor.secret import Secret, read_secret
from sensor.transport import Retry, Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What is at hand when a registry is opened."""

    settings: Settings
    http: Http
    limits: Limits = DEFAULT_LIMITS
    connections_per_host: int = 8
    retry: Retry | None = None
    """How patiently requests are repeated; None: as suits a daemon."""

    @property
    def route(self) -> Route:
        """How to reach it: the registry's own settings before the general ones."""
        return Route(
            ca_file=self.settings.ca_file or self.http.ca_file,
            proxy=self.settings.proxy or self.http.proxy,
            no_proxy=self.http.no_proxy,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryKind:
    """A provider. Copy a file, change the value, add one line to `KINDS`."""

    name: str
    """As `provider:` in the configuration names it."""
    detect: Callable[[str], str | None]
    """Why a URL belongs to this provider (shown by `test` and the wizard), or None. Looks at the text only."""
    credentials: Callable[[Opening, Transport], CredentialSource] = field(
        default=lambda opening, _transport: ConfiguredCredential(opening.settings)
    )
    """Where the credential comes from; a cloud's kind asks the machine's identity here."""
    address: Callable[[Opening], Address] = field(default=lambda opening: parse_address(opening.settings.url))
    realms: tuple[str, ...] = ()
    """Hosts of the provider's own token service, besides the registry's."""
    expired: Callable[[Answer], bool] = field(default=lambda _answer: False)
    """Whether a 403 means an expired login rather than a missing right."""
    quirks: Quirks = field(default_factory=Quirks)
    open: Callable[[RegistryKind, Opening], Registry] = field(default_factory=lambda: open_over_http)
    """Only what is not a registry over HTTP needs its own."""


class ConfiguredCredential:
    """User name and password, or a token, from where the configuration says; read at first use and again after a refusal."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._read = False
        self._credential: Credential | None = None
        self._reading = asyncio.Lock()

    async def credential(self, *, renew: bool) -> Credential | None:
        """The configured credential; None when there is none.

        Raises:
            SecretError: its source cannot be read, or holds something that cannot be sent.
        """
        async with self._reading:
            if renew or not self._read:
                self._credential = await asyncio.to_thread(self._load)
                self._read = True
            return self._credential

    def _load(self) -> Credential | None:
        settings = self._settings
        if settings.token is not None:
            return StaticToken(token=_one_line(read_secret(settings.token), settings.name))
        if settings.password is None:
            return None
        if ":" in settings.username:
            message = f"the user name of registry {settings.name} contains a colon"
            raise SecretError(message, "HTTP Basic cannot carry it (RFC 7617)")
        return Basic(username=settings.username, password=_one_line(read_secret(settings.password), settings.name))


def _one_line(secret: Secret, registry: str) -> Secret:
    if not secret.reveal().isprintable():
        message = f"the credential of registry {registry} contains line breaks or control characters"
        raise SecretError(message, "store the secret alone, on one line")
    return secret


def open_over_http(kind: RegistryKind, opening: Opening) -> RegistryClient:
    """A client for a registry of this kind, not yet connected.

    Raises:
        ConfigError: the URL is unusable, or plain HTTP that was not allowed.
    """
    settings = opening.settings
    address = kind.address(opening)
    transport = Transport(
        opening.route,
        limits=opening.limits,
        connections_per_host=opening.connections_per_host,
        retry=opening.retry,
    )
    terms = Terms(
        insecure=settings.insecure and address.scheme != "https",
        trusted_realms=(*kind.realms, *settings.trusted_realms),
        expired=kind.expired,
        headers=dict(kind.quirks.headers),
    )
    session = Session(address, transport, kind.credentials(opening, transport), terms=terms, limits=opening.limits)
    return RegistryClient(session, kind.quirks)
