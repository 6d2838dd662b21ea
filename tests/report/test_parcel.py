import base64
import hashlib
import io
import json
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensor.errors import DataError, SecretError, SensorError, StateError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.report.desk import entries_of, packed_bodies
from sensor.report.document import envelope
from sensor.report.entries import Entry, Kind, NewEntry, State, put
from sensor.report.parcel import (
    KEY_FILE,
    Head,
    Line,
    key_text,
    load_signer,
    new_entry,
    own_signer,
    parse_key,
    read_entries,
    verify_parcel,
    write_parcel,
)
from sensor.storage import open_storage
from tests.report.results import SENSOR, finding, result

SIGNER = Ed25519PrivateKey.generate()
TRUSTED = [key_text(SIGNER.public_key())]
BODY = envelope(result(finding()), scan_id="scan-1", sensor=SENSOR).body


async def stored(directory: Path, *entries: NewEntry, damage: str = "") -> list[tuple[Entry, bytes]]:
    storage = await open_storage(directory)
    async with storage.transaction() as connection:
        for entry in entries:
            await put(connection, entry, now=1000.0)
        if damage:
            await connection.exec_driver_sql(f"UPDATE outbox SET body = x'00' WHERE scan_id = '{damage}'")
        found = [one async for one in packed_bodies(connection, states=[State.WAITING], with_jobs=True)]
    assert len(await entries_of(storage)) == len(entries)
    await storage.close()
    return found


def new(scan_id: str = "scan-1", **more: Any) -> NewEntry:
    fields: dict[str, Any] = {"link": "l", "kind": Kind.STANDALONE, "reference": f"r/a:{scan_id}", "body": BODY, **more}
    return NewEntry(scan_id=scan_id, **fields)


async def written(entries: Iterable[tuple[Entry, bytes]], signer: Ed25519PrivateKey = SIGNER) -> bytes:
    async def each() -> AsyncIterator[tuple[Entry, bytes]]:
        for one in entries:
            yield one

    file = io.BytesIO()
    await write_parcel(
        file, signer, each(), sensor="island", version="1", created="2026-05-22T18:04:20Z", links={"l": "https://hg"}
    )
    return file.getvalue()


def read(
    data: bytes, trusted: list[str] | None = None, limits: Limits = DEFAULT_LIMITS
) -> tuple[Head, list[tuple[Line, bytes]]]:
    file = io.BytesIO(data)
    head, expected = verify_parcel(file, TRUSTED if trusted is None else trusted, limits)
    return head, list(read_entries(file, expected, limits))


@pytest.fixture
async def parcel(tmp_path: Path) -> bytes:
    job = new("job-1", kind=Kind.JOB, outcome="failed", error="no such image", lost=True, digest="sha256:d")
    return await written(await stored(tmp_path, new(), job))


async def test_what_goes_in_comes_out(parcel: bytes) -> None:
    head, ((first, body), (second, _)) = read(parcel)
    assert (head.sensor, head.links, head.public_key) == ("island", {"l": "https://hg"}, TRUSTED[0])
    assert (first.kind, first.scan_id, first.created, body) == (Kind.STANDALONE, "scan-1", 1000.0, BODY)
    entry = new_entry(second, BODY, "here")
    assert entry == new(
        "job-1", link="here", kind=Kind.JOB, outcome="failed", error="no such image", lost=True, digest="sha256:d"
    )


async def test_it_is_lines_of_json_that_other_programs_can_read(parcel: bytes) -> None:
    head, *entries, tail = [json.loads(line) for line in parcel.splitlines()]
    assert (head["format"], head["version"]) == ("harborguard-outbox", 1)
    assert [entry["scanId"] for entry in entries] == ["scan-1", "job-1"]
    assert tail["entries"] == 2


async def test_without_entries_it_is_a_parcel_all_the_same() -> None:
    assert read(await written([]))[1] == []


async def test_a_damaged_entry_stays_behind(tmp_path: Path) -> None:
    found = await stored(tmp_path, new("good"), new("bad"), damage="bad")
    assert [line.scan_id for line, _ in read(await written(found))[1]] == ["good"]


@pytest.mark.parametrize("trusted", [[], [key_text(Ed25519PrivateKey.generate().public_key())]])
async def test_who_signed_it_must_be_known(parcel: bytes, trusted: list[str]) -> None:
    with pytest.raises(DataError, match="not trusted"):
        read(parcel, trusted)


async def test_naming_a_trusted_key_is_not_enough(tmp_path: Path) -> None:
    forged = await written(await stored(tmp_path, new()), Ed25519PrivateKey.generate())
    head, rest = forged.split(b"\n", 1)
    document = json.loads(head) | {"publicKey": TRUSTED[0]}
    with pytest.raises(DataError, match="changed after it was signed"):
        read(json.dumps(document).encode() + b"\n" + rest)


