"""The sensor's own connections as a transport of google-auth, so that the library has the same proxies, authorities and bounds.

Imported lazily by `gcp`, because it needs google-auth. The library is synchronous and runs in a thread; each of its requests is handed to
the event loop that started it, and waited for. It repeats what it wants to repeat by itself, until the time is up.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ipaddress
import os
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from google.auth.exceptions import TransportError
from google.auth.transport import Request, Response

from sensor.errors import NetworkError, SecretError, SensorError
from sensor.route import METADATA_HOSTS
from sensor.transport import NO_RETRY, Reply, Transport

_MOST_BYTES = 64 * 1024
_REQUEST_SECONDS = 15.0
"""For one request, where the library does not say; its own default is two minutes."""


def metadata_host() -> str:
    """host[:port] of the metadata service, by the variable that google-auth reads."""
    return os.environ.get("GCE_METADATA_HOST") or "metadata.google.internal"


def metadata_address() -> str:
    """Address of the metadata service, for finding out whether there is one without asking a name server."""
    return os.environ.get("GCE_METADATA_IP") or METADATA_HOSTS[0]


class Answer(Response):
    """A complete answer, as google-auth wants to see one."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._reply.status

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case, as the library looks them up; a missing type is none."""
        return {"content-type": "", **self._reply.headers}

    @property
    def data(self) -> bytes:
        """The body."""
        return self._reply.body


class Pipe(Request):
    """Sends the library's requests through a Transport, from a thread, until `seconds` have passed or `stop` is set."""

    def __init__(
        self, transport: Transport, loop: asyncio.AbstractEventLoop, seconds: float, stop: threading.Event
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._ends = time.monotonic() + seconds
        self._stop = stop

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return 0.0 if self._stop.is_set() else self._ends - time.monotonic()

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_more: Any,
    ) -> Answer:
        """One request.

        Raises:
            TransportError: no answer; the reason is its cause. The library may try again.
            NetworkError: the time is up, and the library must not try again.
            SecretError: a token is to be fetched in plain HTTP from another machine.
        """
        host = urlsplit(url).netloc.rpartition("@")[2]
        if not _is_private_enough(url):
            message = f"{host} is to be asked for a token in plain HTTP, which is not allowed"
            raise SecretError(message, "token_uri, token_url and the URL of a credential_source must be https://")
        seconds = min(timeout or _REQUEST_SECONDS, self.left)
        if seconds <= 0:
            message = f"no token of Google: no time is left to ask {host}"
            raise NetworkError(message, "check the way to Google's token services, and what answers there")
        shown = {str(name): str(value) for name, value in (headers or {}).items()}
        pending = asyncio.run_coroutine_threadsafe(self._ask(method, url, shown, body), self._loop)
        try:
            return Answer(pending.result(seconds))
        except SensorError as error:
            raise TransportError(error.message) from error
        except (TimeoutError, concurrent.futures.CancelledError):
            pending.cancel()
            message = f"{host} gave no answer within {seconds:.0f} seconds"
            raise TransportError(message) from NetworkError(message)

    async def _ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        if self._stop.is_set():  # the transport is closed
            raise NetworkError("nobody waits for the token any more")
        return await self._transport.fetch(
            method, url, headers=headers, body=body, most_bytes=_MOST_BYTES, retry=NO_RETRY
        )


def _is_private_enough(url: str) -> bool:
    """Whether a URL is HTTPS, or stays on this machine: loopback, or a metadata service on its link-local address."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return True
    host = parts.hostname or ""
    if host in METADATA_HOSTS or host == "localhost" or parts.netloc == metadata_host():
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_link_local
