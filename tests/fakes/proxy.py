"""An HTTP proxy on loopback: CONNECT tunnels and plain requests, with or without a password; remembers what it was asked for."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class FakeProxy:
    """Every request may be refused with `refuse` (a status). `hosts` says where a host[:port] really is."""

    def __init__(
        self, *, user: str = "", password: str = "", refuse: int = 0, hosts: dict[str, str] | None = None
    ) -> None:
        self.asked: list[str] = []
        """Targets of CONNECT, and URLs of plain requests."""
        self.refuse = refuse
        self._hosts = hosts or {}
        self._expected = base64.b64encode(f"{user}:{password}".encode()).decode() if user else ""
        self._credentials = f"{user}:{password}@" if user else ""
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """For `proxy:`, with the right password."""
        assert self._server is not None
        return f"http://{self._credentials}127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.append(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.decode("latin-1").split("\r\n")[0].split(" ")
            self.asked.append(target)
            if self._expected and f"Proxy-Authorization: Basic {self._expected}".lower() not in head.decode().lower():
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            elif self.refuse:
                writer.write(f"HTTP/1.1 {self.refuse} No\r\nContent-Length: 0\r\n\r\n".encode())
            elif method == "CONNECT":
                await self._tunnel(target, reader, writer)
            else:
                await self._forward(target, head + await _body(head, reader), writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _tunnel(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._hosts.get(target, target).rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        with contextlib.closing(back):
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, back))
                group.create_task(_pump(there, writer))

    async def _forward(self, url: str, head: bytes, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(url)
        host, _, port = self._hosts.get(parts.netloc, f"{parts.hostname}:{parts.port or 80}").rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        first, _, rest = head.partition(b"\r\n")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        back.write(first.replace(url.encode(), path.encode()) + b"\r\nConnection: close\r\n" + rest)
        with contextlib.closing(back):
            await _pump(there, writer)


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return await reader.readexactly(int(length[1])) if length else b""


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
        else:
            sink.close()
