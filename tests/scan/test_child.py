from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sensor
from sensor.limits import DEFAULT_LIMITS, MIB, Limits
from sensor.scan.child import LayerReading, read_descriptor
from sensor.scan.packages import ECOSYSTEMS
from tests.fakes.catalogers import CATALOGERS, inventory_of
from tests.fakes.layers import file, layer

MEASURED = {name: value for name, value in os.environ.items() if name.startswith("COV")}
"""Nothing but what lets the coverage of the process be measured, when it is."""
ROOT = str(Path(sensor.__file__).resolve().parent.parent)


def fed(data: bytes) -> int:
    """A descriptor that gives these bytes and ends."""
    theirs, ours = os.pipe()

    def write() -> None:
        with os.fdopen(ours, "wb") as pipe:
            pipe.write(data)

    threading.Thread(target=write, daemon=True).start()
    return theirs


def run(data: bytes, limits: Limits = DEFAULT_LIMITS, prelude: str = "pass") -> subprocess.CompletedProcess[bytes]:
    start = f"import sys; sys.path.append({ROOT!r})\n{prelude}\nfrom sensor.scan.child import main\nraise SystemExit(main())"
    return subprocess.run(
        [sys.executable, "-I", "-c", start, msgspec.json.encode(limits).decode()],
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
        env=MEASURED,
        cwd="/",
    )


def reading_of(data: bytes, limits: Limits = DEFAULT_LIMITS) -> LayerReading:
    done = run(data, limits)
    assert (done.returncode, done.stderr) == (0, b"")
    return msgspec.msgpack.decode(done.stdout, type=LayerReading)


def test_digest_size_and_inventory_of_what_a_descriptor_gives() -> None:
    blob = layer(file("db", b"a 1"), file("noise", os.urandom(3 * MIB)))
    descriptor = fed(blob)
    reading = read_descriptor(descriptor, CATALOGERS, DEFAULT_LIMITS)
    os.close(descriptor)
    assert reading.digest == "sha256:" + hashlib.sha256(blob).hexdigest()
    assert reading.size == len(blob) == reading.inventory.compressed_bytes
    assert [package.name for package in reading.inventory.evidence[0].packages] == ["a"]


def test_damaged_bytes_are_hashed_to_their_end() -> None:
    blob = b"\x1f\x8b\x08junk" * 100_000
    descriptor = fed(blob)
    reading = read_descriptor(descriptor, CATALOGERS, DEFAULT_LIMITS)
    os.close(descriptor)
    assert reading.digest == "sha256:" + hashlib.sha256(blob).hexdigest()
    assert [(gap.kind, gap.subject) for gap in reading.inventory.gaps] == [("unreadable", reading.digest)]


STATUS = b"Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2-1\n\n"


def test_the_process_answers_with_the_real_catalogers() -> None:
    reading = reading_of(layer(file("var/lib/dpkg/status", STATUS), file("etc/os-release", b"ID=debian\n")))
    assert [(each.name, each.version) for each in reading.inventory.evidence[0].packages] == [("bash", "5.2-1")]
    assert reading.inventory.os_release["etc/os-release"].id == "debian"


def test_no_bytes_are_an_empty_layer() -> None:
    reading = reading_of(b"")
    assert reading.digest == "sha256:" + hashlib.sha256(b"").hexdigest()
    assert reading.inventory.gaps == ()


@pytest.mark.parametrize(
    "data", [b"\0" * 5000, b"random junk" * 1000, b"\x28\xb5\x2f\xfd" + b"\xff" * 100, b"\x1f\x8b"]
)
def test_junk_is_answered_and_never_a_crash(data: bytes) -> None:
    reading = reading_of(data)
    assert reading.size == len(data)
    assert {gap.kind for gap in reading.inventory.gaps} <= {"unreadable"}


