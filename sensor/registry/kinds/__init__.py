"""All kinds of registry, in the order in which they are asked whether a URL is theirs."""

from __future__ import annotations

from collections.abc import Iterable

from sensor.config.problems import Problem, show_path
from sensor.config.schema import Http
from sensor.config.schema import Registry as Settings
from sensor.errors import ConfigError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.model.reference import same_registry
from sensor.pacing import Budgets
from sensor.registry.kinds.acr import ACR
from sensor.registry.kinds.archive import ARCHIVE
from sensor.registry.kinds.artifactory import ARTIFACTORY
from sensor.registry.kinds.distribution import DISTRIBUTION
from sensor.registry.kinds.dockerhub import DOCKERHUB
from sensor.registry.kinds.ecr import ECR
from sensor.registry.kinds.fitting import misfits
from sensor.registry.kinds.gar import GAR
from sensor.registry.kinds.ghcr import GHCR
from sensor.registry.kinds.gitlab import GITLAB
from sensor.registry.kinds.harbor import HARBOR
from sensor.registry.kinds.kind import Detection, Opening, RegistryKind
from sensor.registry.kinds.layout import LAYOUT
from sensor.registry.kinds.nexus import NEXUS
from sensor.registry.kinds.quay import QUAY
from sensor.registry.port import Registry
from sensor.transport import Retry

KINDS: tuple[RegistryKind, ...] = (
    LAYOUT,
    ARCHIVE,
    DOCKERHUB,
    GAR,
    GHCR,
    ACR,
    ARTIFACTORY,
    GITLAB,
    HARBOR,
    ECR,
    NEXUS,
    QUAY,
    DISTRIBUTION,
)
"""One line a kind. The last one takes what no other recognises."""


def detect(url: str) -> tuple[RegistryKind, Detection]:
    """The kind that a URL belongs to, and why. Takes any text."""
    for kind in KINDS:
        if found := kind.detect(url):
            return kind, found
    return KINDS[-1], Detection(reason="no provider's address: taken for a plain OCI distribution registry")


def find_kind(settings: Settings) -> RegistryKind:
    """The kind of a configured registry. A provider that is named wins over what the URL looks like.

    Raises:
        ConfigError: there is no such provider.
    """
    if settings.provider == "auto":
        return detect(settings.url)[0]
    for kind in KINDS:
        if kind.name == settings.provider:
            return kind
    message = f"registry {settings.name}: there is no provider {settings.provider!r}"
    raise ConfigError(message, f"known are auto, {', '.join(kind.name for kind in KINDS)}")


def unused(settings: Settings) -> tuple[Problem, ...]:
    """What the provider of a configured registry would pass over without a word; for `load_config` to ask."""
    return tuple(misfits(find_kind(settings), settings, KINDS))


def open_registry(
    settings: Settings,
    http: Http | None = None,
    limits: Limits = DEFAULT_LIMITS,
    *,
    connections_per_host: int = 8,
    retry: Retry | None = None,
    budgets: Budgets | None = None,
) -> Registry:
    """A registry as the configuration describes it, not yet connected; secrets are read when they are first needed.

    `retry` says how patiently requests are repeated: somebody who waits at a terminal has less patience than a daemon.
    `budgets` are shared by all registries of a process, because several may be on one host.

    Raises:
        ConfigError: the URL is unusable, plain HTTP that was not allowed, or a setting that the provider has no use for.
    """
    kind = find_kind(settings)
    for problem in misfits(kind, settings, KINDS):
        text, _, advice = problem.text.partition("; ")
        message = f"registry {settings.name}: {show_path(problem.path)}: {text}"
        raise ConfigError(message, advice)
    opening = Opening(
        settings=settings,
        http=http or Http(),
        limits=limits,
        connections_per_host=connections_per_host,
        retry=retry,
        budgets=budgets,
    )
    return kind.open(kind, opening)


def serving(registries: Iterable[Settings], host: str, repository: str) -> Settings | None:
    """The configured registry that a reference is of: its host, and the narrowest namespace that holds the repository."""
    found: list[tuple[int, Settings]] = []
    for settings in registries:
        try:
            address = find_kind(settings).address(Opening(settings=settings, http=Http()))
        except ConfigError:
            continue  # on disk: no reference names it
        if same_registry(address.named or address.host, host) and address.covers(repository):
            found.append((len(address.namespace), settings))
    return max(found, key=lambda one: one[0])[1] if found else None
