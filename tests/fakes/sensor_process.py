"""The real daemon as a process: started with a configuration file, watched through its JSON log, ended by signal.

    async with SensorProcess(config) as sensor:
        line = await sensor.line("image scanned", reference=...)
        sensor.signal(signal.SIGTERM); assert await sensor.ended() == 0

Waiting is for log lines, never for time; every line seen so far is kept, so that a wait cannot miss one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Self

_PATIENCE = 60.0


class SensorProcess:
    """`harborguard-sensor run --config FILE`. `environ` is added to a clean environment."""

    def __init__(self, config: Path, **environ: str) -> None:
        self.config = config
        self.lines: list[dict[str, Any]] = []
        self.other: list[str] = []
        """What stood on stderr besides JSON log lines."""
        self._environ = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(config.parent), **environ}
        self._process: asyncio.subprocess.Process | None = None
        self._news = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sensor", "run", "--config", str(self.config),
            env=self._environ, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, limit=1 << 22,
        )  # fmt: skip
        self._reader = asyncio.get_running_loop().create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._reader is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reader

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def ended(self) -> int:
        """The exit status (negative: the signal that ended it)."""
        assert self._process is not None
        assert self._reader is not None
        async with asyncio.timeout(_PATIENCE):
            status = await self._process.wait()
            await asyncio.shield(self._reader)
        return status

    async def line(self, text: str, *, nth: int = 1, **fields: Any) -> dict[str, Any]:
        """The nth log line with this event and these fields, now or as soon as it comes."""

        def found() -> list[dict[str, Any]]:
            return [
                line
                for line in self.lines
                if line.get("event") == text and all(line.get(name) == value for name, value in fields.items())
            ]

        try:
            async with asyncio.timeout(_PATIENCE), self._news:
                await self._news.wait_for(lambda: len(found()) >= nth or self._is_over())
        except TimeoutError:
            pass
        lines = found()
        if len(lines) < nth:
            seen = "\n".join([*(json.dumps(line) for line in self.lines[-30:]), *self.other[-20:]])
            raise AssertionError(f"no line {nth} of {text!r} with {fields}; seen:\n{seen}")
        return lines[nth - 1]

    def _is_over(self) -> bool:
        return self._reader is not None and self._reader.done()

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for raw in self._process.stderr:
            text = raw.decode(errors="replace").rstrip("\n")
            try:
                self.lines.append(json.loads(text))
            except ValueError:
                self.other.append(text)
            async with self._news:
                self._news.notify_all()
        asyncio.get_running_loop().call_soon(asyncio.ensure_future, self._wake())

    async def _wake(self) -> None:
        async with self._news:
            self._news.notify_all()
