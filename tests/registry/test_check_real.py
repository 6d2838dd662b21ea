"""Test Connection against a real registry: Debian's docker-registry with none, htpasswd and token logins, over TLS too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sensor.config.schema import Registry
from sensor.registry.check import Report, check_connection
from sensor.secret import InPlace, Secret
from tests.fakes.docker_registry import Auth, DockerRegistry
from tests.fakes.images import ImageStore
from tests.fakes.layers import file, layer

pytestmark = pytest.mark.real_registry


async def check(real: DockerRegistry, *, password: str = "", names: tuple[str, ...] = (), **settings: Any) -> Report:
    if real.username and settings.get("auth") != "anonymous":
        secret = InPlace(Secret(password or real.password))
        settings = {"username": real.username, "password": secret, **settings}
    named = {"url": real.url, "insecure": not real.tls, "ca_file": real.ca_file, "repositories": {"names": names}}
    return await check_connection(Registry.model_validate({"name": "real", **named, **settings}))


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    store = ImageStore(tmp_path / "layout")
    store.image("team/app", "v1", [layer(file("a", b"data"))])
    return store.root


@pytest.mark.parametrize(
    ("auth", "tls", "authenticated", "access", "proof"),
    [
        ("none", False, False, "anonymous", "answers without a login"),
        ("htpasswd", True, True, "authenticated", "the credential was accepted"),
        ("token", False, True, "authenticated", "the token is for sensor"),
    ],
)
async def test_a_usable_registry(
    tmp_path: Path, layout: Path, auth: Auth, tls: bool, authenticated: bool, access: str, proof: str
) -> None:
    with DockerRegistry(tmp_path / "real", auth=auth, tls=tls) as real:
        real.push(layout, "", "team/app", "v1")
        report = await check(real)
        assert report.usable, report
        assert (report.authenticated, report.access) == (authenticated, access)
        assert (report.can_list, report.can_pull, report.problem) == (True, True, "")
        assert proof in report.steps[4].detail
        assert abs(report.clock_skew or 99) < 5
        assert report.requests <= 12


@pytest.mark.parametrize("auth", ["htpasswd", "token"])
async def test_a_wrong_password_and_none(tmp_path: Path, auth: Auth) -> None:
    with DockerRegistry(tmp_path / "real", auth=auth) as real:
        report = await check(real, password="wr0ng")
        assert (report.reachable, report.authenticated, report.usable) == (True, False, False)
        assert report.detail.startswith("authentication failed")
        report = await check(real, auth="anonymous")
        assert (report.reachable, report.authenticated, report.usable) == (True, False, False)
        assert report.detail.startswith("reachable but unauthenticated")
        # with tokens everybody gets one there, and it opens nothing
        assert (report.problem, report.access) == ("unauthenticated", "none")


async def test_forbidden_to_list_but_able_to_pull(tmp_path: Path, layout: Path) -> None:
    with DockerRegistry(tmp_path / "real", auth="token") as real:
        real.push(layout, "", "team/app", "v1")
        assert real.issuer is not None
        real.issuer.catalog = False
        report = await check(real, names=("team/app",))
        assert (report.authenticated, report.can_list, report.can_pull, report.usable) == (True, False, True, True)
        real.issuer.denied.add("team/app")
        report = await check(real, names=("team/app",))
        assert (report.authenticated, report.can_list, report.can_pull, report.usable) == (True, False, False, False)
        assert "right to" in report.advice


async def test_plain_http_is_not_spoken_with_a_credential_unless_allowed(tmp_path: Path) -> None:
    with DockerRegistry(tmp_path / "real", auth="htpasswd") as real:
        report = await check(real, insecure=False)
        assert (report.reachable, report.problem, report.usable) == (True, "insecure", False)
        assert report.detail == "reachable but unauthenticated: plain HTTP, tested without a credential"


async def test_a_private_authority_that_is_not_named(tmp_path: Path) -> None:
    with DockerRegistry(tmp_path / "real", tls=True) as real:
        report = await check(real, ca_file="")
        assert (report.reachable, report.problem) == (False, "tls_untrusted")
        assert "Test Registry CA" in report.detail
        report = await check(real, url=f"http://{real.host}", insecure=True)
        assert report.problem in {"tls_only", "unexpected_answer"}
        assert "speaks TLS" in report.detail
        assert "https://" in report.advice
