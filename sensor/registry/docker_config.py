"""Credentials from a docker `config.json` (or podman's `auth.json`): entries of `auths`, credential helpers where they are allowed.

The most special key wins, as in containers-auth.json(5): `quay.io/acme` before `quay.io`. The file may name programs; it cannot make the
sensor run one that the sensor's own configuration does not name.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from sensor.config.logins import DockerConfig
from sensor.errors import SecretError
from sensor.model.reference import DOCKER_HUB
from sensor.registry.errors import inert
from sensor.registry.login import Basic, Credential
from sensor.registry.programs import IDENTITY_TOKEN, ask_helper
from sensor.secret import Secret, remembered

_MOST_BYTES = 1 << 20
_HUB_KEY = "https://index.docker.io/v1/"
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_SHOWN = 5
_ACR_USER = "00000000-0000-0000-0000-000000000000"


class _Entry(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _File(msgspec.Struct, rename={"creds_store": "credsStore", "cred_helpers": "credHelpers"}):
    auths: dict[str, _Entry | None] | None = None
    creds_store: str = ""
    cred_helpers: dict[str, str] | None = None


class DockerConfigCredential:
    """What the file says about one registry; read again after a refusal, so that `docker login` is noticed."""

    def __init__(self, settings: DockerConfig, host: str, namespace: str = "") -> None:
        self._settings = settings
        self._host = host
        self._namespace = namespace
        self.missing = ""
        """Why the file has no credential for the registry."""
        self._read = False
        self._credential: Credential | None = None
        self._reading = asyncio.Lock()

    async def credential(self, *, renew: bool) -> Credential | None:
        """The credential for the registry; None when the file has none.

        Raises:
            SecretError: the file cannot be read, or names a helper that is not allowed or fails.
        """
        async with self._reading:
            if renew or not self._read:
                self._credential = await self._look_up()
                self._read = True
            return self._credential

    async def _look_up(self) -> Credential | None:
        path = config_path(self._settings.path)
        self.missing = ""
        file = await asyncio.to_thread(_load, path)
        keys = tuple(_keys(self._host, self._namespace))
        helper, server = _helper(file.cred_helpers or {}, keys)
        entry_key = next((key for key in keys if _entry(file, key) is not None), "")
        if not helper and entry_key and (entry := _entry(file, entry_key)) is not None:
            return _from_entry(entry, entry_key, path)
        if not helper and file.creds_store:
            helper, server = file.creds_store, entry_key or keys[-1]
        if not helper:
            self.missing = (
                f"{path} has no entry for {'/'.join(filter(None, (self._host, self._namespace)))}{_entries(file)}"
            )
            return None
        found = await self._ask(helper, server, path)
        if found is None:
            self.missing = f"docker-credential-{helper}, which {path} names, has no credential for {server}"
            return None
        name, secret = found
        if name == IDENTITY_TOKEN:
            return _from_identity_token(self._host, secret.reveal(), path)
        return Basic(username=name, password=secret)

    async def _ask(self, helper: str, server: str, path: Path) -> tuple[str, Secret] | None:
        if not _HELPER_NAME.fullmatch(helper):
            message = f"{path} names a credential helper that cannot be one"
            raise SecretError(message, "expected the part of its name behind docker-credential-")
        if helper not in self._settings.helpers:
            message = f"{path} names the credential helper {helper} for {server}, which is not allowed"
            raise SecretError(
                message, f"add {helper} to docker_config.helpers if docker-credential-{helper} may be run"
            )
        return await ask_helper(helper, server)


def config_path(configured: str) -> Path:
    """The file: the configured one, else $DOCKER_CONFIG/config.json, else ~/.docker/config.json."""
    if configured:
        return Path(configured)
    directory = os.environ.get("DOCKER_CONFIG", "")
    return Path(directory or Path.home() / ".docker") / "config.json"


def secrets_in(settings: DockerConfig) -> Iterator[str]:
    """Everything secret that stands in the file, whichever registry it is for; nothing where the file cannot be read."""
    try:
        entries = (_load(config_path(settings.path)).auths or {}).values()
    except SecretError:
        return
    for entry in entries:
        if entry is not None:
            yield from (entry.auth, entry.password, entry.identitytoken)
            with contextlib.suppress(ValueError):
                yield base64.b64decode(entry.auth).decode().partition(":")[2].strip("\0")


def _load(path: Path) -> _File:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        message = f"the docker configuration {path} cannot be read: {error.strerror}"
        raise SecretError(message, "check docker_config.path, and that this user may read the file") from error
    if len(data) > _MOST_BYTES:
        message = f"the docker configuration {path} is larger than 1 MiB"
        raise SecretError(message, "name a file that holds nothing else")
    try:
        return msgspec.json.decode(data, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"{path} is no docker configuration"
        raise SecretError(message, "expected JSON with auths, credHelpers or credsStore") from error


def _keys(host: str, namespace: str) -> Iterator[str]:
    """Under what a registry may stand in the file, the most special first."""
    parts = namespace.split("/") if namespace else []
    hosts = (host, *sorted(DOCKER_HUB - {host})) if host in DOCKER_HUB else (host,)
    for depth in range(len(parts), 0, -1):
        yield from (f"{name}/{'/'.join(parts[:depth])}" for name in hosts)
    yield from hosts
    for name in hosts:
        yield from (
            f"https://{name}",
            f"http://{name}",
            f"https://{name}/v1/",
            f"https://{name}/v2/",
            f"https://{name}/v1",
        )
    if host in DOCKER_HUB:
        yield _HUB_KEY


def _entry(file: _File, key: str) -> _Entry | None:
    entry = (file.auths or {}).get(key)
    # with a credential store docker leaves empty entries behind
    filled = entry is not None and (entry.auth or entry.username or entry.identitytoken)
    return entry if filled else None


def _entries(file: _File) -> str:
    """What the file has instead, for a message: keys are no secrets, but anything may stand in them."""
    filled = [key for key in file.auths or {} if _entry(file, key) is not None]
    keys = [inert(key[:100]) for key in dict.fromkeys((*filled, *(file.cred_helpers or {})))]
    if not keys:
        return " (it has none at all)"
    more = f" and {len(keys) - _MOST_SHOWN} more" if len(keys) > _MOST_SHOWN else ""
    return f" (it has: {', '.join(keys[:_MOST_SHOWN])}{more})"


def _helper(helpers: Mapping[str, str], keys: tuple[str, ...]) -> tuple[str, str]:
    key = next((key for key in keys if helpers.get(key)), "")
    return (helpers[key], key) if key else ("", "")


def _from_entry(entry: _Entry, key: str, path: Path) -> Credential:
    name, password = entry.username, entry.password
    if entry.auth:
        try:
            name, _, password = base64.b64decode(entry.auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError, ValueError) as error:
            message = f"{path}: the entry of {key} is damaged"
            raise SecretError(message, "log in again with `docker login`") from error
        password = password.strip("\0")
    if entry.identitytoken:
        return _from_identity_token(key, entry.identitytoken, path, name)
    return Basic(username=name, password=remembered(password))


def _from_identity_token(server: str, token: str, path: Path, name: str = _ACR_USER) -> Credential:
    """An OAuth2 refresh token. Azure's registries take theirs as a password of a user of zeroes; for others there is no such way."""
    host = server.removeprefix("https://").partition("/")[0]
    if name == _ACR_USER and re.search(r"\.azurecr\.(io|cn|us)$", host):
        return Basic(username=_ACR_USER, password=remembered(token))
    message = f"{path} holds an identity token for {server}, which this registry's login has no use for"
    raise SecretError(message, "log in with a user name and an access token instead of through a browser")
