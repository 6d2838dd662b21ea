"""Trust, and the issuer of a certificate that is not trusted."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import ConfigError
from sensor.tls import (
    NO_CERTIFICATE,
    Certificate,
    Expired,
    NotTls,
    Untrusted,
    WrongName,
    certificate_of,
    is_tls_record,
    read_certificate,
    stamp_of,
    tls_context,
    translate_tls,
    untrusted,
)
from tests.fakes.certificates import Authority
from tests.fakes.docker_registry import free_port


def test_issuer_dates_and_names_are_read_from_the_certificate() -> None:
    valid = dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2100, 2, 3, 4, 5, 6, tzinfo=dt.UTC)
    certificate, _ = Authority("Läb CA\x1b[2J", "Acme", names=("r.example",), valid=valid).leaf()
    found = read_certificate(certificate.public_bytes(serialization.Encoding.DER))
    assert found.issuer == "Läb CA?[2J, Acme"
    assert (found.begins, found.ends) == valid  # the second one needs four digits of the year
    assert found.names == ("localhost", "r.example", "127.0.0.1")
    own = read_certificate(Authority("x" * 60).certificate.public_bytes(serialization.Encoding.DER))
    assert own.issuer.startswith("xxx")
    assert own.names == ()


def test_dates_of_the_last_century() -> None:
    long_ago = dt.datetime(1975, 1, 1, tzinfo=dt.UTC), dt.datetime(1999, 1, 1, tzinfo=dt.UTC)
    certificate, _ = Authority(valid=long_ago).leaf()
    found = read_certificate(certificate.public_bytes(serialization.Encoding.DER))
    assert (found.begins, found.ends) == long_ago


def refusal(code: int, text: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(text)
    error.verify_code, error.verify_message = code, text
    return error


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (10, Expired, "the certificate of h has expired"),
        (9, Expired, "the certificate of h is not valid yet, it begins later"),
        (62, WrongName, "the certificate of h is for another name: said"),
        (64, WrongName, "the certificate of h is for another name: said"),
        (18, Untrusted, "the certificate of h is not trusted: said"),
        (20, Untrusted, "the certificate of h is not trusted: said"),
    ],
)
def test_reasons_for_a_refusal_are_told_apart(code: int, kind: type[Untrusted], words: str) -> None:
    told = untrusted(refusal(code, "said"), "h")
    assert type(told) is kind
    assert told.message == words
    assert told.advice
    assert not told.retryable
    known = Certificate(issuer="CA", ends=dt.datetime(2021, 1, 1, tzinfo=dt.UTC), names=("a", "b"))
    assert "issued by CA" in untrusted(refusal(code, "said"), "h", known).message


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=200)
def test_no_bytes_make_it_raise(data: bytes) -> None:
    assert isinstance(read_certificate(data), Certificate)


@given(st.integers(0, 400), st.integers(0, 255))
@settings(deadline=None, max_examples=100)
def test_no_damage_makes_it_raise(at: int, value: int) -> None:
    der = bytearray(_DER)
    der[at % len(der)] = value
    assert isinstance(read_certificate(bytes(der)), Certificate)
    assert isinstance(read_certificate(bytes(der[: at % len(der)])), Certificate)


_DER = Authority().leaf()[0].public_bytes(serialization.Encoding.DER)


def test_the_authorities_of_a_file_are_added_to_the_systems(tmp_path: Path) -> None:
    authority = Authority()
    plain, more = tls_context(""), tls_context(authority.write(tmp_path / "ca.pem"))
    assert more.cert_store_stats()["x509_ca"] == plain.cert_store_stats()["x509_ca"] + 1
    assert plain.check_hostname


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_file_without_a_certificate_is_a_mistake_in_the_configuration(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        tls_context(str(path))


def test_a_changed_file_has_another_stamp(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    assert stamp_of("") is None
    assert stamp_of(str(path)) is None
    path.write_text("one")
    first = stamp_of(str(path))
    beside = tmp_path / "new"
    beside.write_text("two!")
    beside.replace(path)
    assert first is not None
    assert stamp_of(str(path)) not in {None, first}


def test_a_plain_port_is_told_from_other_failures() -> None:
    plain = translate_tls("[SSL: WRONG_VERSION_NUMBER] wrong version number", "h")
    assert isinstance(plain, NotTls)
    assert "write http:// and insecure: true" in plain.advice  # with https:// in the URL insecure is refused
    other = translate_tls("[SSL: TLSV1_ALERT_PROTOCOL_VERSION]", "h")
    assert not isinstance(other, NotTls)
    assert not other.retryable
    assert is_tls_record("Bad status line \x15\x03\x03")
    assert is_tls_record(r"Bad status line b'\x15\x03\x03'")
    assert not is_tls_record("Bad status line 'HELLO'")


async def test_nobody_there_has_no_certificate() -> None:
    assert await certificate_of("127.0.0.1", free_port(), 1.0) is NO_CERTIFICATE
