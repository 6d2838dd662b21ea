"""The whole configuration on one page: every key, its type, its default, its meaning.

`config.example.yaml` documents the same keys for users, and a test keeps the two alike. Reading files and the environment is
`load`'s business; rules that need more than one key are in `validate`.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from sensor.config.fields import Duration, SecretField, Section, Share, Size
from sensor.config.logins import Api, Aws, Azure, CredentialPlugin, DockerConfig, Gcp, GithubApp


class Connection(Section):
    """How to reach one host. Empty values fall back to the `http` section."""

    ca_file: str = ""
    """PEM file with certificate authorities, added to the system's."""
    proxy: str = Field(default="", repr=False)
    """Proxy URL; `direct` ignores a proxy set in `http`."""


class Http(Section):
    """Defaults for every outgoing connection."""

    ca_file: str = ""
    proxy: str = Field(default="", repr=False)
    no_proxy: tuple[str, ...] = ()
    """Hosts, domains (.example.net) and networks (10.0.0.0/8) that are reached directly. Metadata services always are."""


class ControlPlane(Connection):
    """A HarborGuard control plane."""

    url: str
    """Base URL, for example https://harborguard.co."""
    api_key: SecretField
    name: str = ""
    """Name of this sensor there; empty means the host name."""
    heartbeat: Duration = 30.0
    poll: Duration = 15.0
    """Pause between job polls; jitter of up to a third is added so that sensors do not poll in step."""
    default_registry: str = ""
    """Host that completes job references without one. Empty: such jobs fail with an explanation."""


class RegistryControlPlane(Section):
    """A link of its own for one registry, because a hosted key is scoped to one registry."""

    url: str = ""
    """Empty: the URL of the top-level `control_plane`."""
    api_key: SecretField


class Globs(Section):
    """Names that are kept: at least one include matches and no exclude does.

    `*` matches within one path component, `**` across components (`**/x` also matches `x`), `?` one character, `[a-z]` and
    `[!a-z]` classes; a lone `*` means everything; matching is case-sensitive.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()


class Repositories(Globs):
    """Which repositories are looked at."""

    names: tuple[str, ...] = ()
    """Repositories to look at where the registry cannot be listed; globs still apply."""
    namespaces: tuple[str, ...] = ()
    """What the provider keeps repositories in: Docker Hub and Quay namespaces, GitHub owners, GitLab groups or projects, Harbor projects,
    Google projects, Artifactory and Nexus repositories. Empty: all that the credential shows, or those that the patterns name."""


class Keep(Section):
    """How many of the selected tags of one repository are looked at."""

    last: int = Field(default=0, ge=0)
    """The newest so many images; 0: all. Tags on one digest count once where the registry tells digests along with tags."""
    max_age: Duration | None = None
    """Only tags pushed since. Where the registry does not tell when, this does not apply, and `plan` says so."""
    order: Literal["pushed", "version"] = "pushed"
    """What newest means; without push dates it is the version in either case. Never costs a request a tag."""


class Rule(Section):
    """One line of an ordered list: the first whose repository and tag patterns match decides about a tag."""

    repositories: str = "*"
    """Pattern of the repositories that it speaks about."""
    tags: str = ""
    """Pattern of tags, as in `tags.include`."""
    regex: str = ""
    """Regular expression that the whole tag matches; RE2's syntax, without look-around and back-references."""
    semver: str = ""
    """Range of versions, for example `>=1.2 <3 || ^4`; a leading v is allowed, `latest` is in no range."""
    action: Literal["include", "exclude"] = "include"
    keep: Keep | None = None
    """For the tags that this rule includes, instead of the registry's `keep`."""


class Quota(Section):
    """How a registry's pull quota is shared with everybody else behind the same address or account."""

    leave: Share = 0.5
    """Share of the quota that is left to others; nothing is pulled while less remains. Looking for changes costs no quota."""


class Every(Section):
    """A fixed pause between sweeps."""

    every: Duration


class Cron(Section):
    """A cron expression with five fields, in the machine's time zone."""

    cron: str


Schedule = Literal["daily", "weekly", "manual", "on_push"] | Every | Cron


