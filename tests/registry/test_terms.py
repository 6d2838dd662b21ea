"""Addresses: how they are read, and which repositories lie within one."""

from __future__ import annotations

import pytest

from sensor.errors import ConfigError
from sensor.registry.errors import RegistryForbidden
from sensor.registry.login import Basic
from sensor.registry.terms import Address, Refusal, parse_address
from sensor.secret import Secret


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("registry.example", Address(host="registry.example")),
        (" registry.example:5000 ", Address(host="registry.example:5000")),
        ("https://Registry.Example/", Address(host="registry.example", scheme="https")),
        ("http://10.0.0.1:5000/v2/", Address(host="10.0.0.1:5000", scheme="http")),
        ("host/repository/docker/v2", Address(host="host", path="/repository/docker")),
        ("https://[::1]:5000", Address(host="[::1]:5000", scheme="https")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://",
        "ftp://host",
        "host:port",
        "host:99999",
        "https://[::1",
        "a b",
        "host?x=1",
        "host#frag",
        "oci:/x y",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="address of a registry"):
        parse_address(text)


@pytest.mark.parametrize(
    "address",
    [
        "https://alice:secret@registry.example", "https://alice:secret@registry.example:99999", "https://alice:secret@[::1",
        "alice:secret@registry.example:x", "https://registry.example/?token=secret",
    ],
)  # fmt: skip
def test_a_login_in_an_address_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_address(address)
    assert "secret" not in str(raised.value)
    assert "alice" not in str(raised.value)


@pytest.mark.parametrize(
    ("namespace", "repository", "inside"),
    [
        ("", "anything", True),
        ("team", "team/app", True),
        ("team", "team", True),
        ("team", "teams/app", False),
        ("team/app", "team", False),
        ("a/b", "a/b/c", True),
    ],
)
def test_a_namespace_ends_at_a_slash(namespace: str, repository: str, *, inside: bool) -> None:
    assert Address(host="h", namespace=namespace).covers(repository) is inside


def test_a_refusal_does_not_show_the_credential() -> None:
    refusal = Refusal(error=RegistryForbidden("no"), credential=Basic(username="u", password=Secret("hidden")))
    assert "hidden" not in repr(refusal)
    assert "Basic" not in repr(refusal)
