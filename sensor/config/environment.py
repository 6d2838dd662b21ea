"""The environment variables that HarborGuard sensors have always had, laid below the file: a key that the file sets is left alone.

Of several names for one key the first that is set wins, and the operator is told which name was used. Secrets are never copied: the
configuration only learns the name of the variable.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from sensor.config.notation import on_disk
from sensor.config.problems import KeyPath, Problem

_URL = ("HARBORGUARD_URL", "HG_DASHBOARD_URL")
_KEY = ("HARBORGUARD_API_KEY", "HG_API_KEY")
_NAME = ("SENSOR_NAME", "HG_AGENT_NAME")
_POLL = ("HG_POLL_INTERVAL_MS",)
_REGISTRY = ("REGISTRY_URL", "HG_REGISTRY_URL")
_USER = ("REGISTRY_USERNAME", "HG_REGISTRY_USER", "REGISTRY_USER")
_PASSWORD = ("REGISTRY_PASSWORD", "REGISTRY_PASS")
_TOKEN = ("HG_REGISTRY_TOKEN", "REGISTRY_TOKEN")
_INSECURE = ("HG_REGISTRY_INSECURE", "REGISTRY_INSECURE")
_LEVEL = ("HG_LOG_LEVEL", "LOG_LEVEL")
_DIRECTORY = ("HG_WORK_DIR", "SCANNER_WORKDIR")
_S3 = {
    "bucket": ("HG_S3_BUCKET", "S3_BUCKET"),
    "endpoint": ("HG_S3_ENDPOINT", "S3_ENDPOINT"),
    "region": ("HG_S3_REGION",),
    "access_key_id": ("HG_S3_ACCESS_KEY",),
    "secret_access_key": ("HG_S3_SECRET_KEY",),
}
"""AWS_ACCESS_KEY_ID and its like are read by the SDK itself."""
_PROXY = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
_NO_PROXY = ("NO_PROXY", "no_proxy")

ENVIRONMENT: Mapping[str, tuple[str, ...]] = {
    "control_plane.url": _URL,
    "control_plane.api_key": _KEY,
    "control_plane.name": _NAME,
    "control_plane.poll": _POLL,
    "registries[0].url": _REGISTRY,
    "registries[0].username": _USER,
    "registries[0].password": (*_PASSWORD, *_TOKEN),
    "registries[0].token": _TOKEN,
    "registries[0].insecure": _INSECURE,
    **{f"s3.{key}": names for key, names in _S3.items()},
    "state.directory": _DIRECTORY,
    "logging.level": _LEVEL,
    "http.proxy": _PROXY,
    "http.no_proxy": _NO_PROXY,
}
"""Key of the configuration to the variables that give it when the file does not; the first that is set wins."""

_KNOWN = {name for names in ENVIRONMENT.values() for name in names}
_LEVELS = {"debug": "debug", "info": "info", "warn": "warning", "warning": "warning", "error": "error"}
_SWITCH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(slots=True)
class Overlay:
    """Raw values completed from the environment, which variable gave which key, and what is to be said about it."""

    raw: dict[str, Any]
    sources: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def complete(raw: Mapping[str, Any], environ: Mapping[str, str]) -> Overlay:
    """Lay the environment below the raw values of the file; sections that are not mappings are left for the schema to refuse."""
    overlay = Overlay({key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()})
    _Environment(environ, overlay).read()
    return overlay


_Convert = Callable[[str, str], Any]
"""From a variable's name and value to the value of the key."""


