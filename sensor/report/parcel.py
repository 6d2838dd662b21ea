"""The file in which results cross an air gap: entries of an outbox, one a line, signed by the sensor that made them. Pure but for the file.

    {"format":"harborguard-outbox","version":1,"publicKey":"ed25519:...",...}     the head
    {"link":"...","kind":"standalone","scanId":"...","body":"base64 of zstd",...} any number of entries
    {"signature":"base64","entries":2}                                            over everything before it

The signature is Ed25519 over SHA-256 of all bytes before the last line, behind a word that keeps it from meaning anything elsewhere. The head
names the key, which proves nothing by itself: who reads a parcel has the keys that it trusts from somewhere else (`outbox.trusted_keys`,
`--trust`), and compares. A parcel holds no secrets of the sensor, but all that its results say about images: it is signed, not encrypted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import AsyncIterable, Collection, Iterator
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sensor.control_plane import wire
from sensor.errors import DataError, SecretError, StateError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.report.entries import Entry, Kind, NewEntry, inflated

_CONTEXT = b"harborguard-outbox-v1\0"
_PREFIX = "ed25519:"
_SHORT_LINE = 1 << 20
KEY_FILE = "parcel-signing.pem"
"""The sensor's own key in its state directory, where the configuration names none."""

_T = TypeVar("_T")


