from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from sensor.errors import DataError, NetworkError
from sensor.inventory.reader import read_layer
from sensor.limits import DEFAULT_LIMITS, MIB
from tests.fakes.layers import file, layer
from tests.fakes.programs import is_over

STATUS = b"Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2-1\n\n"
BLOB = layer(file("var/lib/dpkg/status", STATUS), file("noise", bytes(range(256)) * 100))


def children() -> list[int]:
    """Processes that this one started and that are still there, zombies included."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def the_child() -> int:
    """The scanning process: it is there before the first bytes are asked for."""
    (child,) = children()
    return child


async def chunks(*data: bytes) -> AsyncIterator[bytes]:
    for each in data:
        yield each


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> object:
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    yield
    assert children() == []
    assert len(os.listdir("/proc/self/fd")) <= descriptors  # noqa: PTH208


@pytest.mark.parametrize("step", [1000, 1 << 20])
async def test_a_layer_is_read(step: int) -> None:
    seen: list[int] = []
    parts = [BLOB[start : start + step] for start in range(0, len(BLOB), step)]
    reading = await read_layer(chunks(*parts), limits=DEFAULT_LIMITS, progress=seen.append)
    assert reading.digest == "sha256:" + hashlib.sha256(BLOB).hexdigest()
    assert reading.size == len(BLOB) == sum(seen)
    assert [package.name for package in reading.inventory.evidence[0].packages] == ["bash"]


async def test_more_than_a_pipe_holds() -> None:
    noise = os.urandom(MIB)
    reading = await read_layer(chunks(*[noise] * 20), limits=DEFAULT_LIMITS)
    assert reading.size == 20 * MIB
    assert [gap.kind for gap in reading.inventory.gaps] == ["unreadable"]


async def test_several_layers_at_once() -> None:
    readings = await asyncio.gather(*(read_layer(chunks(BLOB), limits=DEFAULT_LIMITS) for _ in range(3)))
    assert len({reading.digest for reading in readings}) == 1


async def test_an_empty_layer() -> None:
    assert (await read_layer(chunks(), limits=DEFAULT_LIMITS)).size == 0


async def test_what_the_source_raises_comes_out_unchanged_and_ends_the_process() -> None:
    lost = NetworkError("the connection broke")

    async def breaking() -> AsyncIterator[bytes]:
        yield BLOB[:100]
        the_child()
        raise lost

    with pytest.raises(NetworkError) as caught:
        await read_layer(breaking(), limits=DEFAULT_LIMITS)
    assert caught.value is lost


async def test_a_time_out_of_the_source_is_not_blamed_on_the_process() -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        raise TimeoutError("the source's own")

    with pytest.raises(TimeoutError, match="own"):
        await read_layer(slow(), limits=DEFAULT_LIMITS)


async def test_cancellation_ends_the_process_and_closes_the_source() -> None:
    started, closed = asyncio.Event(), asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield BLOB[:10]
            started.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(read_layer(endless(), limits=DEFAULT_LIMITS))
        await started.wait()
        task.cancel()
    assert task.cancelled()
    assert closed.is_set()


@pytest.mark.parametrize("turns", range(8))
async def test_cancellation_at_any_moment_of_the_start_leaves_nothing(turns: int) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(read_layer(chunks(BLOB), limits=DEFAULT_LIMITS))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_that_reaches_the_whole_group_does_not_end_the_reading(number: signal.Signals) -> None:
    data = layer(file("etc/name", b"x" * 300_000), compression="none")

    async def chunks() -> AsyncIterator[bytes]:
        yield data[:100_000]
        child = the_child()
        while not ignores(child, number):  # noqa: ASYNC110 - another process is waited for
            await asyncio.sleep(0.01)
        os.kill(child, number)
        yield data[100_000:]

    reading = await read_layer(chunks(), limits=DEFAULT_LIMITS)
    assert reading.size == len(data)


def ignores(process: int, number: signal.Signals) -> bool:
    """Whether a process has come so far that it ignores a signal."""
    status = Path(f"/proc/{process}/status").read_text()
    mask = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(mask >> (number - 1) & 1)


def test_the_process_does_not_outlive_its_parent() -> None:
    parent = (
        "import asyncio, os, signal\n"
        "from sensor.inventory.reader import read_layer\n"
        "from sensor.limits import DEFAULT_LIMITS\n"
        "async def endless():\n"
        "    yield bytes(1 << 20)\n"
        "    (child,) = open(f'/proc/self/task/{os.getpid()}/children').read().split()\n"
        # it writes no answer before the end: that it takes bytes shows that it has begun to work
        "    for _ in range(20): yield bytes(1 << 20)\n"
        "    print(child, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(read_layer(endless(), limits=DEFAULT_LIMITS))\n"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert is_over(int(done.stdout), seconds=10)


async def test_the_process_is_told_nothing_that_it_could_give_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HG_API_KEY", "hg_ak_secret")
    monkeypatch.setenv("REGISTRY_PASSWORD", "hg_ak_secret")
    seen: list[bytes] = []

    async def looking() -> AsyncIterator[bytes]:
        room = Path(f"/proc/{the_child()}")
        seen.extend((room / name).read_bytes() for name in ("environ", "cmdline"))
        seen.append(os.fsencode((room / "cwd").readlink()))
        yield BLOB

    await read_layer(looking(), limits=DEFAULT_LIMITS)
    environment, arguments, directory = seen
    names = {line.partition(b"=")[0] for line in environment.split(b"\0") if line}
    assert names <= {b"LANG", b"LC_ALL", b"LD_LIBRARY_PATH", b"TMPDIR"}
    assert b"secret" not in environment + arguments
    assert directory == b"/"


@pytest.mark.parametrize(("number", "name"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV")])
async def test_a_process_that_dies_says_by_which_signal(number: signal.Signals, name: str) -> None:
    async def killing() -> AsyncIterator[bytes]:
        yield BLOB[:100]
        os.kill(the_child(), number)
        while True:
            yield bytes(MIB)

    with pytest.raises(DataError, match=rf"signal {int(number)} \({name}\)") as caught:
        await read_layer(killing(), limits=DEFAULT_LIMITS)
    assert caught.value.retryable
    assert ("memory" in caught.value.advice) is (number == signal.SIGKILL)


async def test_a_process_that_stops_moving_is_killed() -> None:
    async def stopping() -> AsyncIterator[bytes]:
        yield BLOB[:100]
        os.kill(the_child(), signal.SIGSTOP)
        while True:
            yield bytes(MIB)

    with pytest.raises(DataError, match=r"neither took nor gave a byte for 0\.3 seconds") as caught:
        await read_layer(stopping(), limits=replace(DEFAULT_LIMITS, child_idle_seconds=0.3))
    assert caught.value.retryable


async def test_a_process_that_does_not_answer_is_killed() -> None:
    async def stopping() -> AsyncIterator[bytes]:
        yield BLOB
        os.kill(the_child(), signal.SIGSTOP)

    with pytest.raises(DataError, match="neither took nor gave"):
        await read_layer(stopping(), limits=replace(DEFAULT_LIMITS, child_idle_seconds=0.3))


async def test_a_slow_source_is_no_fault_of_the_process() -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield BLOB[:100]
        await asyncio.sleep(0.5)
        yield BLOB[100:]

    reading = await read_layer(slow(), limits=replace(DEFAULT_LIMITS, child_idle_seconds=0.4))
    assert reading.size == len(BLOB)


async def test_an_answer_that_is_too_large_is_refused() -> None:
    with pytest.raises(DataError, match="larger than 10 bytes"):
        await read_layer(chunks(BLOB), limits=replace(DEFAULT_LIMITS, child_answer_bytes=10))


async def test_too_little_memory_to_start_is_told() -> None:
    limits = replace(DEFAULT_LIMITS, child_address_space=24 * MIB)
    with pytest.raises(DataError, match=r"ended with status 1: .*(Error|memory)"):
        await read_layer(chunks(BLOB), limits=limits)


@pytest.fixture
def impostor(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A program that stands in for Python."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{request.param}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("impostor", "message"),
    [
        ("cat >/dev/null; echo nonsense", "answer that cannot be read"),
        ("cat >/dev/null", "answer that cannot be read"),
        (
            "echo 'Traceback'; echo 'ImportError: no module \x1b[31m' >&2; exit 3",
            r"status 3: ImportError: no module \?\[31m",
        ),
        ("exit 4", "status 4: without a word"),
    ],
    indirect=["impostor"],
)
async def test_a_process_that_answers_nonsense(impostor: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        await read_layer(chunks(BLOB, bytes(4 * MIB)), limits=DEFAULT_LIMITS, python=impostor)
    assert caught.value.retryable
