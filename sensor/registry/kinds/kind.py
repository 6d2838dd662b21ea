"""What a provider of registries is: one value, in one file, named in one line of `KINDS`.

Kinds differ in who they recognise, where the credential comes from, how repositories and tags are best listed, what their errors mean, and
a few numbers. All of that is data or a function here; the protocol itself is `client`'s and `session`'s and is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from sensor.config.schema import Http
from sensor.config.schema import Registry as Settings
from sensor.errors import RegistryError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.pacing import Budgets, Rate
from sensor.registry.client import RegistryClient
from sensor.registry.credentials import Anonymous, ConfiguredCredential
from sensor.registry.docker_config import DockerConfigCredential
from sensor.registry.errors import RegistryForbidden, RegistryUnauthorized
from sensor.registry.login import Answer, Basic, Credential, StaticToken
from sensor.registry.native import Native, api_fault
from sensor.registry.port import Method, Registry
from sensor.registry.programs import PluginCredential
from sensor.registry.quirks import Quirks
from sensor.registry.session import Session
from sensor.registry.terms import Address, CredentialSource, Refusal, Terms, missing_credential, parse_address
from sensor.route import Route, hosts_of
from sensor.transport import Reply, Retry, Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What is at hand when a registry is opened."""

    settings: Settings
    http: Http
    limits: Limits = DEFAULT_LIMITS
    connections_per_host: int = 8
    retry: Retry | None = None
    """How patiently requests are repeated; None: as suits a daemon."""
    budgets: Budgets | None = None
    """Shared with all others that talk to the same hosts; None: its own."""

    @property
    def route(self) -> Route:
        """How to reach it: the registry's own settings before the general ones."""
        return Route(
            ca_file=self.settings.ca_file or self.http.ca_file,
            proxy=self.settings.proxy or self.http.proxy,
            no_proxy=self.http.no_proxy,
            client_certificate=self.settings.client_certificate,
            client_key=self.settings.client_key,
            client_hosts=hosts_of(self.settings.url, self.settings.api.url, *self.settings.trusted_realms),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A registry that is being opened, for what its kind builds on top: the provider's own API."""

    opening: Opening
    address: Address
    transport: Transport
    """For the API too: connections, pacing and the count of requests are shared."""
    session: Session
    credentials: CredentialSource

    @property
    def settings(self) -> Settings:
        """The configured registry."""
        return self.opening.settings

    @property
    def insecure(self) -> bool:
        """Whether plain HTTP is allowed: not where the registry's own URL says https://, whatever else is configured."""
        return self.settings.insecure and self.address.scheme != "https"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """Why a URL belongs to a provider (shown by `test` and the wizard), and what else it tells: account, region, project."""

    reason: str
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryKind:
    """A provider. Copy a file, change the value, add one line to `KINDS`."""

    name: str
    """As `provider:` in the configuration names it."""
    title: str
    """As people call it."""
    detect: Callable[[str], Detection | None]
    """Whether a URL belongs to this provider. Looks at the text only; any text."""
    recognise: Callable[[Reply], str | None] = lambda _reply: None
    """Why an answer to `GET /v2/` looks like this provider's, where the URL cannot tell. For hints only: nothing is switched by it."""
    credentials: Callable[[Opening, Transport], CredentialSource] = field(
        default=lambda opening, _transport: configured(opening)
    )
    """Where the credential comes from; a cloud's kind asks the machine's identity here."""
    method: Callable[[Settings, Credential | None], Method] = field(
        default=lambda _settings, given: plain_method(given)
    )
    """Which way of logging in a credential is."""
    address: Callable[[Opening], Address] = field(default=lambda opening: parse_address(opening.settings.url))
    uses: frozenset[str] = frozenset()
    """Sections of a registry's settings that not every provider knows, and this one does: `aws`, `gcp`, `azure`, `github_app`, `api`, and
    `api.url` where the API takes no credential of its own. What is set and not used is refused."""
    has_paths: bool = True
    """Whether a path in the URL means something: a namespace, a repository of repositories."""
    web_sites: Mapping[str, str] = field(default_factory=dict)
    """Hosts that show the provider's web pages alone, each with that of the registry: what people copy from their browser."""
    realms: tuple[str, ...] = ()
    """Hosts of the provider's own token service, besides the registry's."""
    expired: Callable[[Answer], bool] = field(default=lambda _answer: False)
    """Whether a 400 or 403 means an expired login rather than a missing right."""
    prefer_basic: bool = False
    """See `Terms.prefer_basic`."""
    doubtful: Callable[[Answer], bool] = field(default=lambda _answer: False)
    """See `Terms.doubtful`."""
    explain: Callable[[Refusal], RegistryError] = field(default=lambda refusal: refusal.error)
    """Says an error in the provider's own words: the role or scope to grant, the state of an image (`ImageWithheld`)."""
    quirks: Quirks = field(default_factory=Quirks)
    rates: Callable[[Settings], Mapping[str, Rate]] = field(default=lambda _settings: {})
    """What the provider's documentation allows of all requests, by host[:port]; the empty name is the registry's own."""
    listing_rate: Callable[[Settings], Rate | None] = field(default=lambda _settings: None)
    """How many pages of listings a second the provider's documentation allows."""
    native: Callable[[Connection], Native] | None = None
    """The provider's own API for listing."""
    open: Callable[[RegistryKind, Opening], Registry] = field(default_factory=lambda: open_over_http)
    """Only what is not a registry over HTTP needs its own."""


def configured(opening: Opening) -> CredentialSource:
    """The credential that the configuration names, whichever of the ways it is."""
    settings = opening.settings
    if settings.auth == "anonymous":
        return Anonymous()
    if settings.docker_config is None and settings.plugin is None:
        return ConfiguredCredential(settings)
    address = namespaced_address(opening)
    if settings.docker_config is not None:
        return DockerConfigCredential(settings.docker_config, address.host, address.namespace)
    assert settings.plugin is not None  # noqa: S101 - for the type checker
    return PluginCredential(settings.plugin, f"{address.host}/{address.namespace}".rstrip("/"))


def has_configured(settings: Settings) -> bool:
    """Whether the configuration names a credential, so that no identity of the machine is wanted."""
    return settings.auth == "anonymous" or any(
        source is not None for source in (settings.password, settings.token, settings.docker_config, settings.plugin)
    )


def plain_method(credential: Credential | None) -> Method:
    """The way to log in where a provider has no names of its own for them."""
    match credential:
        case Basic():
            return Method(name="user name and password")
        case StaticToken():
            return Method(name="bearer token")
        case _:
            return Method(name="anonymous")


def namespaced_address(opening: Opening) -> Address:
    """The address of a registry at the root of its host; a path in the URL is the namespace that the credential is for.

    Raises:
        ConfigError: the URL is unusable.
    """
    address = parse_address(opening.settings.url)
    return Address(host=address.host, scheme=address.scheme, namespace=address.path.strip("/"))


def host_of(url: str) -> str:
    """The host name in a URL, with or without a scheme, in lower case; empty when there is none. Takes any text."""
    try:
        return (urlsplit(url if "://" in url else f"//{url}").hostname or "").rstrip(".")
    except ValueError:
        return ""


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
        budgets=opening.budgets,
    )
    for host, rate in kind.rates(settings).items():
        transport.budget(f"//{host or address.host}").pace(rate)
    credentials = kind.credentials(opening, transport)
    terms = Terms(
        insecure=settings.insecure and address.scheme != "https",
        trusted_realms=(*kind.realms, *settings.trusted_realms),
        expired=kind.expired,
        prefer_basic=kind.prefer_basic,
        doubtful=kind.doubtful,
        explain=_explaining(kind, settings, credentials),
        headers=dict(kind.quirks.headers),
    )
    session = Session(address, transport, credentials, terms=terms, limits=opening.limits)
    native = None
    if kind.native is not None:
        connection = Connection(
            opening=opening, address=address, transport=transport, session=session, credentials=credentials
        )
        native = kind.native(connection)
    return RegistryClient(
        session,
        kind.quirks,
        native,
        method=lambda credential: kind.method(settings, credential),
        leave=settings.quota.leave,
        listing_rate=kind.listing_rate(settings),
        namespaces=tuple(name.strip("/") for name in settings.repositories.namespaces),
        api_fault=lambda error: api_fault(settings, error),
    )


def _explaining(
    kind: RegistryKind, settings: Settings, credentials: CredentialSource
) -> Callable[[Refusal], RegistryError]:
    """The kind's words; a refused login that looks wrong in the first place, or has found no credential, is told so."""

    def explain(refusal: Refusal) -> RegistryError:
        error = kind.explain(refusal)
        if not isinstance(error, (RegistryUnauthorized, RegistryForbidden)):
            return error
        given = refusal.credential
        complaint = missing_credential(credentials) if given is None else kind.method(settings, given).complaint
        if complaint and complaint not in error.advice:
            return type(error)(error.message, f"{complaint}; {error.advice}" if error.advice else complaint)
        return error

    return explain
