"""Rules that need more than one key of the configuration, or more knowledge than its types hold.

Pure but for looking whether named files exist. Finds everything at once: problems stop the sensor, warnings do not. No message holds a
value that could be a secret (a URL may carry a password). One registry's own rules are in `validate_registry`. Leaves reading the file to
`load`, and asking registries to `registry.check`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from sensor.config.fields import Section, secrets_of
from sensor.config.notation import check_cron, has_host, is_host_port, is_listen_address, is_loopback, split_url
from sensor.config.problems import Findings, KeyPath, Problem
from sensor.config.schema import Config, Connection, Cron, Every, Registry, Schedule
from sensor.config.validate_registry import check_duplicates, check_registry
from sensor.errors import DataError
from sensor.model.manifest import parse_platform
from sensor.secret import InPlace

_ARCHITECTURES = {
    "x86_64": "amd64",
    "x64": "amd64",
    "aarch64": "arm64",
    "armv7": "arm/v7",
    "i386": "386",
    "i686": "386",
}
_LEAST_BANDWIDTH = 64 * 2**10
"""Less, and every transfer would look like one that came to a standstill."""
_LEAST_OUTBOX = 16 * 2**20
"""One envelope of the largest size, and room."""
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PUBLIC_KEY = re.compile(r"ed25519:[A-Za-z0-9+/]{43}=")
_HOUR = 3600.0
_DAY = 24 * _HOUR


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
    found = Findings()
    registries = [(("registries", place), registry) for place, registry in enumerate(config.registries)]
    _check_control_planes(config, registries, found)
    check_duplicates(registries, found)
    for place, registry in registries:
        check_registry(place, registry, found)
        _check_schedule((*place, "schedule"), registry.schedule, found)
        _check_platforms((*place, "platforms"), registry.platforms, found)
    _check_platforms(("platforms",), config.platforms, found)
    if not config.platforms:
        found.wrong(("platforms",), "name at least one platform, for example linux/amd64")
    _check_advisories(config, found)
    _check_s3(config, found)
    _check_local(config, found)
    for path, connection in _connections(config, registries):
        _check_connection(path, connection.ca_file, connection.proxy, found)
        _check_client(path, connection, found)
    _check_connection(("http",), config.http.ca_file, config.http.proxy, found)
    _check_literals(config, registries, found, private=private, elsewhere=elsewhere)
    if not config.registries and config.control_plane is None:
        found.warnings.append("neither registries nor a control plane are configured: there is nothing to do")
    return found.problems, found.warnings


_Placed: TypeAlias = list[tuple[tuple[str, int], Registry]]


# --- control planes ---------------------------------------------------------------------------------------------------------------


def _check_control_planes(config: Config, registries: _Placed, found: Findings) -> None:
    plane = config.control_plane
    if plane is not None:
        path = ("control_plane",)
        _check_plane_url((*path, "url"), plane.url, found)
        for index, url in enumerate(plane.fallback):
            _check_plane_url((*path, "fallback", index), url, found)
        if plane.api_key is None and not plane.offline:
            found.wrong((*path, "api_key"), "is missing")
        found.between((*path, "heartbeat"), plane.heartbeat, 5.0, 60.0)
        found.between((*path, "poll"), plane.poll, 1.0, 600.0)
        if plane.default_registry and not is_host_port(plane.default_registry):
            found.wrong((*path, "default_registry"), "expected host or host:port, without a scheme or path")
        for index, host in enumerate(plane.fallback_registries):
            if not is_host_port(host):
                found.wrong(
                    (*path, "fallback_registries", index), "expected host or host:port, without a scheme or path"
                )
        _check_hosts((*path, "allow_hosts"), plane.allow_hosts or (), found)
    for place, registry in registries:
        own = registry.control_plane
        if own is None:
            continue
        _check_hosts((*place, "control_plane", "allow_hosts"), own.allow_hosts, found)
        if own.url:
            _check_plane_url((*place, "control_plane", "url"), own.url, found)
        elif plane is None:
            found.wrong(
                (*place, "control_plane", "url"), "is missing, and there is no top-level control_plane to take it from"
            )


def _check_hosts(path: KeyPath, patterns: tuple[str, ...], found: Findings) -> None:
    for index, pattern in enumerate(patterns):
        if pattern != "*" and not is_host_port(pattern.removeprefix("*.")):
            found.wrong((*path, index), "expected host, host:port, *.example.com or *")


def _check_plane_url(path: KeyPath, text: str, found: Findings) -> None:
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


# --- schedules --------------------------------------------------------------------------------------------------------------------


def _check_schedule(path: KeyPath, schedule: Schedule, found: Findings) -> None:
    match schedule:
        case "on_push":
            found.wrong(path, "on_push needs an event source, and this version has none; use {every: 15m} instead")
        case Every(every=seconds):
            found.between((*path, "every"), seconds, 5.0, 366 * _DAY)
        case Cron(cron=expression):
            if complaint := check_cron(expression):
                found.wrong((*path, "cron"), f"not a cron expression: {complaint}")
        case _:
            pass


# --- the rest ---------------------------------------------------------------------------------------------------------------------


def _check_platforms(path: KeyPath, platforms: tuple[str, ...], found: Findings) -> None:
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


def _check_advisories(config: Config, found: Findings) -> None:
    path = ("advisories",)
    _check_schedule((*path, "update"), config.advisories.update, found)
    found.between((*path, "max_age"), config.advisories.max_age, _HOUR, 3660 * _DAY)
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


def _check_s3(config: Config, found: Findings) -> None:
    path, s3 = ("s3",), config.s3
    if s3 is None:
        return
    if config.control_plane is None:
        found.warn(path, "belongs to the top-level control_plane, and there is none: nothing is put there")
    if not _BUCKET.fullmatch(s3.bucket):
        found.wrong((*path, "bucket"), "expected the name of a bucket: lower-case letters, digits, dots and dashes")
    url = split_url(s3.endpoint)
    if s3.endpoint and (url is None or url.scheme not in {"http", "https"} or not has_host(url)):
        found.wrong((*path, "endpoint"), "expected a URL such as https://minio.example.com:9000")
    if bool(s3.access_key_id) != (s3.secret_access_key is not None):
        missing = "secret_access_key" if s3.access_key_id else "access_key_id"
        found.wrong((*path, missing), "is missing: the two go together")
    _check_connection(path, s3.ca_file, s3.proxy, found)


def _check_local(config: Config, found: Findings) -> None:
    found.between(("limits", "idle_timeout"), config.limits.idle_timeout, 1.0, _HOUR)
    if 0 < config.limits.bandwidth < _LEAST_BANDWIDTH:
        found.wrong(("limits", "bandwidth"), "expected at least 64KiB a second, or 0 for no bound")
    found.between(("outbox", "age"), config.outbox.age, _HOUR, 3660 * _DAY)
    if config.outbox.size < _LEAST_OUTBOX:
        found.wrong(("outbox", "size"), "expected at least 16MiB")
    for index, key in enumerate(config.outbox.trusted_keys):
        if not _PUBLIC_KEY.fullmatch(key):
            found.wrong(
                ("outbox", "trusted_keys", index), "expected ed25519: and 44 characters, as `outbox key` shows it"
            )
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


def _check_connection(path: KeyPath, ca_file: str, proxy: str, found: Findings) -> None:
    if ca_file and not Path(ca_file).is_file():
        found.wrong((*path, "ca_file"), "there is no such file")
    if proxy and proxy != "direct":
        url = split_url(proxy)
        if url is None or url.scheme not in {"http", "https"} or not has_host(url):
            found.wrong((*path, "proxy"), "expected a URL such as http://proxy.example.net:3128, or direct")


def _check_client(path: KeyPath, connection: Connection, found: Findings) -> None:
    for key in ("client_certificate", "client_key"):
        if (file := getattr(connection, key)) and not Path(file).is_file():
            found.wrong((*path, key), "there is no such file")
    if connection.client_key and not connection.client_certificate:
        found.wrong((*path, "client_certificate"), "is missing: there is a client_key")


def _literals(config: Config, registries: _Placed) -> Iterator[KeyPath]:
    """Where the configuration itself holds a secret."""
    sections: list[tuple[KeyPath, Section]] = [*registries, (("outbox",), config.outbox)]
    if config.s3 is not None:
        sections.append((("s3",), config.s3))
    if config.control_plane is not None:
        sections.insert(0, (("control_plane",), config.control_plane))
    for place, section in sections:
        yield from (path for path, source in secrets_of(section, place) if isinstance(source, InPlace))
    proxies: Iterable[tuple[KeyPath, str]] = [
        (("http",), config.http.proxy),
        *((path, connection.proxy) for path, connection in _connections(config, registries)),
        *([(("s3",), config.s3.proxy)] if config.s3 is not None else []),
    ]
    for path, proxy in proxies:
        url = split_url(proxy)
        if url is not None and url.password is not None:
            yield (*path, "proxy")


def _check_literals(
    config: Config, registries: _Placed, found: Findings, *, private: bool, elsewhere: Collection[KeyPath]
) -> None:
    advice = "use {keyring: NAME}, {env: NAME} or {file: PATH}"
    for path in _literals(config, registries):
        if path in elsewhere:
            continue
        if private:
            found.warn(path, f"holds a secret in plain text; {advice}")
        else:
            found.wrong(path, f"holds a secret, but others can read the file; chmod 600 it, or better {advice}")
