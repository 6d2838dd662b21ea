"""The sensor's own connections as a transport of azure-core, so that the SDK has the same proxies, authorities, bounds and time limits.

Imported lazily by `azure`: azure-core alone costs a tenth of a second. Everything here follows azure-core's own abstract classes.
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from azure.core.exceptions import ServiceRequestError
from azure.core.pipeline.transport import AsyncHttpResponse, AsyncHttpTransport
from multidict import CIMultiDict

from sensor.errors import SensorError
from sensor.transport import NO_RETRY, Reply, Retry, Transport

_MOST_BYTES = 64 * 1024
"""A token with hundreds of groups stays below a quarter of it."""

# whatever it would warn of is raised to our caller, who says it in better words
logging.getLogger("azure").setLevel(logging.CRITICAL)


class Answer(AsyncHttpResponse):
    """A complete answer, as azure-core's policies want to see one."""

    def __init__(self, request: Any, reply: Reply) -> None:
        super().__init__(request, reply)
        self.status_code = reply.status
        self.headers = CIMultiDict(reply.headers)
        self.reason = ""
        self.content_type = reply.headers.get("content-type")
        self._body = reply.body

    def body(self) -> bytes:
        """The bytes."""
        return self._body

    def text(self, encoding: str | None = None) -> str:
        """The bytes as text. What is no text is shown as such instead of failing deep inside the SDK."""
        return self._body.decode(encoding or "utf-8-sig", "replace")


class Pipe(AsyncHttpTransport[Any, Any]):
    """Sends the SDK's requests through a Transport. The SDK's own policy repeats them, so nothing is repeated here."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def send(self, request: Any, **_options: Any) -> Answer:
        """One request. Raises ServiceRequestError with the reason as its cause when there is no answer."""
        headers = {str(name): str(value) for name, value in request.headers.items()}
        body = request.data
        if isinstance(body, dict):
            body = urlencode(body)
            headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
        if isinstance(body, str):
            body = body.encode()
        try:
            reply = await self._transport.fetch(
                request.method, request.url, headers=headers, body=body or None, most_bytes=_MOST_BYTES, retry=NO_RETRY
            )
        except SensorError as error:
            raise ServiceRequestError(error.message, error=error) from error
        return Answer(request, reply)

    async def sleep(self, duration: float) -> None:
        """Pause between two attempts."""
        await self._transport.pause(0, duration, plan=Retry(first=0.0))

    async def open(self) -> None:
        """The transport opens itself."""

    async def close(self) -> None:
        """The transport belongs to whoever made it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Nothing to release."""
