"""Small programs for tests to run, and whether a program still runs."""

from __future__ import annotations

import os
import select
from pathlib import Path


def script(path: Path, body: str) -> Path:
    """Write a shell script that may be executed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def is_over(pid: int, *, seconds: float) -> bool:
    """Whether a process has ended, or ends within so many seconds; whoever inherited it need not have reaped it."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], seconds)[0])
    finally:
        os.close(watched)
