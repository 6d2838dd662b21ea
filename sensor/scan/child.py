"""The scanning process: limits in its arguments, one layer's bytes on standard input, one inventory on standard output.

Started by exec for each layer (`inventory.reader`), so that hostile bytes meet a process that has no client, no credential and no
path, that may use only so much memory, and that can be killed. Leaves the check of the digest to the caller.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import os
import resource
import signal
import sys
from collections.abc import Sequence

import msgspec

from sensor.limits import MIB, Limits
from sensor.model.digest import Digest
from sensor.model.package import LayerInventory
from sensor.scan.packages.ecosystem import Ecosystem
from sensor.scan.stream import LayerStream

READ_BYTES = MIB
"""Asked for at once; the pipe holds as much."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
"""prctl(2)."""
_OPEN_FILES = 64


class LayerReading(msgspec.Struct, frozen=True, kw_only=True):
    """What the process answers: the digest (SHA-256) and size of the bytes it was given, and what they hold."""

    digest: Digest
    size: int
    inventory: LayerInventory


def main() -> int:
    """Read the limits (JSON) from the first argument, the layer from descriptor 0, and write the answer (MessagePack) to descriptor 1."""
    # a stop is told to the whole process group or control group; it is for the daemon, which finishes or kills what it has begun
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limits = msgspec.json.decode(sys.argv[1], type=Limits)
    restrict(limits)
    # Late, so that importing this module for `LayerReading` does not bring the catalogers along.
    from sensor.scan.packages import ECOSYSTEMS  # noqa: PLC0415

    reading = read_descriptor(0, ECOSYSTEMS, limits)
    answer = memoryview(msgspec.msgpack.encode(reading))
    while answer:
        answer = answer[os.write(1, answer) :]
    return 0


def read_descriptor(descriptor: int, ecosystems: Sequence[Ecosystem], limits: Limits) -> LayerReading:
    """Hash, inflate and walk everything that the descriptor gives. Damaged bytes are hashed to their end: whose fault it is depends on that."""
    stream = LayerStream(ecosystems, limits)
    digest = hashlib.sha256()
    size = 0
    while data := os.read(descriptor, READ_BYTES):
        digest.update(data)
        size += len(data)
        stream.feed(data)
    name = Digest("sha256:" + digest.hexdigest())
    return LayerReading(digest=name, size=size, inventory=stream.finish(name))


def restrict(limits: Limits) -> None:
    """Give up what this process does not need. Each bound may already be lower, and prctl may be missing: neither stops the work."""
    for what, most in (
        (resource.RLIMIT_AS, limits.child_address_space),
        (resource.RLIMIT_FSIZE, limits.spool_bytes),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        _soft, hard = resource.getrlimit(what)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (bound, bound))
    with contextlib.suppress(OSError, AttributeError):
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    with contextlib.suppress(OSError):
        os.nice(5)
    # The work makes few cycles and many objects: a full collection now and then would only cost time.
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


if __name__ == "__main__":
    raise SystemExit(main())
