"""Whom to trust, and what to say when trust fails: TLS contexts, changed CA files, what a refused certificate says."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import os
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

from sensor.errors import ConfigError, NetworkError


class NotTls(NetworkError):
    """A TLS greeting was answered with something else: a plain-HTTP port."""

    retryable = False


class TlsOnly(NetworkError):
    """Plain HTTP was sent to a port that speaks TLS."""

    retryable = False


class ClientRefused(NetworkError):
    """The other side wants to know who we are, and does not take our certificate for it."""

    retryable = False


class Untrusted(NetworkError):
    """The certificate of the other side is not to be trusted: nobody whom we know has signed it."""

    retryable = False


class Expired(Untrusted):
    """The certificate's time is over, or has not begun: by our clock."""


class WrongName(Untrusted):
    """The certificate is for other names than the one that was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What a server's certificate says of itself. Nothing of it has been verified; text fit for a message."""

    issuer: str = ""
    """Common name and organisation."""
    begins: dt.datetime | None = None
    ends: dt.datetime | None = None
    names: tuple[str, ...] = ()
    """DNS names and addresses that it is for."""


NO_CERTIFICATE = Certificate()
"""When none could be had or read."""


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


def client_context(ca_file: str, certificate: str, key: str) -> ssl.SSLContext:
    """The same, and a certificate that says who we are; `key` may be empty where the certificate's file holds it.

    Raises:
        ConfigError: a file is missing, they do not belong together, or the key wants a passphrase.
    """
    context = tls_context(ca_file)

    def no_passphrase() -> str:
        # without this the library would ask at the terminal
        message = f"cannot use the client key {key or certificate}: it wants a passphrase"
        raise ConfigError(message, "a daemon cannot type: store it without one")

    try:
        context.load_cert_chain(certificate, key or None, password=no_passphrase)
    except (OSError, ssl.SSLError) as error:
        files = f"{certificate} and {key}" if key else certificate
        message = f"cannot use the client certificate {files}: {error}"
        advice = "client_certificate and client_key must be PEM files that belong together"
        raise ConfigError(message, advice) from error
    return context


_TLS_RECORDS = ("\x15\x03", "\\x15\\x03")
"""The start of a TLS alert, as it stands in a complaint about a malformed status line."""


def is_tls_record(text: str) -> bool:
    """Whether a complaint about a malformed answer shows that the other side spoke TLS to a plain request."""
    return any(mark in text for mark in _TLS_RECORDS)


_WANTS_CERTIFICATE = (
    "certificate required", "certificate_required", "alert bad certificate", "alert_bad_certificate", "alert unknown ca",
    "alert_unknown_ca", "alert certificate", "alert_certificate", "alert handshake failure", "alert_handshake_failure",
)  # fmt: skip
"""What the other side says, in the words of several versions of OpenSSL, when it misses or refuses our certificate."""


def is_about_our_certificate(text: str) -> bool:
    """Whether a complaint of the TLS layer is the other side's, about the certificate that we showed or did not."""
    return any(mark in text.lower() for mark in _WANTS_CERTIFICATE)


def _alert(text: str) -> str:
    found = re.search(r"alert[ _][\w ]+", text, re.IGNORECASE)
    return found[0].replace("_", " ").lower() if found else text


def translate_tls(text: str, host: str) -> NetworkError:
    """The error for a TLS set-up that failed for another reason than the certificate."""
    if any(
        mark in text
        for mark in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "record layer failure")
    ):
        return NotTls(
            f"{host} does not speak TLS",
            "it may be a plain-HTTP port: use the right port, or write http:// and insecure: true for a trusted internal registry",
        )
    if is_about_our_certificate(text):
        return ClientRefused(
            f"{host} does not accept us: {_alert(text)}",
            "it wants a client certificate of an authority that it knows: set client_certificate and client_key",
        )
    return NetworkError(f"TLS with {host} failed: {text}", "check the port and the TLS set-up", retryable=False)


