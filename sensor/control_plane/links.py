"""Links: the distinct (control-plane URL, key) pairs of a configuration, and which registry reports over which.

A hosted key is scoped to one registry, so a registry may bring its own. Each link registers, beats and polls for itself, and an undelivered result
remembers the name of its link. Pure.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from sensor.config.notation import on_disk
from sensor.config.schema import Config, ControlPlane, Registry
from sensor.errors import ConfigError
from sensor.route import Route, hosts_of
from sensor.secret import InPlace, SecretSource, describe_source


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One control plane under one key. Pauses are seconds.

    `name` is stable between starts and never made from the key. `registries` are the names of those that report over this link. `default_registry` is
    the host that completes a job's reference without one: the configured one, or, for a link that belongs to one registry alone, that registry's.
    """

    name: str
    url: str
    fallback: tuple[str, ...] = ()
    """Further addresses of the same control plane, for when the first does not answer."""
    api_key: SecretSource | None
    """None only where the link is offline."""
    registries: tuple[str, ...] = ()
    is_default: bool = False
    sensor_name: str = ""
    heartbeat: float = 30.0
    poll: float = 15.0
    default_registry: str = ""
    fallback_registries: tuple[str, ...] = ()
    """Hosts that are tried for a reference without one when the default one does not have it."""
    allow_hosts: tuple[str, ...] = ()
    """Patterns of further hosts that jobs may name; see `hosts`."""
    reports_catalogue: bool = True
    has_bucket: bool = False
    """Whether the control plane reads the bucket of the `s3` section: only the top-level one does."""
    is_offline: bool = False
    """Nothing is sent and nobody is asked: results wait in the outbox for `outbox export`."""
    route: Route = field(default_factory=Route)

    @property
    def is_plain_http(self) -> bool:
        """Whether the key crosses the network unencrypted, which is usual only inside one compose network."""
        return self.url.startswith("http://")


def normal_url(url: str) -> str:
    """The base URL without the trailing slashes: a double slash in a path is answered by a redirect that would lose a POST (section 2.1).

    Raises:
        ConfigError: not an http or https URL with a host, or one with a query, a fragment or credentials in it.
    """
    text = url.strip().rstrip("/")
    try:
        parts = urlsplit(text)
        usable = bool(parts.scheme in {"http", "https"} and parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
        parts = urlsplit("")
    if not usable or parts.query or parts.fragment or "@" in parts.netloc or any(c.isspace() for c in text):
        # the URL itself is not repeated: it may carry a password
        message = "control_plane.url is not a base URL"
        raise ConfigError(message, "expected for example https://harborguard.co or http://dashboard:3000")
    scheme, host = parts.scheme, parts.netloc.lower()
    return f"{scheme}://{host}{parts.path}"


def links_of(config: Config) -> tuple[Link, ...]:
    """All links of a configuration, the top-level one first. Equal (URL, key source) pairs are one link.

    Raises:
        ConfigError: a URL is unusable, or a registry has a key of its own but there is no URL anywhere.
    """
    found: dict[tuple[str, SecretSource | None], Link] = {}
    default = config.control_plane
    if default is not None:
        link = _link(config, default.url, default.api_key, "control_plane", default)
        found[link.url, link.api_key] = replace(
            link,
            is_default=True,
            default_registry=default.default_registry,
            fallback_registries=default.fallback_registries,
        )
    for registry in config.registries:
        own = registry.control_plane
        if own is None:
            if default is not None:
                key = (normal_url(default.url), default.api_key)
                found[key] = replace(found[key], registries=(*found[key].registries, registry.name))
            continue
        url = own.url or (default.url if default is not None else "")
        if not url:
            message = f"registries.{registry.name}.control_plane has no url"
            raise ConfigError(message, "set it there, or set control_plane.url")
        link = _link(config, url, own.api_key, f"registries.{registry.name}", default)
        link = found.get((link.url, link.api_key), link)
        found[link.url, link.api_key] = replace(
            link,
            registries=(*link.registries, registry.name),
            allow_hosts=tuple(dict.fromkeys((*link.allow_hosts, *own.allow_hosts))),
        )
    return tuple(_with_hosts(_with_default_registry(link, config), default) for link in found.values())


def link_of(links: tuple[Link, ...], registry: str) -> Link | None:
    """The link over which a registry reports; the default link for a registry that is not configured (one-shot scans); None without any."""
    bound = next((link for link in links if registry in link.registries), None)
    return bound or next((link for link in links if link.is_default), None)


def _link(config: Config, url: str, key: SecretSource | None, section: str, default: ControlPlane | None) -> Link:
    base = normal_url(url)
    # a literal key is told apart by where it stands, for a name that is stable and tells nothing of the key
    source = f"{section}.api_key" if key is None or isinstance(key, InPlace) else describe_source(key)
    suffix = hashlib.sha256(f"{base}\0{source}".encode()).hexdigest()[:8]
    known = default is not None and normal_url(default.url) == base
    # certificate authorities and proxy belong to the address: another address starts from the `http` section
    same = default if known else None
    ca_file, proxy = (same.ca_file, same.proxy) if same is not None else ("", "")
    fallback = tuple(map(normal_url, same.fallback)) if same is not None else ()
    return Link(
        name=f"{urlsplit(base).netloc}-{suffix}",
        url=base,
        fallback=fallback,
        api_key=key,
        sensor_name=default.name if default is not None else "",
        heartbeat=default.heartbeat if default is not None else 30.0,
        poll=default.poll if default is not None else 15.0,
        is_offline=same is not None and same.offline,
        has_bucket=same is not None and not same.offline and config.s3 is not None,
        reports_catalogue=default.catalogue if default is not None else True,
        route=Route(
            ca_file=ca_file or config.http.ca_file,
            proxy=proxy or config.http.proxy,
            no_proxy=config.http.no_proxy,
            client_certificate=same.client_certificate if same is not None else "",
            client_key=same.client_key if same is not None else "",
            client_hosts=hosts_of(base, *fallback),
        ),
    )


def _with_default_registry(link: Link, config: Config) -> Link:
    if link.default_registry or link.is_default or len(link.registries) != 1:
        return link
    registry = config.registry(link.registries[0])
    return replace(link, default_registry=_host(registry)) if registry is not None else link


def _with_hosts(link: Link, default: ControlPlane | None) -> Link:
    """What the operator named for references without a host is allowed too; without any registries everything is."""
    if default is None or not link.is_default:
        return link
    given = default.allow_hosts if default.allow_hosts is not None else () if link.registries else ("*",)
    named = (default.default_registry, *default.fallback_registries)
    return replace(link, allow_hosts=tuple(dict.fromkeys(host for host in (*link.allow_hosts, *given, *named) if host)))


def _host(registry: Registry) -> str:
    url = registry.url
    if on_disk(url) is not None:
        return ""
    return url.partition("://")[2].partition("/")[0] if "://" in url else url.partition("/")[0]
