"""Docker's configuration file: which entry is taken, and that a file cannot make the sensor run a program."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from sensor.config.logins import DockerConfig
from sensor.errors import SecretError
from sensor.registry.docker_config import DockerConfigCredential, config_path, secrets_in
from sensor.registry.login import Basic
from sensor.secret import Secret
from tests.fakes.programs import script


def auth(pair: str) -> dict[str, str]:
    return {"auth": base64.b64encode(pair.encode()).decode()}


def write(path: Path, **content: Any) -> DockerConfig:
    path.write_text(json.dumps(content))
    return DockerConfig(path=str(path))


async def found(settings: DockerConfig, host: str, namespace: str = "") -> Basic | None:
    given = await DockerConfigCredential(settings, host, namespace).credential(renew=False)
    assert given is None or isinstance(given, Basic)
    return given


@pytest.mark.parametrize(
    ("key", "host", "namespace"),
    [
        ("registry.example:5000", "registry.example:5000", ""),
        ("https://registry.example", "registry.example", ""),
        ("https://registry.example/v1/", "registry.example", ""),
        ("https://registry.example/v2/", "registry.example", ""),
        ("https://index.docker.io/v1/", "docker.io", ""),
        ("https://index.docker.io/v1/", "registry-1.docker.io", "library"),
        ("docker.io", "registry-1.docker.io", ""),
        ("quay.io/acme", "quay.io", "acme/tools"),
        ("quay.io", "quay.io", "acme"),
    ],
)
async def test_a_registry_is_found_under_every_usual_key(tmp_path: Path, key: str, host: str, namespace: str) -> None:
    settings = write(tmp_path / "c.json", auths={key: auth("user:pass:word")})
    assert await found(settings, host, namespace) == Basic(username="user", password=Secret("pass:word"))


async def test_the_most_special_entry_wins_and_no_other_host_gets_one(tmp_path: Path) -> None:
    settings = write(
        tmp_path / "c.json", auths={"quay.io": auth("whole:1"), "quay.io/acme": auth("acme:2"), "evil.example": {}}
    )
    given = await found(settings, "quay.io", "acme")
    assert given is not None
    assert given.username == "acme"
    assert await found(settings, "quay.io", "acm") == Basic(username="whole", password=Secret("1"))
    for host in ("evil.example", "io", "quay.io.example", "xquay.io", "quay.io:443"):
        assert await found(settings, host) is None


async def test_plain_fields_are_taken_too(tmp_path: Path) -> None:
    settings = write(tmp_path / "c.json", auths={"r.example": {"username": "u", "password": "p"}, "n.example": None})
    assert await found(settings, "r.example") == Basic(username="u", password=Secret("p"))
    assert await found(settings, "n.example") is None


async def test_a_new_login_is_noticed_after_a_refusal(tmp_path: Path) -> None:
    settings = write(tmp_path / "c.json", auths={"r.example": auth("u:1")})
    source = DockerConfigCredential(settings, "r.example")
    assert await source.credential(renew=False) == Basic(username="u", password=Secret("1"))
    write(tmp_path / "c.json", auths={"r.example": auth("u:2")})
    assert await source.credential(renew=False) == Basic(username="u", password=Secret("1"))
    assert await source.credential(renew=True) == Basic(username="u", password=Secret("2"))


async def test_azures_identity_token_is_a_password_and_others_are_refused(tmp_path: Path) -> None:
    zeroes = "00000000-0000-0000-0000-000000000000"
    entry = {**auth(f"{zeroes}:"), "identitytoken": "refresh-me"}
    settings = write(tmp_path / "c.json", auths={"acme.azurecr.io": entry, "acme.azurecr.io.example": entry})
    assert await found(settings, "acme.azurecr.io") == Basic(username=zeroes, password=Secret("refresh-me"))
    with pytest.raises(SecretError, match="identity token") as refused:
        await found(settings, "acme.azurecr.io.example")
    assert "refresh-me" not in str(refused.value)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff\xfe", b'{"auths": 5}', b"{" * 100_000, b'{"auths":{"r.example":{"auth":"%%%"}}}']
)
async def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(content)
    with pytest.raises(SecretError, match=r"c\.json"):
        await found(DockerConfig(path=str(path)), "r.example")


async def test_a_missing_or_huge_file(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="cannot be read"):
        await found(DockerConfig(path=str(tmp_path / "none.json")), "r.example")
    (tmp_path / "big.json").write_bytes(b" " * (1 << 20) + b"{}")
    with pytest.raises(SecretError, match="larger"):
        await found(DockerConfig(path=str(tmp_path / "big.json")), "r.example")


def test_where_the_file_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", "/somewhere")
    assert config_path("") == Path("/somewhere/config.json")
    assert config_path("/own.json") == Path("/own.json")
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", "/home/sensor")
    assert config_path("") == Path("/home/sensor/.docker/config.json")


# -- helpers -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [{"credHelpers": {"r.example": "evil"}}, {"credsStore": "evil"}])
async def test_a_helper_that_is_not_allowed_is_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any]
) -> None:
    ran = tmp_path / "ran"
    script(tmp_path / "bin" / "docker-credential-evil", f"touch {ran}")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(SecretError, match="not allowed") as refused:
        await found(write(tmp_path / "c.json", **content), "r.example")
    assert "docker_config.helpers" in refused.value.advice
    assert not ran.exists()


@pytest.mark.parametrize("name", ["../../evil", "a b", "", "-x", "a" * 200])
async def test_a_helper_is_a_name_and_not_a_path(tmp_path: Path, name: str) -> None:
    settings = write(tmp_path / "c.json", credHelpers={"r.example": name}).model_copy(update={"helpers": (name,)})
    if name:
        with pytest.raises(SecretError, match="cannot be one"):
            await found(settings, "r.example")
    else:
        assert await found(settings, "r.example") is None


async def test_an_allowed_helper_is_asked_for_the_key_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    answer = json.dumps({"ServerURL": "x", "Username": "u", "Secret": "helped"})
    script(tmp_path / "bin" / "docker-credential-mine", f"echo \"$1 $(cat)\" > {seen}; echo '{answer}'")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    settings = write(tmp_path / "c.json", credHelpers={"https://r.example": "mine"}, auths={"r.example": auth("a:b")})
    settings = settings.model_copy(update={"helpers": ("mine",)})
    assert await found(settings, "r.example") == Basic(username="u", password=Secret("helped"))
    assert seen.read_text() == "get https://r.example\n"
    stored = write(tmp_path / "s.json", credsStore="mine", auths={"r.example": {}}).model_copy(
        update={"helpers": ("mine",)}
    )
    assert await found(stored, "r.example") == Basic(username="u", password=Secret("helped"))


async def test_a_helper_that_knows_nothing_means_anonymous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "bin" / "docker-credential-mine", "echo credentials not found in native keychain; exit 1")
    script(tmp_path / "bin" / "docker-credential-az", 'echo \'{"Username":"<token>","Secret":"refresh"}\'')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    settings = write(tmp_path / "c.json", credHelpers={"r.example": "mine", "acme.azurecr.io": "az", "o.example": "az"})
    settings = settings.model_copy(update={"helpers": ("mine", "az")})
    assert await found(settings, "r.example") is None
    azure = await found(settings, "acme.azurecr.io")
    assert azure is not None
    assert azure.password == Secret("refresh")
    with pytest.raises(SecretError, match="identity token"):
        await found(settings, "o.example")


# -- nothing found -------------------------------------------------------------------------------------------------------------


async def test_that_the_file_has_no_entry_is_said_with_what_it_has(tmp_path: Path) -> None:
    settings = write(tmp_path / "other.json", auths={"other:5901": auth("u:p"), "left.example": {}})
    source = DockerConfigCredential(settings, "127.0.0.1:5901", "team")
    assert await source.credential(renew=False) is None
    assert source.missing == f"{settings.path} has no entry for 127.0.0.1:5901/team (it has: other:5901)"
    write(tmp_path / "other.json", auths={"127.0.0.1:5901": auth("u:p")})
    assert await source.credential(renew=True) is not None
    assert source.missing == ""
    many = {f"r{number}.example": "x" for number in range(7)}
    source = DockerConfigCredential(write(tmp_path / "m.json", credHelpers=many), "r.example")
    assert await source.credential(renew=False) is None
    assert source.missing.endswith("(it has: r0.example, r1.example, r2.example, r3.example, r4.example and 2 more)")
    source = DockerConfigCredential(write(tmp_path / "e.json"), "r.example")
    assert await source.credential(renew=False) is None
    assert source.missing.endswith("(it has none at all)")


async def test_that_a_helper_knows_nothing_of_the_registry_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "bin" / "docker-credential-blank", "echo credentials not found in native keychain; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    settings = write(tmp_path / "c.json", credHelpers={"r.example": "blank"})
    source = DockerConfigCredential(settings.model_copy(update={"helpers": ("blank",)}), "r.example")
    assert await source.credential(renew=False) is None
    assert source.missing == f"docker-credential-blank, which {settings.path} names, has no credential for r.example"


def test_everything_secret_in_a_file_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    login = base64.b64encode(b"ci:one:more").decode()
    auths = {"a": {"auth": login}, "b": {"password": "two", "auth": "!"}, "c": {"identitytoken": "three"}, "d": None}
    path.write_text(json.dumps({"auths": auths}))
    assert {login, "one:more", "two", "three"} <= set(secrets_in(DockerConfig(path=str(path))))
    path.write_text("[]")
    assert list(secrets_in(DockerConfig(path=str(path)))) == []
