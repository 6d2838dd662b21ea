"""Streams one blob, whatever happens on the way (RFC 9110, 14: range requests).

A connection that breaks is taken up again at the next byte. Registries and object stores treat ranges in many ways: 206 from the byte
asked for, 200 from the front (Quay), 416 with a body shorter than it claims (distribution); signed URLs expire and are asked for anew.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator

from sensor.errors import DataError, NetworkError, SensorError
from sensor.registry.errors import shown_url
from sensor.registry.session import Session
from sensor.transport import Reply, Streamed

_MOST_STALLS = 5
"""Attempts in a row that bring no byte."""
_MOST_RESUMES = 1000
"""Attempts in all: a server that drops every connection after a few bytes is given up."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


async def stream_blob(
    session: Session, url: str, scope: str, size: int, *, most_resumes: int = _MOST_RESUMES
) -> AsyncGenerator[bytes, None]:
    """The bytes of a blob, exactly `size` of them.

    Raises:
        DataError: the blob has another size, or the storage mishandles ranges.
        NetworkError: the connection broke too often.
        SensorError: no answer, or one that ends it.
    """
    done, stalls, ranges = 0, 0, True
    for _ in range(most_resumes):
        before, failure = done, None
        try:
            headers = {"Range": f"bytes={done}-"} if done and ranges else {}
            async with session.stream("GET", url, scope=scope, headers=headers) as answer:
                if isinstance(answer, Streamed):
                    async for chunk in _from_offset(answer, done, size):
                        if done + len(chunk) > size:
                            raise _wrong_size(url, size, "longer")
                        done += len(chunk)
                        yield chunk
                elif answer.status == 416 and done:
                    ranges = False  # from the front again
                else:
                    failure = await _failure(session, answer, url, scope)
        except NetworkError as error:
            if not error.retryable:
                raise
            failure = error
        if done == size and failure is None:
            return
        stalls = 0 if done > before else stalls + 1
        if stalls >= _MOST_STALLS:
            raise failure or _wrong_size(url, size, "shorter")
        await session.transport.pause(stalls, failure.retry_after if failure else None)
    message = f"GET {shown_url(url)}: broke off {most_resumes} times"
    raise NetworkError(message, "look at the network path and at any proxy in between")


async def _from_offset(answer: Streamed, offset: int, size: int) -> AsyncIterator[bytes]:
    """The body from a byte on: a 206 must begin exactly there, a 200 begins at the front."""
    skip = offset
    if answer.status == 206:
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", "").strip())
        if found is None or int(found[1]) != offset or found[3] not in {"*", str(size)}:
            message = f"GET {shown_url(answer.url)}: asked for bytes from {offset}, got another range"
            raise DataError(message, "the storage behind the registry mishandles ranges")
        skip = 0
    elif (length := answer.headers.get("content-length", "")).isdecimal() and int(length) != size:
        raise _wrong_size(answer.url, size, f"{length} bytes long")
    async for chunk in answer.chunks:
        if skip >= len(chunk):
            skip -= len(chunk)
        else:
            yield chunk[skip:] if skip else chunk
            skip = 0


async def _failure(session: Session, answer: Reply, url: str, scope: str) -> SensorError:
    """The error of an answer that is worth another attempt; raises that of any other.

    A 403 from elsewhere is a signed URL that has expired meanwhile: the registry gives a new one.
    """
    error = await session.error("GET", answer, scope)
    if error.retryable or (answer.status == 403 and answer.url != url):
        return error
    raise error


def _wrong_size(url: str, size: int, how: str) -> DataError:
    message = f"GET {shown_url(url)}: the blob is {how}, its manifest says {size} bytes"
    return DataError(message, "the registry's storage or a proxy in between has altered it; push the image again")
