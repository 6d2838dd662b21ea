"""The registries and links in force: opened when first needed, replaced when the configuration is reloaded.

Implements `judge.Sites`. A client whose settings did not change survives a reload with its tokens and connections; one that was replaced
stays open for the work that still uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from sensor.config.schema import Config, Registry
from sensor.control_plane import wire
from sensor.control_plane.links import Link, link_of, links_of
from sensor.errors import ConfigError
from sensor.limits import Limits
from sensor.model.manifest import Platform, parse_platform
from sensor.model.reference import Reference, same_registry
from sensor.pacing import Budgets
from sensor.registry.kinds import open_registry
from sensor.registry.port import Registry as Client
from sensor.registry.port import covers
from sensor.registry.tokens import is_forbidden_target, is_loopback_host, is_private_host
from sensor.version import VERSION

_MOST_ANONYMOUS = 64
"""Clients kept for hosts that only jobs name. A control plane may name any number of hosts."""


@dataclass(slots=True)
class ConfiguredSites:
    """Registries and links of one configuration."""

    config: Config
    limits: Limits
    agents: Mapping[str, str] = field(default_factory=dict)
    """Agent id of each link, as the control planes gave them."""
    advisories: Callable[[], str] = lambda: ""
    """Which advisories are in force: every result names them and their age."""
    budgets: Budgets = field(default_factory=Budgets)
    """What is asked of each host, over all registries."""
    links: tuple[Link, ...] = ()
    """The links over which registries report now. Their connections are made at the start: a new link is served after a restart."""
    _former: dict[str, Link] = field(default_factory=dict)
    """Links of an earlier configuration: they are served until the end, so their jobs still come."""
    _clients: dict[str, tuple[Registry, Client]] = field(default_factory=dict)
    _anonymous: dict[str, Client] = field(default_factory=dict)
    """By host, the one used last at the end."""
    _replaced: list[Client] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.links = links_of(self.config)

    def names(self) -> tuple[str, ...]:
        """The configured registries."""
        return tuple(registry.name for registry in self.config.registries)

    def registry(self, name: str) -> tuple[Registry, Client]:
        """A configured registry and its client.

        Raises:
            ConfigError: it is not configured (any more), or its address is unusable.
        """
        settings = self.config.registry(name)
        if settings is None:
            message = f"there is no registry {name!r} in the configuration"
            raise ConfigError(message, "it was removed; work for it is dropped")
        return settings, self._client(settings)

    async def registry_for(self, reference: Reference, link: str) -> tuple[Registry, Client]:
        """The registry that serves a reference of a job: one that reports over the job's link.

        Several may share a host: the one with the narrowest namespace that holds the repository has the credential for it. Over the default
        link, a host that is not configured at all is asked without credentials, where `_refuse_host` lets it pass. No link reaches a registry
        of another link: the two may belong to different organisations.

        Raises:
            ConfigError: no registry of the link has that host and repository, and the link may not go elsewhere.
        """
        named = [
            settings
            for settings in self.config.registries
            if same_registry(self._client(settings).host, reference.registry)
        ]
        for settings in sorted(named, key=lambda one: -len(self._client(one).namespace)):
            if not covers(self._client(settings).namespace, reference.repository):
                continue
            reports = self.link_for(settings.name)
            if reports is not None and reports.name == link:
                return settings, self._client(settings)
        found = self._link(link)
        if named or found is None or not found.is_default:
            mine = ", ".join(found.registries) if found is not None else ""
            what = f"{reference.registry}/{reference.repository}" if named else reference.registry
            message = f"{what} is not one of this link's registries ({mine or 'it has none'})"
            raise ConfigError(message, "add the registry to the sensor's configuration, under this control plane")
        if reason := _refuse_host(reference.registry, found.url):
            message = f"{reference.registry} is {reason}, and it is not configured"
            raise ConfigError(message, "if that is meant, add the registry to the sensor's configuration")
        # not even as the machine that it is in a cloud: what that may read was not given to the control plane
        anonymous = Registry(name="anonymous", url=f"https://{reference.registry}", auth="anonymous")
        return anonymous, await self._anonymous_client(anonymous, reference.registry.lower())

    def platforms(self, settings: Registry) -> tuple[Platform, ...]:
        """The platforms to scan, the one reported under the index digest first."""
        return tuple(parse_platform(text) for text in self.config.platforms_of(settings))

    def link_for(self, registry: str) -> Link | None:
        """The link over which a registry reports."""
        return link_of(self.links, registry)

    def identity(self, link: str) -> wire.Sensor:
        """What this sensor calls itself on a link."""
        found = self._link(link)
        versions = {"harborguard-sensor": VERSION}
        if advisories := self.advisories():
            versions["advisories"] = advisories
        return wire.Sensor(
            version=VERSION,
            scanner_versions=versions,
            id=self.agents.get(link, ""),
            name=found.sensor_name if found is not None else "",
        )

    def replace(self, config: Config) -> None:
        """Follow a reloaded configuration.

        Raises:
            ConfigError: a link's URL is unusable; everything is as it was.
        """
        links = links_of(config)
        self._former |= {link.name: link for link in self.links}
        kept = {registry.name: registry for registry in config.registries} if config.http == self.config.http else {}
        for name, (settings, client) in list(self._clients.items()):
            if kept.get(name) != settings:
                del self._clients[name]
                self._replaced.append(client)
        if config.http != self.config.http:
            self._replaced += self._anonymous.values()
            self._anonymous.clear()
        self.config, self.links = config, links

    async def close(self) -> None:
        """Close all clients."""
        for client in (*(client for _, client in self._clients.values()), *self._anonymous.values(), *self._replaced):
            await client.close()
        self._clients.clear()
        self._anonymous.clear()
        self._replaced.clear()

    def _link(self, name: str) -> Link | None:
        return next((link for link in self.links if link.name == name), self._former.get(name))

    async def _anonymous_client(self, settings: Registry, host: str) -> Client:
        client = self._anonymous.pop(host, None) or self._open(settings)
        self._anonymous[host] = client
        if len(self._anonymous) > _MOST_ANONYMOUS:
            await self._anonymous.pop(next(iter(self._anonymous))).close()
        return client

    def _client(self, settings: Registry) -> Client:
        known = self._clients.get(settings.name)
        if known is None:
            known = self._clients[settings.name] = (settings, self._open(settings))
        return known[1]

    def _open(self, settings: Registry) -> Client:
        return open_registry(
            settings,
            self.config.http,
            self.limits,
            connections_per_host=self.config.concurrency.connections_per_host,
            budgets=self.budgets,
        )


def _refuse_host(host: str, plane: str) -> str:
    """Why a host that only a job names must not be asked, or "": the rules for redirects and realms, with the control plane in the registry's place.

    A control plane outside must not have this machine look around inside. Names are judged by their looks, not by what they resolve to.
    """
    named = urlsplit(f"//{host}").hostname or ""
    own = urlsplit(plane).hostname or ""
    if is_forbidden_target(f"https://{host}"):
        return "a link-local or metadata address"
    if is_loopback_host(named) and not is_loopback_host(own):
        return "an address of this machine"
    if is_private_host(named) and not is_private_host(own):
        return "a private address that a control plane outside has named"
    return ""


def changes_between(before: Config, after: Config) -> tuple[str, ...]:
    """What a reload changed, in words; some things need a restart, and that is said."""
    found = [
        f"{name}: changed"
        for name in ("platforms", "http", "advisories")
        if getattr(before, name) != getattr(after, name)
    ]
    old = {registry.name: registry for registry in before.registries}
    new = {registry.name: registry for registry in after.registries}
    found += [f"registry {name}: removed" for name in old if name not in new]
    found += [f"registry {name}: added" for name in new if name not in old]
    found += [f"registry {name}: changed" for name in new if name in old and old[name] != new[name]]
    found += [
        f"{name}: changed, but in force only after a restart"
        for name in ("control_plane", "concurrency", "limits", "state", "health", "logging")
        if getattr(before, name) != getattr(after, name)
    ]
    started = {link.name for link in links_of(before)}
    if any(link.name not in started for link in links_of(after)):
        found.append("there is a new link to a control plane: what it is to be told waits for a restart")
    return tuple(found)