def test_memory_is_bounded_by_the_limits() -> None:
    # A package file that may be held, but not within this address space.
    limits = replace(DEFAULT_LIMITS, child_address_space=160 * MIB, package_file_bytes=400 * MIB)
    blob = layer(file("var/lib/dpkg/status", STATUS * (MIB * 300 // len(STATUS))))
    done = run(blob, limits)
    if done.returncode == 0:
        inventory = msgspec.msgpack.decode(done.stdout, type=LayerReading).inventory
        gaps = [*inventory.gaps, *(gap for evidence in inventory.evidence for gap in evidence.gaps)]
        assert gaps
    else:
        assert b"MemoryError" in done.stderr


def test_the_process_gives_up_what_it_does_not_need() -> None:
    prelude = (
        "import msgspec, os, resource, sensor.scan.child as child\n"
        "def report(*_):\n"
        "    limits = [resource.getrlimit(x)[0] for x in (resource.RLIMIT_CORE, resource.RLIMIT_AS, resource.RLIMIT_NOFILE)]\n"
        "    status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "    sys.stderr.buffer.write(msgspec.json.encode([limits, status['NoNewPrivs'].strip(), dict(os.environ), os.listdir('/proc/self/fd')]))\n"
        "    sys.stderr.flush(); os._exit(7)\n"
        "child.read_descriptor = report"
    )
    done = run(b"", prelude=prelude)
    assert done.returncode == 7
    limits, no_new_privileges, environment, descriptors = msgspec.json.decode(done.stderr)
    assert limits == [0, DEFAULT_LIMITS.child_address_space, 64]
    assert no_new_privileges == "1"
    assert set(environment) <= {"LC_CTYPE", *MEASURED}
    assert len(descriptors) <= 4


def test_limits_that_are_already_lower_stay() -> None:
    done = run(b"", prelude="import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))")
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_process_is_light() -> None:
    """No event loop, no validation library and no database layer: they would triple the start of every layer."""
    code = f"import sys; sys.path.append({ROOT!r}); import sensor.scan.child, sensor.scan.packages; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, timeout=60, check=True, env={})
    loaded = set(done.stdout.decode().split())
    assert loaded.isdisjoint(
        {
            "asyncio",
            "pydantic",
            "sqlalchemy",
            "aiohttp",
            "structlog",
            "tarfile",
            "tempfile",
            "ssl",
            "socket",
            "cryptography",
        }
    )


def test_a_start_loads_nothing_heavy() -> None:
    """What makes a start slow and large is what it imports (the figures are in benchmarks/)."""
    program = "import sys, sensor.scan.child, sensor.scan.packages; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=ROOT, text=True)
    heavy = {"asyncio", "aiohttp", "pydantic", "sqlalchemy", "typer", "rich", "structlog", "yaml", "email", "tarfile"}
    assert not heavy & set(done.stdout.split())


def test_limits_that_cannot_be_read_end_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sensor.scan.child", "not json"],
        input=b"",
        capture_output=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert b"DecodeError" in done.stderr


REAL = (
    file("etc/os-release", b'ID=debian\nVERSION_ID="12"\n'),
    file("var/lib/dpkg/status", STATUS * 3),
    file("var/lib/dpkg/info/bash.list", b"/.\n/bin\n/bin/bash\n"),
    file("lib/apk/db/installed", b"P:musl\nV:1.2.4-r2\nA:x86_64\no:musl\nF:lib\nR:ld-musl-x86_64.so.1\n\n"),
    file(
        "usr/lib/python3/dist-packages/a-1.dist-info/METADATA", b"Metadata-Version: 2.1\nName: a\nVersion: 1\n\nText\n"
    ),
    file("app/node_modules/b/package.json", b'{"name": "b", "version": "1.0.0", "license": "MIT"}'),
    file("usr/bin/tool", b"\x7fELF\x02\x01\x01" + bytes(100) + b"\xff Go buildinf:\x08\x02" + bytes(200)),
    file("var/lib/rpm/rpmdb.sqlite", b"SQLite format 3\0" + bytes(2000)),
    file("var/lib/rpm/Packages.db", b"RpmP" + bytes(2000)),
    file("var/lib/rpm/Packages", bytes(12) + b"\x61\x15\x06\x00" + bytes(2000)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=4), st.integers(0, 400), st.booleans())
def test_damaged_layers_never_crash_or_hang_the_real_catalogers(
    flips: list[tuple[int, int]], cut: int, packed: bool
) -> None:
    blob = bytearray(layer(*REAL, compression="gzip" if packed else "none"))
    for place, mask in flips:
        blob[place % len(blob)] ^= mask
    inventory = inventory_of(bytes(blob[: len(blob) - cut]), catalogers=ECOSYSTEMS, step=4096)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(inventory), type=type(inventory)) == inventory


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([entry.path for entry in REAL]), st.binary(max_size=400))
def test_random_content_never_crashes_the_real_catalogers(path: str, content: bytes) -> None:
    head = next(entry.data[:16] for entry in REAL if entry.path == path)
    inventory = inventory_of(layer(file(path, content), file("x/" + path, head + content)), catalogers=ECOSYSTEMS)
    assert inventory.gaps == ()
