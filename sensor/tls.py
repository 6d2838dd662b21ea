"""Whom to trust, and what to say when trust fails: TLS contexts, changed CA files, the issuer of a refused certificate."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Iterator

from sensor.errors import ConfigError, NetworkError


class NotTls(NetworkError):
    """A TLS greeting was answered with something else: a plain-HTTP port."""

    retryable = False


class TlsOnly(NetworkError):
    """Plain HTTP was sent to a port that speaks TLS."""

    retryable = False


class Untrusted(NetworkError):
    """The certificate of the other side is not to be trusted."""

    retryable = False


def tls_context(ca_file: str) -> ssl.SSLContext:
    """The system's certificate authorities, plus those of a PEM file.

    Raises:
        ConfigError: the file is missing or holds no certificate.
    """
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            message = f"cannot load certificate authorities from {ca_file}: {error}"
            raise ConfigError(message, "ca_file must be a PEM file with at least one certificate") from error
    return context


_TLS_RECORDS = ("\x15\x03", "\\x15\\x03")
"""The start of a TLS alert, as it stands in a complaint about a malformed status line."""


def is_tls_record(text: str) -> bool:
    """Whether a complaint about a malformed answer shows that the other side spoke TLS to a plain request."""
    return any(mark in text for mark in _TLS_RECORDS)


def translate_tls(text: str, host: str) -> NetworkError:
    """The error for a TLS set-up that failed for another reason than the certificate."""
    if any(
        mark in text
        for mark in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "record layer failure")
    ):
        return NotTls(
            f"{host} does not speak TLS",
            "it may be a plain-HTTP port: use the right port, or insecure: true for a trusted internal registry",
        )
    return NetworkError(f"TLS with {host} failed: {text}", "check the port and the TLS set-up", retryable=False)


def untrusted(error: Exception, host: str, issuer: str) -> Untrusted:
    """The error for a refused certificate, naming its issuer where it is known."""
    by = f", which was issued by {issuer}," if issuer else ""
    reason = getattr(error, "verify_message", "") or str(error)
    return Untrusted(
        f"the certificate of {host}{by} is not trusted: {reason}",
        "name the PEM file of the issuing authority in ca_file",
    )


def stamp_of(path: str) -> tuple[int, int, int] | None:
    """What changes when a file is rewritten or replaced; None while it is missing."""
    if not path:
        return None
    try:
        found = os.stat(path)  # noqa: PTH116 - one system call for each request
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


async def issuer_of(host: str | None, port: int | None, seconds: float) -> str:
    """Who signed the certificate that was refused: a second greeting that checks nothing, and on which nothing is sent."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    except (OSError, ValueError):
        return ""
    try:
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    return issuer_name(certificate or b"")


def issuer_name(certificate: bytes) -> str:
    """Common name and organisation of the issuer in a DER certificate (RFC 5280, 4.1), or "" when it cannot be read.

    The standard library decodes certificates only after it has verified them.
    """
    try:
        body = next(_der(next(_der(certificate))[1]))[1]
        fields = [value for tag, value in _der(body) if tag != 0xA0]  # [0] is the version
        names = {
            next(parts)[1]: next(parts)[1].decode("utf-8", "replace")
            for _, name_set in _der(fields[2])
            for _, attribute in _der(name_set)
            for parts in [_der(attribute)]
        }
    except (StopIteration, IndexError, ValueError):
        return ""
    found = [names[oid] for oid in (b"\x55\x04\x03", b"\x55\x04\x0a") if oid in names]
    return "".join(c if c.isprintable() else "?" for c in ", ".join(found))[:200]


def _der(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The (tag, content) elements that stand side by side in DER bytes."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            width = length & 0x7F
            length, at = int.from_bytes(data[at : at + width], "big"), at + width
        if at + length > len(data):
            raise ValueError
        yield tag, data[at : at + length]
        at += length