class Registry(Connection):
    """One registry to watch."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Short name for logs, `test`, `plan` and `status`."""
    url: str
    """host[:port], or with http:// or https://, with a path where the provider has one; oci:/path for an OCI image layout on disk,
    archive:/path for image archives."""
    provider: Literal[
        "auto", "dockerhub", "ecr", "gar", "acr", "ghcr", "gitlab", "harbor", "artifactory", "quay", "nexus", "distribution", "layout",
        "archive",
    ] = "auto"  # fmt: skip
    auth: Literal["auto", "anonymous", "aws", "gcp", "azure"] = "auto"
    """auto: the credential below; without one the machine's identity on clouds that have one, else anonymous."""
    username: str = ""
    password: SecretField = None
    token: SecretField = None
    """A bearer token that is sent as it is, instead of user name and password."""
    aws: Aws = Aws()
    gcp: Gcp = Gcp()
    azure: Azure = Azure()
    github_app: GithubApp | None = None
    docker_config: DockerConfig | None = None
    plugin: CredentialPlugin | None = None
    api: Api = Api()
    insecure: bool = False
    """Allow plain HTTP. Refused for https:// URLs."""
    trusted_realms: tuple[str, ...] = ()
    """Hosts besides the registry's own to which its credential may be sent for a token."""
    repositories: Repositories = Repositories()
    tags: Globs = Globs()
    rules: tuple[Rule, ...] = ()
    """Finer than patterns: where there are rules, a tag that passes the patterns also needs a rule that includes it."""
    keep: Keep = Keep()
    materialize: bool = False
    """Also look at what a proxy or virtual repository would have to fetch from its upstream first."""
    quota: Quota = Quota()
    max_new_per_day: int = Field(default=0, ge=0)
    """New images scanned in 24 hours, the newest first; 0: no bound. Pushed and requested images are not counted."""
    windows: tuple[str, ...] = ()
    """When new images are scanned: `22:00-06:00`, `sat-sun`, `mon-fri 20:00-07:00` in the machine's time zone. Empty: always."""
    schedule: Schedule = "daily"
    platforms: tuple[str, ...] = ()
    """Empty: the top-level `platforms`."""
    control_plane: RegistryControlPlane | None = None


class Concurrency(Section):
    """How much happens at once."""

    images: int = Field(default=2, ge=1, le=64)
    layers: int = Field(default=2, ge=1, le=64)
    """Layers streamed at once, over all images; each has its own child process."""
    connections_per_host: int = Field(default=8, ge=1, le=100)


class LimitSettings(Section):
    """Bounds an operator may want to move; all others are fixed in the source."""

    layer_bytes: Size = 64 * 2**30
    layer_entries: int = Field(default=3_000_000, ge=1000)
    spool_bytes: Size = 512 * 2**20
    bandwidth: Size = 0
    """Bytes of layers a second, over all registries; 0: no bound."""
    idle_timeout: Duration = 60.0


class State(Section):
    """Where the sensor keeps what it knows."""

    directory: str = "/var/lib/harborguard-sensor"
    retain_gone: Duration = 30 * 86400.0
    """How long results of images that left their registry are kept."""


class Advisories(Connection):
    """Where vulnerability data comes from: OSV's bulk layout, `<Ecosystem>/all.zip`."""

    sources: tuple[str, ...] = ()
    """Directories, zip files, or base URLs, in order of preference. Empty: only `advisories import`."""
    ecosystems: tuple[str, ...] = (
        "Debian", "Ubuntu", "Alpine", "AlmaLinux", "Rocky Linux", "Red Hat", "PyPI", "npm", "Go",
    )  # fmt: skip
    """Fetched from base URLs; directories are imported whole."""
    update: Schedule = "daily"
    max_age: Duration = 7 * 86400.0
    """Older data is called a problem by `status` and /readyz; every result names the age of its data."""


class Health(Section):
    """The local HTTP endpoint: /healthz /readyz /status /metrics. It shows no secrets."""

    listen: str = "127.0.0.1:9180"
    """host:port, or `off`."""


class Logging(Section):
    """Log lines go to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console", "journald"] = "auto"
    """auto: console on a terminal, JSON elsewhere. journald: text behind the priority that the journal takes off."""


class Config(Section):
    """The whole configuration."""

    control_plane: ControlPlane | None = None
    registries: tuple[Registry, ...] = ()
    platforms: tuple[str, ...] = ("linux/amd64",)
    concurrency: Concurrency = Concurrency()
    limits: LimitSettings = LimitSettings()
    state: State = State()
    advisories: Advisories = Advisories()
    http: Http = Http()
    health: Health = Health()
    logging: Logging = Logging()

    def registry(self, name: str) -> Registry | None:
        """The registry of that name."""
        return next((registry for registry in self.registries if registry.name == name), None)

    def platforms_of(self, registry: Registry) -> tuple[str, ...]:
        """The platforms scanned for a registry."""
        return registry.platforms or self.platforms

    def with_registry(self, registry: Registry) -> Self:
        """A copy with one more registry, for one-shot commands."""
        return self.model_copy(update={"registries": (*self.registries, registry)})