def without(line: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        return b"".join(lines[:line] + lines[line + 1 :])

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: b"\n",
        lambda data: b"{}\n{}\n",
        lambda data: data[:-1],
        lambda data: data[:-40],
        lambda data: data.split(b"\n")[0] + b"\n",
        lambda data: data.replace(b"scan-1", b"scan-2"),
        lambda data: data.replace(b'"version":1', b'"version":2', 1),
        lambda data: data.replace(b'"entries":2', b'"entries":3'),
        lambda data: data.replace(b'"signature":"', b'"signature":"!'),
        lambda data: data + data,
        lambda data: data + b"more\n",
        without(1),
        without(2),
        without(3),
    ],
)
async def test_a_changed_parcel_is_refused(parcel: bytes, change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(DataError):
        read(change(parcel))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
async def test_no_byte_can_be_changed(parcel: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(parcel) - 1))
    changed = bytearray(parcel)
    changed[place] ^= data.draw(st.integers(1, 255))
    try:
        head, entries = read(bytes(changed))
    except SensorError:
        return
    # the last line may be written in other ways that mean the same: the signature covers what comes before it
    assert (head, entries) == read(parcel)


async def test_a_file_that_changes_after_it_was_verified_counts_for_nothing(parcel: bytes) -> None:
    file = io.BytesIO(parcel)
    _, expected = verify_parcel(file, TRUSTED)
    with pytest.raises(DataError, match="while it was read"):
        list(read_entries(io.BytesIO(parcel.replace(b"r/a:", b"r/b:")), expected))


async def test_its_lines_and_entries_are_bounded(parcel: bytes) -> None:
    with pytest.raises(DataError, match="more than 1 entries"):
        read(parcel, limits=Limits(parcel_entries=1))
    with pytest.raises(DataError):
        read(parcel, limits=Limits(parcel_line_bytes=100))
    with pytest.raises(DataError, match="larger than a control plane takes"):
        read(parcel, limits=Limits(envelope_bytes=100))


def signed(line: dict[str, Any]) -> bytes:
    """A parcel that a trusted sensor signed and that holds something strange."""
    head = {"format": "harborguard-outbox", "version": 1, "publicKey": TRUSTED[0], "sensor": "s", "sensorVersion": "1",
            "created": "", "links": {}}  # fmt: skip
    data = json.dumps(head).encode() + b"\n" + json.dumps(line).encode() + b"\n"
    signature = SIGNER.sign(b"harborguard-outbox-v1\0" + hashlib.sha256(data).digest())
    return data + json.dumps({"signature": base64.b64encode(signature).decode(), "entries": 1}).encode() + b"\n"


@pytest.mark.parametrize(
    "more",
    [
        {"body": "!"}, {"body": ""}, {"checksum": "0"}, {"scanId": ".."}, {"kind": "other"},
        {"body": base64.b64encode(b"no zstd").decode(), "checksum": hashlib.sha256(b"no zstd").hexdigest()},
    ],
)  # fmt: skip
async def test_a_trusted_sensor_may_err_too(tmp_path: Path, more: dict[str, Any]) -> None:
    parcel = await written(await stored(tmp_path, new()))
    line = json.loads(parcel.splitlines()[1])
    assert read(signed(line))[1][0][0].scan_id == "scan-1"
    with pytest.raises(DataError):
        read(signed(line | more))


async def test_an_entry_must_be_an_envelope(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an envelope"):
        read(await written(await stored(tmp_path, new(body=b"[]"))))


def test_the_sensors_own_key_is_made_once_and_private(tmp_path: Path) -> None:
    first = key_text(own_signer(tmp_path).public_key())
    assert key_text(own_signer(tmp_path).public_key()) == first
    assert oct((tmp_path / KEY_FILE).stat().st_mode & 0o777) == "0o600"
    assert parse_key(first) == own_signer(tmp_path).public_key()


def test_a_key_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_text("nothing")
    with pytest.raises(SecretError, match="not a PEM private key"):
        own_signer(tmp_path)
    other = generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(SecretError, match="Ed25519"):
        load_signer(other)
    with pytest.raises(StateError):
        own_signer(tmp_path / "missing")


@pytest.mark.parametrize("text", ["", "ed25519:", "ed25519:AAAA", "rsa:" + "A" * 44, "ed25519:" + "!" * 44])
def test_a_public_key_that_is_none_is_told(text: str) -> None:
    with pytest.raises(DataError, match="not a public key"):
        parse_key(text)
