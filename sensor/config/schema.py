"""The whole configuration on one page: every key, its type, its default, its meaning.

`config.example.yaml` documents the same keys for users, and a test keeps the two alike. Reading files and the environment is
`load`'s business; rules that need more than one key are in `validate`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sensor.secret import FromEnv, FromFile, FromKeyring, InPlace, Secret, SecretSource

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse_duration(value: object) -> float:
    """Seconds from `90s`, `15m`, `6h`, `7d`, `2w`."""
    if isinstance(value, str) and (found := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", value)):
        return float(found[1]) * _UNITS[found[2]]
    message = "expected a duration such as 30s, 15m, 6h, 7d"
    raise ValueError(message)


def parse_size(value: object) -> int:
    """Bytes from an integer or from `512MiB`, `10GB`."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (found := re.fullmatch(r"\s*(\d+)\s*([kmg]i?)?b?\s*", value.lower())):
        return int(found[1]) * _SIZES[found[2] or ""]
    message = "expected a size such as 512MiB or 10GB"
    raise ValueError(message)


def parse_secret_source(value: object) -> SecretSource:
    """A literal, or one of `{keyring: NAME}`, `{env: NAME}`, `{file: PATH}`."""
    if isinstance(value, (FromKeyring, FromEnv, FromFile, InPlace)):
        return value
    if isinstance(value, str) and value:
        return InPlace(Secret(value))
    if isinstance(value, dict) and len(value) == 1:
        ((kind, name),) = value.items()
        if isinstance(name, str) and name:
            if kind == "keyring":
                return FromKeyring(name)
            if kind == "env":
                return FromEnv(name)
            if kind == "file":
                return FromFile(name)
    # the value itself must not appear in the message: it may be the secret
    message = "expected {keyring: NAME}, {env: NAME} or {file: PATH}"
    raise ValueError(message)


Duration = Annotated[float, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size)]
SecretField = Annotated[Any, AfterValidator(parse_secret_source)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Connection(Section):
    """How to reach one host. Empty values fall back to the `http` section."""

    ca_file: str = ""
    """PEM file with certificate authorities, added to the system's."""
    proxy: str = ""
    """Proxy URL; `direct` ignores a proxy set in `http`."""


class Http(Section):
    """Defaults for every outgoing connection."""

    ca_file: str = ""
    proxy: str = ""
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
    """host[:port], or with http:// or https://; or oci:/path for an OCI image layout on disk."""
    provider: Literal["auto", "distribution", "layout"] = "auto"
    username: str = ""
    password: SecretField = None
    token: SecretField = None
    """A bearer token that is sent as it is, instead of user name and password."""
    insecure: bool = False
    """Allow plain HTTP. Refused for https:// URLs."""
    trusted_realms: tuple[str, ...] = ()
    """Hosts besides the registry's own to which its credential may be sent for a token."""
    repositories: Repositories = Repositories()
    tags: Globs = Globs()
    schedule: Schedule = "daily"
    platforms: tuple[str, ...] = ()
    """Empty: the top-level `platforms`."""
    control_plane: RegistryControlPlane | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_secrets(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: v for k, v in value.items() if not (k in {"password", "token"} and v is None)}
        return value


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
    format: Literal["auto", "json", "console"] = "auto"
    """auto: console on a terminal, JSON elsewhere."""


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
