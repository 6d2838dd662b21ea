"""Where the credential of a registry comes from when the configuration holds it: user name and password, or a bearer token.

Identities of the machine are `identity`'s; what a kind makes of them is in `kinds`. Docker's configuration files and credential plug-ins
are in `docker_config`.
"""

from __future__ import annotations

import asyncio

from sensor.config.schema import Registry as Settings
from sensor.errors import SecretError
from sensor.registry.login import Basic, Credential, StaticToken
from sensor.secret import Secret, read_secret


class Anonymous:
    """No credential, and none is looked for."""

    async def credential(self, *, renew: bool) -> Credential | None:  # noqa: ARG002 - there is nothing to renew
        """Always None."""
        return None


class ConfiguredCredential:
    """User name and password, or a token, from where the configuration says; read at first use and again after a refusal."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._read = False
        self._credential: Credential | None = None
        self._reading = asyncio.Lock()

    async def credential(self, *, renew: bool) -> Credential | None:
        """The configured credential; None when there is none.

        Raises:
            SecretError: its source cannot be read, or holds something that cannot be sent.
        """
        async with self._reading:
            if renew or not self._read:
                self._credential = await asyncio.to_thread(self._load)
                self._read = True
            return self._credential

    def _load(self) -> Credential | None:
        settings = self._settings
        if settings.token is not None:
            return StaticToken(token=_one_line(read_secret(settings.token), settings.name))
        if settings.password is None:
            return None
        if ":" in settings.username:
            message = f"the user name of registry {settings.name} contains a colon"
            raise SecretError(message, "HTTP Basic cannot carry it (RFC 7617)")
        if not settings.username.isprintable():
            message = f"the user name of registry {settings.name} contains line breaks or control characters"
            raise SecretError(message, "write the user name alone, on one line")
        password = read_secret(settings.password)
        if not password.reveal().lstrip().startswith("{"):  # a Google key is a file of many lines, sent verbatim
            password = _one_line(password, settings.name)
        return Basic(username=settings.username, password=password)


def _one_line(secret: Secret, registry: str) -> Secret:
    if not secret.reveal().isprintable():
        message = f"the credential of registry {registry} contains line breaks or control characters"
        raise SecretError(message, "store the secret alone, on one line")
    return secret
