"""The registries and links in force: opened when first needed, replaced when the configuration is reloaded.

Implements `pipeline.Sites`. A client whose settings did not change survives a reload with its tokens and connections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sensor.config.schema import Config, Registry
from sensor.control_plane import wire
from sensor.control_plane.links import Link, link_of, links_of
from sensor.errors import ConfigError
from sensor.limits import Limits
from sensor.model.manifest import Platform, parse_platform
from sensor.model.reference import Reference
from sensor.registry.kinds import open_registry
from sensor.registry.port import Registry as Client
from sensor.version import VERSION


@dataclass(slots=True)
class ConfiguredSites:
    """Registries and links of one configuration."""

    config: Config
    limits: Limits
    agents: Mapping[str, str] = field(default_factory=dict)
    """Agent id of each link, as the control planes gave them."""
    links: tuple[Link, ...] = ()
    _clients: dict[str, tuple[Registry, Client]] = field(default_factory=dict)

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

    def registry_for(self, reference: Reference, link: str) -> tuple[Registry, Client]:
        """The registry that serves a reference of a job.

        That is the configured one of that host, or, on the default link, the host itself without credentials. A link that is bound to
        registries serves no other host.

        Raises:
            ConfigError: no configured registry has that host, and the link may not go elsewhere.
        """
        for settings in self.config.registries:
            client = self._client(settings)
            if _same_host(client.host, reference.registry):
                return settings, client
        bound = next((found for found in self.links if found.name == link), None)
        if bound is not None and not bound.is_default:
            message = f"{reference.registry} is not one of this link's registries ({', '.join(bound.registries)})"
            raise ConfigError(message, "add the registry to the sensor's configuration")
        anonymous = Registry(name="anonymous", url=f"https://{reference.registry}")
        return anonymous, self._client(anonymous.model_copy(update={"name": f"anonymous {reference.registry}"}))

    def platforms(self, settings: Registry) -> tuple[Platform, ...]:
        """The platforms to scan, the one reported under the index digest first."""
        return tuple(parse_platform(text) for text in self.config.platforms_of(settings))

    def link_for(self, registry: str) -> Link | None:
        """The link over which a registry reports."""
        return link_of(self.links, registry)

    def identity(self, link: str) -> wire.Sensor:
        """What this sensor calls itself on a link."""
        found = next((entry for entry in self.links if entry.name == link), None)
        return wire.Sensor(
            version=VERSION,
            scanner_versions={"harborguard-sensor": VERSION},
            id=self.agents.get(link, ""),
            name=found.sensor_name if found is not None else "",
        )

    async def replace(self, config: Config) -> None:
        """Follow a reloaded configuration."""
        self.config = config
        self.links = links_of(config)
        kept = {registry.name: registry for registry in config.registries}
        for name, (settings, client) in list(self._clients.items()):
            if kept.get(name) != settings:
                del self._clients[name]
                await client.close()

    async def close(self) -> None:
        """Close all clients."""
        for _, client in self._clients.values():
            await client.close()
        self._clients.clear()

    def _client(self, settings: Registry) -> Client:
        known = self._clients.get(settings.name)
        if known is None:
            client = open_registry(
                settings,
                self.config.http,
                self.limits,
                connections_per_host=self.config.concurrency.connections_per_host,
            )
            known = self._clients[settings.name] = (settings, client)
        return known[1]


_DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


def _same_host(first: str, second: str) -> bool:
    a, b = first.lower(), second.lower()
    return a == b or (a in _DOCKER_HUB and b in _DOCKER_HUB)
