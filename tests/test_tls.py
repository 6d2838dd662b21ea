"""Trust, and the issuer of a certificate that is not trusted."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import ConfigError
from sensor.tls import NotTls, is_tls_record, issuer_name, issuer_of, stamp_of, tls_context, translate_tls
from tests.fakes.certificates import Authority
from tests.fakes.docker_registry import free_port


def test_the_issuer_is_read_from_the_certificate() -> None:
    certificate, _ = Authority("Läb CA\x1b[2J", "Acme").leaf()
    der = certificate.public_bytes(serialization.Encoding.DER)
    assert issuer_name(der) == "Läb CA?[2J, Acme"
    assert issuer_name(Authority("x" * 60).certificate.public_bytes(serialization.Encoding.DER)).startswith("xxx")


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=200)
def test_no_bytes_make_it_raise(data: bytes) -> None:
    assert isinstance(issuer_name(data), str)


@given(st.integers(0, 400), st.integers(0, 255))
@settings(deadline=None, max_examples=100)
def test_no_damage_makes_it_raise(at: int, value: int) -> None:
    der = bytearray(_DER)
    der[at % len(der)] = value
    assert isinstance(issuer_name(bytes(der)), str)
    assert isinstance(issuer_name(bytes(der[: at % len(der)])), str)


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
    assert isinstance(translate_tls("[SSL: WRONG_VERSION_NUMBER] wrong version number", "h"), NotTls)
    other = translate_tls("[SSL: TLSV1_ALERT_PROTOCOL_VERSION]", "h")
    assert not isinstance(other, NotTls)
    assert not other.retryable
    assert is_tls_record("Bad status line \x15\x03\x03")
    assert is_tls_record(r"Bad status line b'\x15\x03\x03'")
    assert not is_tls_record("Bad status line 'HELLO'")


async def test_nobody_there_has_no_issuer() -> None:
    assert await issuer_of("127.0.0.1", free_port(), 1.0) == ""