_EXPIRED = frozenset({9, 10})
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""
_WRONG_NAME = frozenset({62, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


def untrusted(error: Exception, host: str, presented: Certificate = NO_CERTIFICATE) -> Untrusted:
    """The error for a refused certificate, naming its issuer, its dates or its names where they are known."""
    by = f", which was issued by {presented.issuer}," if presented.issuer else ""
    reason = getattr(error, "verify_message", "") or str(error)
    code = getattr(error, "verify_code", 0)
    if code in _EXPIRED:
        return _expired(host, by, presented, begun=code != 9)
    if code in _WRONG_NAME:
        shown = f"; it is for {', '.join(presented.names[:5])}" if presented.names else ""
        return WrongName(
            f"the certificate of {host}{by} is for another name: {reason.rstrip('.')}{shown}",
            "use a name that the certificate is for, or give the server a certificate for this one",
        )
    return Untrusted(
        f"the certificate of {host}{by} is not trusted: {reason}",
        "name the PEM file of the issuing authority in ca_file",
    )


def _expired(host: str, by: str, presented: Certificate, *, begun: bool) -> Expired:
    moment = presented.ends if begun else presented.begins
    when = f" on {moment:%Y-%m-%d %H:%M} UTC" if moment else ""
    now = f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC"
    if begun:
        return Expired(
            f"the certificate of {host}{by} has expired{when}",
            f"renew the server's certificate; it is {now} by this machine's clock: correct that if it is wrong",
        )
    return Expired(
        f"the certificate of {host}{by} is not valid yet, it begins{when or ' later'}",
        f"it is {now} by this machine's clock: correct that if it is wrong, else the server's certificate",
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


async def certificate_of(host: str | None, port: int | None, seconds: float) -> Certificate:
    """The certificate that was refused: a second greeting that checks nothing, and on which nothing is sent."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    except (OSError, ValueError):
        return NO_CERTIFICATE
    try:
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    return read_certificate(certificate or b"")


def read_certificate(certificate: bytes) -> Certificate:
    """Issuer, dates and names of a DER certificate (RFC 5280, 4.1), or `NO_CERTIFICATE` when it cannot be read. Takes any bytes.

    The standard library decodes certificates only after it has verified them.
    """
    try:
        body = next(_der(next(_der(certificate))[1]))[1]
        every = list(_der(body))
        fields = [value for tag, value in every if tag != 0xA0]  # [0] is the version
        begins, ends = (_moment(tag, value) for tag, value in _der(fields[3]))
        extensions = next((value for tag, value in every if tag == 0xA3), b"")
        return Certificate(issuer=_issuer(fields[2]), begins=begins, ends=ends, names=_names(extensions))
    except (StopIteration, IndexError, ValueError, OverflowError):
        return NO_CERTIFICATE


def _issuer(field: bytes) -> str:
    names = {
        next(parts)[1]: next(parts)[1].decode("utf-8", "replace")
        for _, name_set in _der(field)
        for _, attribute in _der(name_set)
        for parts in [_der(attribute)]
    }
    return _shown(", ".join(names[oid] for oid in (b"\x55\x04\x03", b"\x55\x04\x0a") if oid in names))


def _moment(tag: int, value: bytes) -> dt.datetime:
    """UTCTime (two digits of the year, 1950 to 2049) or GeneralizedTime (RFC 5280, 4.1.2.5)."""
    text = value.decode("ascii")
    if tag == 0x17:
        text = ("19" if text[:2] >= "50" else "20") + text
    return dt.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=dt.UTC)


def _names(extensions: bytes) -> tuple[str, ...]:
    """DNS names and addresses of the subjectAltName extension (RFC 5280, 4.2.1.6)."""
    for _, extension in _der(next(_der(extensions))[1] if extensions else b""):
        parts = [value for _, value in _der(extension)]
        if parts[0] == b"\x55\x1d\x11":
            found = list(_der(next(_der(parts[-1]))[1]))
            names = [_shown(value.decode("ascii", "replace")) for tag, value in found if tag == 0x82]
            return (*names, *(str(ipaddress.ip_address(value)) for tag, value in found if tag == 0x87))
    return ()


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


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