class _Environment:
    def __init__(self, environ: Mapping[str, str], overlay: Overlay) -> None:
        self._environ = {name: value for name, value in environ.items() if value.strip()}
        self._overlay = overlay

    def read(self) -> None:
        self._control_plane()
        self._registry()
        self._s3()
        self._put(("state", "directory"), _DIRECTORY)
        self._put(("logging", "level"), _LEVEL, self._level)
        self._put(("http", "proxy"), _PROXY)
        self._put(("http", "no_proxy"), _NO_PROXY, lambda _name, value: re.split(r"[,\s]+", value.strip(", \t")))
        for name in sorted(self._environ):
            if name.startswith(("HG_", "HARBORGUARD_")) and name not in _KNOWN:
                near = difflib.get_close_matches(name, _KNOWN, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                self._overlay.warnings.append(f"the environment variable {name} means nothing to this sensor{hint}")

    def _find(self, names: tuple[str, ...]) -> tuple[str, str]:
        """Name and value of the first variable that is set."""
        found = [(name, self._environ[name]) for name in names if name in self._environ]
        if len({value for _, value in found}) > 1:
            others = ", ".join(name for name, _ in found[1:])
            self._overlay.warnings.append(f"{found[0][0]} is used; {others}, set to something else, is not")
        return found[0] if found else ("", "")

    def _put(self, path: tuple[str, str], names: tuple[str, ...], convert: _Convert | None = None) -> None:
        name, value = self._find(names)
        section = self._overlay.raw.setdefault(path[0], {}) if name else {}
        if not name or not isinstance(section, dict) or path[-1] in section:
            return
        section[path[-1]] = convert(name, value) if convert else value.strip()
        self._overlay.sources[path] = name

    def _secret(self, path: tuple[str, str], names: tuple[str, ...]) -> None:
        self._put(path, names, lambda name, _value: {"env": name})

    def _control_plane(self) -> None:
        url, key = self._find(_URL)[0], self._find(_KEY)[0]
        if "control_plane" not in self._overlay.raw and not url:
            if key:
                # a dashboard that runs the sensor as its scanner hands down its own key
                self._overlay.warnings.append(f"{key} is not used, because there is no {' or '.join(_URL)}")
            return
        self._put(("control_plane", "url"), _URL)
        self._secret(("control_plane", "api_key"), _KEY)
        self._put(("control_plane", "name"), _NAME)
        self._put(("control_plane", "poll"), _POLL, self._milliseconds)

    def _s3(self) -> None:
        if "s3" not in self._overlay.raw and not self._find(_S3["bucket"])[0]:
            return
        for key, names in _S3.items():
            if key == "secret_access_key":
                self._secret(("s3", key), names)
            else:
                self._put(("s3", key), names)

    def _registry(self) -> None:
        name, url = self._find(_REGISTRY)
        used = [self._find(names)[0] for names in (_USER, _PASSWORD, _TOKEN, _INSECURE)]
        reason = (
            "the file lists registries"
            if "registries" in self._overlay.raw
            else ""
            if name
            else "there is no REGISTRY_URL"
        )
        if reason:
            named = _named_variables(self._overlay.raw)
            ignored = [variable for variable in (name, *used) if variable and variable not in named]
            if ignored:
                self._overlay.warnings.append(f"not used, because {reason}: {', '.join(ignored)}")
            return
        raw: dict[str, Any] = {"name": _name_for(url)}
        self._overlay.raw["registries"] = [raw]
        for key, names in (("url", _REGISTRY), ("username", _USER)):
            self._registry_key(raw, key, names)
        user = "username" in raw
        secret = (*_PASSWORD, *_TOKEN) if user or self._find(_PASSWORD)[0] else _TOKEN
        self._registry_key(
            raw, "password" if secret is not _TOKEN else "token", secret, lambda name, _value: {"env": name}
        )
        self._registry_key(raw, "insecure", _INSECURE, self._switch)

    def _registry_key(
        self, raw: dict[str, Any], key: str, names: tuple[str, ...], convert: _Convert | None = None
    ) -> None:
        name, value = self._find(names)
        if name:
            raw[key] = convert(name, value) if convert else value.strip()
            self._overlay.sources["registries", 0, key] = name

    def _level(self, name: str, value: str) -> str:
        return self._word(name, value, _LEVELS, "debug, info, warn or error") or "info"

    def _switch(self, name: str, value: str) -> bool:
        return bool(self._word(name, value, _SWITCH, "1, true, yes, on, 0, false, no or off"))

    def _word(self, name: str, value: str, table: Mapping[str, Any], expected: str) -> Any:
        if value.strip().lower() in table:
            return table[value.strip().lower()]
        self._overlay.problems.append(Problem((name,), f"expected {expected}"))
        return None

    def _milliseconds(self, name: str, value: str) -> str:
        if re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
            return f"{int(value) / 1000:.3f}s"
        self._overlay.problems.append(Problem((name,), "expected a number of milliseconds"))
        return "15s"


def _name_for(url: str) -> str:
    """A registry name made of its host, for a registry that only the environment names."""
    place = on_disk(url)
    host = place[1].rstrip("/").rpartition("/")[2] if place else urlsplit(url if "://" in url else f"//{url}").netloc
    host = host.rpartition("@")[2]
    return re.sub(r"[^a-z0-9._-]+", "-", host.lower()).strip("-._")[:63] or "registry"


def _named_variables(value: Any) -> set[str]:
    """Variables that the file itself names, by `{env: NAME}`."""
    if isinstance(value, Mapping):
        if set(value) == {"env"} and isinstance(value["env"], str):
            return {value["env"]}
        return set().union(*map(_named_variables, value.values()))
    return set().union(*map(_named_variables, value)) if isinstance(value, list) else set()
