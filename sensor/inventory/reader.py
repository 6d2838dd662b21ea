"""Drives the scanning process: feeds one layer's bytes to it and takes the inventory back.

The process gets bytes and limits, never a client, a credential or a path, and an environment of nothing but what Python needs. It is
killed and reaped when the bytes fail, when nothing moves for too long, or when the caller gives up. Leaves fetching, resuming and the
comparison of digests to `inventory.layers`, and the reading itself to `scan.child`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

import sensor
from sensor.errors import DataError
from sensor.limits import MIB, Limits
from sensor.scan.child import LayerReading

_Result = TypeVar("_Result")

_PIPE_BYTES = MIB
_COMPLAINT_BYTES = 64 * 1024
_START = "import sys; sys.path.append(sys.argv.pop(1)); from sensor.scan.child import main; raise SystemExit(main())"
"""With -I Python ignores the environment, the working directory and the user's packages; the package's own place goes last in the
path, so that nothing beside it can stand in for a module of the standard library."""
_ROOT = str(Path(sensor.__file__).resolve().parent.parent)
_KEPT_VARIABLES = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR")


async def read_layer(
    chunks: AsyncIterator[bytes],
    *,
    limits: Limits,
    progress: Callable[[int], None] | None = None,
    python: str = sys.executable,
) -> LayerReading:
    """Feed the bytes of one layer to a new scanning process and return its answer.

    `progress` is told the bytes handed over since the last call. Whatever `chunks` raises comes out unchanged. The digest in the answer is
    of the bytes that were given: comparing it with the wanted one is the caller's duty.

    Raises:
        DataError: the process died, stopped moving, or answered nonsense; retryable, since memory and load may differ next time.
    """
    idle = limits.child_idle_seconds
    with contextlib.ExitStack() as owned:
        complaints = owned.enter_context(os.fdopen(os.memfd_create("complaints"), "w+b"))
        process, source, sink = await _start(python, limits, complaints.fileno(), owned)
        try:
            await _feed(chunks, source, idle, progress)
            answer = await _collect(sink, limits)
            status = await _within(idle, process.wait())
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
        if status != 0:
            complaints.seek(0)
            raise _death(status, complaints.read(_COMPLAINT_BYTES))
    try:
        return msgspec.msgpack.decode(answer, type=LayerReading)
    except (msgspec.MsgspecError, ValueError) as error:
        message = f"the scanning process gave an answer that cannot be read: {str(error)[:200]}"
        raise DataError(message, "report the image to the makers of the sensor", retryable=True) from error


async def _start(
    python: str, limits: Limits, complaints: int, owned: contextlib.ExitStack
) -> tuple[asyncio.subprocess.Process, BinaryIO, BinaryIO]:
    """Start the process between two pipes; `owned` closes our ends of them."""
    theirs_in, ours_in = os.pipe()
    source = owned.enter_context(os.fdopen(ours_in, "wb", buffering=0))
    given_in = owned.enter_context(os.fdopen(theirs_in, "rb", buffering=0))
    ours_out, theirs_out = os.pipe()
    sink = owned.enter_context(os.fdopen(ours_out, "rb", buffering=0))
    given_out = owned.enter_context(os.fdopen(theirs_out, "wb", buffering=0))
    for pipe in (ours_in, ours_out):
        os.set_blocking(pipe, False)
        # Fewer switches between the two processes; refused when this user has large pipes enough already.
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    process = await asyncio.create_subprocess_exec(
        python,
        "-I",
        "-c",
        _START,
        _ROOT,
        msgspec.json.encode(limits).decode(),
        stdin=given_in,
        stdout=given_out,
        stderr=complaints,
        env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
        cwd="/",
    )
    given_in.close()
    given_out.close()
    return process, source, sink


async def _feed(
    chunks: AsyncIterator[bytes], source: BinaryIO, idle: float, progress: Callable[[int], None] | None
) -> None:
    """Write everything and close. A process that has ended is no error here: its status will say why."""
    descriptor = source.fileno()
    loop = asyncio.get_running_loop()
    with contextlib.suppress(BrokenPipeError):
        async for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                try:
                    rest = rest[os.write(descriptor, rest) :]
                except BlockingIOError:
                    await _ready(descriptor, loop.add_writer, loop.remove_writer, idle)
            if progress is not None:
                progress(len(chunk))
    source.close()


async def _collect(sink: BinaryIO, limits: Limits) -> bytes:
    """Read the answer to its end.

    Raises:
        DataError: it is larger than an inventory may be.
    """
    descriptor = sink.fileno()
    loop = asyncio.get_running_loop()
    answer = bytearray()
    while True:
        try:
            data = os.read(descriptor, _PIPE_BYTES)
        except BlockingIOError:
            await _ready(descriptor, loop.add_reader, loop.remove_reader, limits.child_idle_seconds)
            continue
        if not data:
            return bytes(answer)
        answer += data
        if len(answer) > limits.child_answer_bytes:
            message = f"the inventory of a layer is larger than {limits.child_answer_bytes} bytes"
            raise DataError(message, "raise the limit child_answer_bytes, or exclude the image")


async def _ready(descriptor: int, add: Callable[..., object], remove: Callable[[int], object], idle: float) -> None:
    """Wait until the pipe can move again."""
    moved = asyncio.Event()
    add(descriptor, moved.set)
    try:
        await _within(idle, moved.wait())
    finally:
        remove(descriptor)


async def _within(idle: float, what: Coroutine[object, object, _Result]) -> _Result:
    """Wait for the process, but not for ever.

    Raises:
        DataError: nothing happened within `idle` seconds.
    """
    try:
        async with asyncio.timeout(idle):
            return await what
    except TimeoutError as error:
        message = f"the scanning process neither took nor gave a byte for {idle:g} seconds"
        raise DataError(message, "the machine may be overloaded; otherwise report the image", retryable=True) from error


def _death(status: int, complaint: bytes) -> DataError:
    """Why a process that did not end well did so, as far as its status and its last words tell."""
    memory = "it was probably out of memory: give the sensor more, or let it scan fewer layers at once"
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = "unknown"
        message = f"the scanning process ended by signal {-status} ({name})"
        return DataError(message, memory if -status == signal.SIGKILL else "report the image", retryable=True)
    lines = complaint.decode("utf-8", "replace").strip().splitlines() or [""]
    last = "".join(character if character.isprintable() else "?" for character in lines[-1][:200])
    message = f"the scanning process ended with status {status}: {last or 'without a word'}"
    return DataError(message, memory if "MemoryError" in last else "report the image", retryable=True)
