"""Whatever a control plane answers, in whatever shape: each call ends with a value or with a SensorError, never with anything else."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sensor.control_plane import wire
from sensor.control_plane.client import ControlPlaneClient, transport_for
from sensor.control_plane.jobs import Refusal, request_of
from sensor.control_plane.links import Link
from sensor.errors import SensorError
from sensor.limits import Limits
from sensor.model.reference import parse_reference
from sensor.secret import InPlace, Secret
from tests.control_plane.test_client import REGISTRATION, body
from tests.fakes.control_plane import KEY

LIMITS = Limits(idle_seconds=2.0, upload_seconds=2.0, connect_seconds=2.0, answer_bytes=100_000)
CALLS: dict[str, Callable[[ControlPlaneClient], Awaitable[object]]] = {
    "register": lambda client: client.register(REGISTRATION),
    "heartbeat": lambda client: client.heartbeat(wire.Heartbeat(agent_id="a")),
    "jobs": lambda client: client.poll_jobs("a"),
    "status": lambda client: client.report_job("j", "completed"),
    "upload": lambda client: client.upload(body()),
    "ready": lambda client: client.probe(),
}
GIVES: dict[str, type[object] | tuple[type[object], ...]] = {
    "register": str,
    "heartbeat": type(None),
    "jobs": wire.Poll,
    "status": type(None),
    "upload": wire.UploadAnswer,
    "ready": bool,
}
"""What each call may give; everything else is a SensorError."""

TEXT = st.text(max_size=30) | st.sampled_from(
    ["SCAN", "registry", "tar", "..", "/", "\0", "\x1b[31m", "a" * 300, "-o", "$(id)", "r.example/a:1", "../../etc"]
)
NUMBER = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
ANY = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
SCAN = st.fixed_dictionaries(
    {},
    optional={
        "imageRef": TEXT | ANY,
        "source": TEXT | ANY,
        "tarPath": TEXT | ANY,
        "scanners": st.lists(TEXT | ANY, max_size=3) | ANY,
        "s3Key": ANY,
    },
)
JOB = st.fixed_dictionaries(
    {}, optional={"id": TEXT | ANY, "type": TEXT | ANY, "createdAt": ANY, "scan": SCAN | ANY, "payload": ANY}
)
SHAPES = st.fixed_dictionaries(
    {},
    optional={
        "jobs": st.lists(JOB | ANY, max_size=4) | ANY,
        "cancelJobs": st.lists(TEXT | ANY, max_size=4) | ANY,
        "agentId": TEXT | ANY,
        "scanId": ANY,
        "imageId": ANY,
        "ok": ANY,
        "success": ANY,
        "error": TEXT
        | st.fixed_dictionaries(
            {}, optional={"code": ANY, "message": ANY, "issues": st.lists(ANY | st.just({"path": [[]]}), max_size=4)}
        )
        | ANY,
    },
)
"""Answers with the members that are looked at, each of them of any kind."""
JSON = (SHAPES | st.lists(JOB, max_size=3) | ANY | SHAPES.map(lambda inner: {"data": inner})).map(
    lambda value: json.dumps(value).encode()
)
DEEP = st.builds(
    lambda member, depth: b'{"%s":' % member + b"[" * depth + b"]" * depth + b"}",
    st.sampled_from([b"data", b"jobs", b"error", b"agentId"]),
    st.sampled_from([50, 900, 950, 990, 100_000]),
)
BODIES = st.binary(max_size=60) | JSON | DEEP | st.sampled_from([b"", b"null", b"\xef\xbb\xbf{}", b"<html></html>"])
STATUSES = st.sampled_from([200, 201, 202, 204, 206, 300, 301, 304, 307, 400, 401, 402, 403, 404, 405, 408, 409, 413])
MORE_STATUSES = STATUSES | st.sampled_from([418, 422, 425, 429, 451, 500, 501, 502, 503, 504, 599, 999])


def one_line(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass").replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """An answer with a head that may lie about its body."""
    content = draw(BODIES)
    status = draw(MORE_STATUSES)
    coding = draw(st.sampled_from(["", "gzip", "deflate", "br", "identity", "lies"]))
    if coding == "gzip":
        content = gzip.compress(content)
    elif coding == "deflate":
        content = zlib.compress(content)
    head = [b"HTTP/1.1 %d Any" % status]
    if coding:
        head.append(b"Content-Encoding: " + (b"gzip" if coding == "lies" else coding.encode()))
    frame = draw(st.sampled_from(["length", "length", "close", "chunked", "short", "long", "negative", "both"]))
    lengths = {"length": len(content), "both": len(content), "short": len(content) // 2, "long": len(content) + 7}
    if frame in lengths:
        head.append(b"Content-Length: %d" % lengths[frame])
    if frame == "negative":
        head.append(b"Content-Length: -1")
    if frame in {"chunked", "both"}:
        head.append(b"Transfer-Encoding: chunked")
        content = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
    for name in ("Location", "Retry-After", "Content-Type", "Set-Cookie", "X-Any"):
        if draw(st.booleans()):
            head.append(name.encode() + b": " + one_line(draw(TEXT | st.sampled_from(["1e400", "-1", "nan", "//["]))))
    return b"\r\n".join(head) + b"\r\n\r\n" + content


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[ControlPlaneClient]:
    """A client of a server that reads a request and answers with these bytes, whatever was asked."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(lengths[0].partition(b":")[2]) if lengths else 0)
            writer.write(answer)
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    link = Link(name="l", url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", api_key=InPlace(Secret(KEY)))
    transport = transport_for(link, LIMITS)
    try:
        yield ControlPlaneClient(link, transport, limits=LIMITS)
    finally:
        await transport.close()
        server.close()
        await server.wait_closed()


async def outcome(answer: bytes, endpoint: str) -> object:
    failure: SensorError | None = None
    given: object = None
    async with answering(answer) as client:
        try:
            given = await CALLS[endpoint](client)
        except SensorError as error:
            failure = error
    if failure is None:
        assert isinstance(given, GIVES[endpoint])
        return given
    assert KEY not in str(failure)
    assert len(failure.message) < 2000
    return failure


@pytest.mark.parametrize("endpoint", CALLS)
@settings(max_examples=40, deadline=None)
@given(answers())
@example(b"HTTP/1.1 200 OK\r\n\r\n" + b'{"jobs":' + b"[" * 200_000)
@example(b"HTTP/1.1 302 Found\r\nLocation: \xff\xfe\r\nContent-Length: 0\r\n\r\n")
@example(b"HTTP/1.1 503 No\r\nRetry-After: " + b"9" * 5000 + b"\r\nContent-Length: 0\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b" " * 50_000_000))
def test_any_http_answer(endpoint: str, answer: bytes) -> None:
    asyncio.run(outcome(answer, endpoint))


@pytest.mark.parametrize("endpoint", CALLS)
@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200) | answers().flatmap(lambda good: st.integers(0, len(good)).map(lambda n: good[:n])))
@example(b"")
@example(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 100_000 + b"\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 50_000 + b"\r\n")
@example(b"HTTP/9.9 -1 \r\n\r\n")
@example(b"\x15\x03\x03\x00\x02\x02\x46")
def test_any_bytes_instead_of_http(endpoint: str, answer: bytes) -> None:
    asyncio.run(outcome(answer, endpoint))


@settings(max_examples=200, deadline=None)
@given(JSON | st.binary(max_size=60) | DEEP)
def test_any_body_is_read_or_refused(answer: bytes) -> None:
    readers: tuple[Callable[[bytes], Any], ...] = (
        wire.parse_jobs,
        wire.parse_registered,
        wire.parse_answer,
        wire.read_envelope,
        lambda data: wire.parse_uploaded(201, data),
    )
    for reader in readers:
        with contextlib.suppress(SensorError):
            reader(answer)
    said = wire.error_text(answer)
    assert said.isprintable()
    assert len(said) <= 500
    assert wire.is_json_error(answer) in {True, False}


@settings(max_examples=200, deadline=None)
@given(st.lists(JOB, max_size=4), TEXT)
def test_every_claimed_job_is_a_request_or_a_refusal(jobs: list[object], default: str) -> None:
    poll = wire.parse_jobs(json.dumps({"jobs": jobs}).encode())
    assert len(poll.jobs) + poll.unreadable == len(jobs), "a claim is for ever: none may be lost"
    registry = default if default == "r.example" else ""
    for job in poll.jobs:
        made = request_of(job, link="l", default_registry=registry)
        if isinstance(made, Refusal):
            assert made.reason.isprintable()
            assert len(made.reason) < 1000
        else:
            assert parse_reference(made.reference).registry
