"""A command as a process that keeps running: its lines as they come, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PATIENCE = 60


class Running:
    """Reads both streams, so that no pipe fills up; waits for lines, never for time."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", "sensor", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
            env={**os.environ, **environment},
        )  # fmt: skip
        self._news = threading.Condition()
        self.out: list[str] = []
        self.err: list[str] = []
        self._ended = 0
        for stream, lines in ((self._process.stdout, self.out), (self._process.stderr, self.err)):
            threading.Thread(target=self._read, args=(stream, lines), daemon=True).start()

    def _read(self, stream: Iterator[str], lines: list[str]) -> None:
        for line in stream:
            with self._news:
                lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended += 1
            self._news.notify_all()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def wait_for(self, text: str) -> str:
        """The first line, of either stream, that holds the text."""

        def found() -> str:
            return next((line for line in (*self.out, *self.err) if text in line), "")

        with self._news:
            self._news.wait_for(lambda: found() or self._ended == 2, timeout=_PATIENCE)
            assert found(), (text, self.out, self.err)
            return found()

    def end(self, number: signal.Signals | None = None) -> int:
        """Send a signal, if one is given, and wait for the exit status."""
        if number is not None:
            self._process.send_signal(number)
        status = self._process.wait(_PATIENCE)
        with self._news:
            self._news.wait_for(lambda: self._ended == 2, timeout=_PATIENCE)
        return status

    def close(self) -> None:
        """Kill what a failed test left."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[Running]:
    """`harborguard-sensor ARGUMENTS` until the block ends."""
    command = Running(*arguments, **environment)
    try:
        yield command
    finally:
        command.close()
