"""Runs one command and measures it from outside: wall time, CPU of the process tree, peak memory summed over the process tree.

CPU is that of the command and of all descendants that were waited for, as the kernel accounts it. Memory is looked at every 10 ms.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_EVERY = 0.01
"""Seconds between two looks at the tree's memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Seconds, bytes, and what the command wrote to stdout."""

    wall: float
    cpu: float
    peak: int
    status: int
    stdout: bytes
    stderr: bytes


def measure(command: Sequence[str], environment: Mapping[str, str]) -> Measured:
    """Run a command to its end.

    Resident pages count once for each process that maps them, so the sum is rather too large. An address space counts once: between vfork and
    exec a child runs in its parent's.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.monotonic()
        before = os.times()
        process = subprocess.Popen(command, env=dict(environment), stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        peak = [0]
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_EVERY):
                peak[0] = max(peak[0], _tree_resident(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        status = process.wait()
        wall = time.monotonic() - began
        after = os.times()
        ended.set()
        watcher.join()
        out.seek(0)
        err.seek(0)
        cpu = (after.children_user - before.children_user) + (after.children_system - before.children_system)
        return Measured(wall=wall, cpu=cpu, peak=peak[0], status=status, stdout=out.read(), stderr=err.read())


def _tree_resident(root: int) -> int:
    total, waiting = 0, [(root, "")]
    while waiting:
        pid, parent = waiting.pop()
        try:
            # where program, arguments and environment lie: the same numbers only in the same address space, or before a copy of it has changed
            space = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            layout = " ".join((space[20], *space[23:26], *space[42:49]))
            if layout != parent:
                total += int(space[21]) * _PAGE
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += [(int(child), layout) for child in (task / "children").read_text().split()]
        except (OSError, ValueError, IndexError):
            continue  # ended between two looks
    return total