class Head(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The first line. `links` are the URLs of the links whose entries follow, for whoever has to find them their place."""

    format: Literal["harborguard-outbox"] = "harborguard-outbox"
    version: Literal[1] = 1
    public_key: str
    sensor: str
    sensor_version: str
    created: str
    links: dict[str, str]


class Line(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One entry. Times are seconds since the epoch."""

    link: str
    kind: Kind
    scan_id: str
    reference: str
    created: float
    checksum: str
    body: str
    digest: str = ""
    outcome: wire.JobOutcome = "completed"
    error: str = ""
    lost: bool = False
    burnt: bool = False


class _Tail(msgspec.Struct, frozen=True, kw_only=True):
    signature: str
    entries: int


def key_text(key: Ed25519PublicKey) -> str:
    """A public key as it is written into a configuration."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return _PREFIX + base64.b64encode(raw).decode()


def parse_key(text: str) -> Ed25519PublicKey:
    """A public key from its text.

    Raises:
        DataError: it is none.
    """
    try:
        raw = base64.b64decode(text.strip().removeprefix(_PREFIX), validate=True)
        return Ed25519PublicKey.from_public_bytes(raw)
    except (ValueError, binascii.Error) as error:
        message = f"not a public key: {text[:60]!r}"
        raise DataError(message, f"expected {_PREFIX} and 44 characters, as `outbox key` shows it") from error


def load_signer(pem: bytes) -> Ed25519PrivateKey:
    """A private key from PEM.

    Raises:
        SecretError: it is none, or another kind of key.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise SecretError(
            "the key that signs parcels is not a PEM private key", "make one: openssl genpkey -algorithm ed25519"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SecretError(
            "the key that signs parcels is not an Ed25519 key", "make one: openssl genpkey -algorithm ed25519"
        )
    return key


def own_signer(directory: Path) -> Ed25519PrivateKey:
    """The sensor's own key, made at its first use; readable by its user alone.

    Raises:
        StateError: the file cannot be read or made. SecretError: it is no key.
    """
    path = directory / KEY_FILE
    try:
        if path.exists():
            return load_signer(path.read_bytes())
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            os.fsync(file.fileno())
    except OSError as error:
        message = f"cannot keep the key that signs parcels in {path}: {error.strerror}"
        raise StateError(message, "check space and permissions there") from error
    return key


async def write_parcel(
    file: IO[bytes],
    signer: Ed25519PrivateKey,
    entries: AsyncIterable[tuple[Entry, bytes]],
    *,
    sensor: str,
    version: str,
    created: str,
    links: dict[str, str],
) -> tuple[int, ...]:
    """Write a parcel to a new file; the numbers of the entries that are in it. A damaged entry is left out.

    Raises:
        OSError: it cannot be written.
    """
    head = Head(
        public_key=key_text(signer.public_key()), sensor=sensor, sensor_version=version, created=created, links=links
    )
    hasher = hashlib.sha256()
    taken: list[int] = []

    def write(document: msgspec.Struct) -> None:
        line = msgspec.json.encode(document) + b"\n"
        hasher.update(line)
        file.write(line)

    write(head)
    async for entry, packed in entries:
        if hashlib.sha256(packed).hexdigest() != entry.checksum:
            continue
        write(_line(entry, packed))
        taken.append(entry.id)
    signature = base64.b64encode(signer.sign(_CONTEXT + hasher.digest())).decode()
    file.write(msgspec.json.encode(_Tail(signature=signature, entries=len(taken))) + b"\n")
    return tuple(taken)


def verify_parcel(file: IO[bytes], trusted: Collection[str], limits: Limits = DEFAULT_LIMITS) -> tuple[Head, bytes]:
    """Read a parcel through and check who signed it; its head, and the hash that `read_entries` must find again.

    Raises:
        DataError: not a parcel, damaged, or signed by a key that is not trusted.
    """
    hasher = hashlib.sha256()
    head: Head | None = None
    last, lines = b"", 0
    for line in _lines(file, limits):
        if head is None:
            head = _decode(line, Head)
        else:
            hasher.update(last)
        last = line
        lines += 1
    if head is None or lines < 2 or not last.endswith(b"\n"):
        raise DataError("the parcel is cut off, or not a parcel at all", "copy it again")
    keys = {key_text(parse_key(text)) for text in trusted}
    if head.public_key not in keys:
        message = f"the parcel is signed by {head.public_key[:60]!r}, which is not trusted here"
        raise DataError(
            message,
            "compare it with what `outbox key` shows on the sensor that made it, then add it to outbox.trusted_keys",
        )
    tail = _decode(last, _Tail)
    try:
        signature = base64.b64decode(tail.signature, validate=True)
        parse_key(head.public_key).verify(signature, _CONTEXT + hasher.digest())
    except (InvalidSignature, binascii.Error, ValueError) as error:
        raise DataError("the parcel was changed after it was signed, or is damaged", "copy it again") from error
    if tail.entries != lines - 2:
        message = f"the parcel holds {lines - 2} entries and speaks of {tail.entries}"
        raise DataError(message, "copy it again")
    return head, hasher.digest()


def read_entries(file: IO[bytes], expected: bytes, limits: Limits = DEFAULT_LIMITS) -> Iterator[tuple[Line, bytes]]:
    """The entries of a verified parcel, each with its envelope. What came before the end counts only if the end is reached without an error.

    Raises:
        DataError: the file changed since it was verified, or an entry is damaged.
    """
    file.seek(0)
    hasher = hashlib.sha256()
    last = b""
    for number, line in enumerate(_lines(file, limits)):
        if last:
            hasher.update(last)
            if number > 1:
                yield _entry(last, limits)
        last = line
    if hasher.digest() != expected:
        raise DataError("the parcel was changed while it was read", "copy it again")


def new_entry(line: Line, body: bytes, link: str) -> NewEntry:
    """An entry of a parcel, for a link of this machine."""
    return NewEntry(
        link=link,
        kind=line.kind,
        scan_id=line.scan_id,
        reference=line.reference,
        digest=line.digest,
        body=body,
        outcome=line.outcome,
        error=line.error,
        lost=line.lost,
        burnt=line.burnt,
    )


def _line(entry: Entry, packed: bytes) -> Line:
    return Line(
        link=entry.link,
        kind=entry.kind,
        scan_id=entry.scan_id,
        reference=entry.reference,
        digest=entry.digest,
        created=entry.created,
        checksum=entry.checksum,
        body=base64.b64encode(packed).decode(),
        outcome=entry.outcome,
        error=entry.job_error,
        lost=entry.lost,
        burnt=entry.burnt,
    )


def _entry(data: bytes, limits: Limits) -> tuple[Line, bytes]:
    line = _decode(data, Line)
    try:
        packed = base64.b64decode(line.body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError("an entry of the parcel is damaged", "copy it again") from error
    if hashlib.sha256(packed).hexdigest() != line.checksum or not wire.is_job_id(line.scan_id):
        raise DataError("an entry of the parcel is damaged", "export it again")
    body = inflated(packed)
    if len(body) > limits.envelope_bytes:
        raise DataError("an entry of the parcel is larger than a control plane takes")
    wire.read_envelope(body)
    return line, body


def _lines(file: IO[bytes], limits: Limits) -> Iterator[bytes]:
    for number in range(limits.parcel_entries + 3):
        line = file.readline(_SHORT_LINE if number == 0 else limits.parcel_line_bytes)
        if not line:
            return
        if not line.endswith(b"\n"):
            raise DataError("the parcel is cut off, or not a parcel at all", "copy it again")
        yield line
    message = f"the parcel holds more than {limits.parcel_entries} entries"
    raise DataError(message, "export it in smaller parts, link by link")


def _decode(line: bytes, kind: type[_T]) -> _T:
    try:
        found: Any = msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        message = f"not a parcel of this version: {str(error)[:200]}"
        raise DataError(message, "it must be a file that `outbox export` of a similar version made") from error
    return found  # type: ignore[no-any-return] # the decoder has checked it
