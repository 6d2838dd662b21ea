"""Rules that need more than one key of the configuration, or more knowledge than its types hold.

Pure but for looking whether named files exist. Finds everything at once: problems stop the sensor, warnings do not. No message holds a
value that could be a secret (a URL may carry a password). Leaves reading the file to `load`, and asking registries to `registry.check`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from sensor.config.notation import (
    check_cron,
    check_glob,
    has_host,
    is_host_port,
    is_listen_address,
    is_loopback,
    split_url,
)
from sensor.config.schema import Config, Connection, Cron, Every, Registry, Schedule
from sensor.errors import DataError
from sensor.model.manifest import parse_platform
from sensor.model.reference import is_repository
from sensor.secret import InPlace

KeyPath: TypeAlias = tuple[str | int, ...]

_ARCHITECTURES = {
    "x86_64": "amd64",
    "x64": "amd64",
    "aarch64": "arm64",
    "armv7": "arm/v7",
    "i386": "386",
    "i686": "386",
}
_HOUR = 3600.0
_DAY = 24 * _HOUR


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, what, and (if known) in which line of the file."""

    path: KeyPath
    text: str
    line: int | None = None


def show_path(path: KeyPath) -> str:
    """`registries[2].tags.include[0]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            word = part[:80] if part[:80].isprintable() else repr(part[:80])
            text += f".{word}" if text else word
    return text


@dataclass(slots=True)
class _Findings:
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def wrong(self, path: KeyPath, text: str) -> None:
        self.problems.append(Problem(path, text))

    def warn(self, path: KeyPath, text: str) -> None:
        self.warnings.append(f"{show_path(path)}: {text}")


def find_problems(
    config: Config,
    *,
    private: bool = True,
    elsewhere: Collection[KeyPath] = (),
) -> tuple[list[Problem], list[str]]:
    """Check a well-typed configuration; gives (problems, warnings).

    `private` says whether only its owner can read the file: literal secrets demand that. `elsewhere` are keys that the environment gave, not
    the file.
    """
    found = _Findings()
    registries = [(("registries", place), registry) for place, registry in enumerate(config.registries)]
    _check_control_planes(config, registries, found)
    _check_duplicates(registries, found)
    for place, registry in registries:
        _check_registry(place, registry, found)
    _check_platforms(("platforms",), config.platforms, found)
    if not config.platforms:
        found.wrong(("platforms",), "name at least one platform, for example linux/amd64")
    _check_advisories(config, found)
    _check_local(config, found)
    for path, connection in _connections(config, registries):
        _check_connection(path, connection.ca_file, connection.proxy, found)
    _check_connection(("http",), config.http.ca_file, config.http.proxy, found)
    _check_literals(config, registries, found, private=private, elsewhere=elsewhere)
    if not config.registries and config.control_plane is None:
        found.warnings.append("neither registries nor a control plane are configured: there is nothing to do")
    return found.problems, found.warnings


_Placed: TypeAlias = list[tuple[tuple[str, int], Registry]]


# --- control planes ---------------------------------------------------------------------------------------------------------------


def _check_control_planes(config: Config, registries: _Placed, found: _Findings) -> None:
    plane = config.control_plane
    if plane is not None:
        path = ("control_plane",)
        _check_plane_url((*path, "url"), plane.url, found)
        _check_between((*path, "heartbeat"), plane.heartbeat, 5.0, 60.0, found)
        _check_between((*path, "poll"), plane.poll, 1.0, 600.0, found)
        if plane.default_registry and not is_host_port(plane.default_registry):
            found.wrong((*path, "default_registry"), "expected host or host:port, without a scheme or path")
    for place, registry in registries:
        own = registry.control_plane
        if own is None:
            continue
        if own.url:
            _check_plane_url((*place, "control_plane", "url"), own.url, found)
        elif plane is None:
            found.wrong(
                (*place, "control_plane", "url"), "is missing, and there is no top-level control_plane to take it from"
            )


def _check_plane_url(path: KeyPath, text: str, found: _Findings) -> None:
    url = split_url(text)
    if url is None or url.scheme not in {"http", "https"} or not has_host(url):
        found.wrong(path, "expected a URL such as https://harborguard.example.com")
        return
    if url.username is not None or url.query or url.fragment:
        found.wrong(
            path, "a control plane's URL holds no user name, password, query or fragment; the key goes into api_key"
        )
    elif url.path.rstrip("/").endswith("/api"):
        found.wrong(path, "leave out /api: the sensor adds it")
    elif url.scheme == "http" and not is_loopback(url.hostname or ""):
        found.warn(
            path,
            "http:// sends the API key and all results unencrypted; use https:// where the control plane offers it",
        )


# --- registries -------------------------------------------------------------------------------------------------------------------


def _check_duplicates(registries: _Placed, found: _Findings) -> None:
    names: dict[str, KeyPath] = {}
    places: dict[tuple[str, str], KeyPath] = {}
    for path, registry in registries:
        if registry.name in names:
            found.wrong((*path, "name"), f"{registry.name!r} is also the name of {show_path(names[registry.name])}")
        names.setdefault(registry.name, path)
        # two robots of one Harbor see different projects, so only the same user at the same place is a mistake
        identity = (_identity(registry.url), registry.username)
        if identity in places:
            found.wrong(
                (*path, "url"), f"{show_path(places[identity])} is the same registry with the same user; merge the two"
            )
        places.setdefault(identity, path)


def _identity(url: str) -> str:
    if url.startswith("oci:"):
        return url.rstrip("/")
    split = split_url(url)
    if split is None:
        return url
    port = split.port if has_host(split) else None
    standard = {"http": 80, "https": 443, "": 443}.get(split.scheme)
    return (split.hostname or "") + (f":{port}" if port and port != standard else "")


def _check_registry(path: KeyPath, registry: Registry, found: _Findings) -> None:
    if registry.url.startswith("oci:"):
        _check_layout(path, registry, found)
    else:
        _check_distribution(path, registry, found)
    _check_credentials(path, registry, found)
    for key, names in (("include", registry.repositories.include), ("exclude", registry.repositories.exclude)):
        _check_globs((*path, "repositories", key), names, found)
    for key, names in (("include", registry.tags.include), ("exclude", registry.tags.exclude)):
        _check_globs((*path, "tags", key), names, found)
    for index, name in enumerate(registry.repositories.names):
        if not is_repository(name):
            found.wrong(
                (*path, "repositories", "names", index), "not a repository name (lower case, without host and tag)"
            )
    for index, host in enumerate(registry.trusted_realms):
        if not is_host_port(host):
            found.wrong((*path, "trusted_realms", index), "expected host or host:port, without a scheme or path")
    _check_schedule((*path, "schedule"), registry.schedule, found)
    _check_platforms((*path, "platforms"), registry.platforms, found)


def _check_layout(path: KeyPath, registry: Registry, found: _Findings) -> None:
    if registry.provider == "distribution":
        found.wrong((*path, "provider"), "an oci: URL is a layout on disk; use auto or layout")
    directory = registry.url.removeprefix("oci:").removeprefix("//")
    if not directory.startswith("/"):
        found.wrong((*path, "url"), "expected oci:/path/to/an/OCI/image/layout")
    elif not Path(directory).is_dir():
        found.warn((*path, "url"), "there is no such directory now")
    if registry.username or registry.password is not None or registry.token is not None:
        found.warn(path, "a layout on disk needs no credentials; they are not used")


def _check_distribution(path: KeyPath, registry: Registry, found: _Findings) -> None:
    if registry.provider == "layout":
        found.wrong((*path, "provider"), "a layout needs a URL such as oci:/path")
        return
    url = split_url(registry.url)
    if url is None or url.scheme not in {"", "http", "https"} or not has_host(url):
        found.wrong((*path, "url"), "expected host[:port], http://host, https://host or oci:/path")
        return
    if url.username is not None:
        found.wrong((*path, "url"), "credentials do not belong into the URL; use username and password")
    elif url.path.strip("/") or url.query or url.fragment:
        found.wrong((*path, "url"), "a registry's URL has no path; choose repositories with repositories.include")
    if url.scheme == "https" and registry.insecure:
        found.wrong((*path, "insecure"), "contradicts https:// in the URL; remove one of the two")
    if url.scheme == "http" and not registry.insecure:
        found.wrong(
            (*path, "url"), "http:// sends credentials and images unencrypted; say insecure: true if that is meant"
        )


def _check_credentials(path: KeyPath, registry: Registry, found: _Findings) -> None:
    if registry.token is not None and (registry.username or registry.password is not None):
        found.wrong((*path, "token"), "stands instead of username and password; remove one of the two")
    elif registry.username and registry.password is None and registry.token is None:
        found.wrong((*path, "password"), "is missing: there is a username")
    elif registry.password is not None and not registry.username:
        found.wrong(
            (*path, "username"), "is missing: there is a password (a token without a user name goes into token)"
        )


def _check_globs(path: KeyPath, patterns: tuple[str, ...], found: _Findings) -> None:
    for index, pattern in enumerate(patterns):
        if complaint := check_glob(pattern):
            found.wrong((*path, index), f"not a pattern: {complaint}")
    if path[-1] == "include" and not patterns:
        found.wrong(path, "an empty list selects nothing; leave it out to select everything")


# --- schedules --------------------------------------------------------------------------------------------------------------------


def _check_schedule(path: KeyPath, schedule: Schedule, found: _Findings) -> None:
    match schedule:
        case "on_push":
            found.wrong(path, "on_push needs an event source, and this version has none; use {every: 15m} instead")
        case Every(every=seconds):
            _check_between((*path, "every"), seconds, 5.0, 366 * _DAY, found)
        case Cron(cron=expression):
            if complaint := check_cron(expression):
                found.wrong((*path, "cron"), f"not a cron expression: {complaint}")
        case _:
            pass


# --- the rest ---------------------------------------------------------------------------------------------------------------------


def _check_platforms(path: KeyPath, platforms: tuple[str, ...], found: _Findings) -> None:
    for index, text in enumerate(platforms):
        try:
            platform = parse_platform(text)
        except DataError as error:
            found.wrong((*path, index), error.advice or error.message)
            continue
        if platform.architecture in _ARCHITECTURES:
            found.wrong((*path, index), f"the architecture is called {_ARCHITECTURES[platform.architecture]} here")
        if text in platforms[:index]:
            found.wrong((*path, index), "stands twice")


def _check_advisories(config: Config, found: _Findings) -> None:
    path = ("advisories",)
    _check_schedule((*path, "update"), config.advisories.update, found)
    _check_between((*path, "max_age"), config.advisories.max_age, _HOUR, 3660 * _DAY, found)
    for index, source in enumerate(config.advisories.sources):
        here = (*path, "sources", index)
        url = split_url(source)
        if "://" in source:
            if url is None or url.scheme not in {"http", "https"} or not has_host(url):
                found.wrong(here, "expected a directory, a zip file, or a URL with http:// or https://")
            elif url.username is not None:
                found.wrong(here, "credentials do not belong into the URL")
        elif not source.startswith("/"):
            found.wrong(here, "expected an absolute path or a URL")
        elif not Path(source).exists():
            found.warn(here, "there is no such file or directory now")


def _check_local(config: Config, found: _Findings) -> None:
    _check_between(("limits", "idle_timeout"), config.limits.idle_timeout, 1.0, _HOUR, found)
    directory = Path(config.state.directory)
    if not directory.is_absolute():
        found.wrong(("state", "directory"), "expected an absolute path")
    elif directory.exists() and not directory.is_dir():
        found.wrong(("state", "directory"), "is not a directory")
    if config.health.listen != "off" and not is_listen_address(config.health.listen):
        found.wrong(("health", "listen"), "expected host:port, for example 127.0.0.1:9180, or off")
    for index, pattern in enumerate(config.http.no_proxy):
        if not pattern or "://" in pattern or any(character.isspace() for character in pattern):
            found.wrong(("http", "no_proxy", index), "expected a host, a .domain, or a network such as 10.0.0.0/8")


def _connections(config: Config, registries: _Placed) -> Iterator[tuple[KeyPath, Connection]]:
    if config.control_plane is not None:
        yield ("control_plane",), config.control_plane
    yield ("advisories",), config.advisories
    yield from registries


def _check_connection(path: KeyPath, ca_file: str, proxy: str, found: _Findings) -> None:
    if ca_file and not Path(ca_file).is_file():
        found.wrong((*path, "ca_file"), "there is no such file")
    if proxy and proxy != "direct":
        url = split_url(proxy)
        if url is None or url.scheme not in {"http", "https"} or not has_host(url):
            found.wrong((*path, "proxy"), "expected a URL such as http://proxy.example.net:3128, or direct")


def _literals(config: Config, registries: _Placed) -> Iterator[KeyPath]:
    """Where the configuration itself holds a secret."""
    secrets: list[tuple[KeyPath, object]] = []
    if config.control_plane is not None:
        secrets.append((("control_plane", "api_key"), config.control_plane.api_key))
    for place, registry in registries:
        secrets += [((*place, "password"), registry.password), ((*place, "token"), registry.token)]
        if registry.control_plane is not None:
            secrets.append(((*place, "control_plane", "api_key"), registry.control_plane.api_key))
    yield from (path for path, source in secrets if isinstance(source, InPlace))
    proxies: Iterable[tuple[KeyPath, str]] = [
        (("http",), config.http.proxy),
        *((path, connection.proxy) for path, connection in _connections(config, registries)),
    ]
    for path, proxy in proxies:
        url = split_url(proxy)
        if url is not None and url.password is not None:
            yield (*path, "proxy")


def _check_literals(
    config: Config, registries: _Placed, found: _Findings, *, private: bool, elsewhere: Collection[KeyPath]
) -> None:
    advice = "use {keyring: NAME}, {env: NAME} or {file: PATH}"
    for path in _literals(config, registries):
        if path in elsewhere:
            continue
        if private:
            found.warn(path, f"holds a secret in plain text; {advice}")
        else:
            found.wrong(path, f"holds a secret, but others can read the file; chmod 600 it, or better {advice}")


def _check_between(path: KeyPath, value: float, least: float, most: float, found: _Findings) -> None:
    if not least <= value <= most:
        found.wrong(path, f"expected {_duration(least)} to {_duration(most)}")


def _duration(seconds: float) -> str:
    for unit, size in (("d", _DAY), ("h", _HOUR), ("m", 60.0)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"
