"""Test Connection against every provider's fake, with every login and every mistake that the conformance suite knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sensor.config.schema import Http
from sensor.registry.check import Report, check_connection, describe_report
from sensor.transport import Retry
from tests.fakes.registries.acr import AcrFake
from tests.fakes.registries.artifactory import ArtifactoryFake
from tests.fakes.registries.ghcr import GhcrFake
from tests.fakes.registries.provider import Login, Mistake, ProviderFake
from tests.fakes.registries.quay import OAUTH_TOKEN, ROBOT, ROBOT_TOKEN, QuayFake
from tests.registry.kinds.test_conformance import pairs

ONCE = Retry(attempts=1)


async def check(
    fake: ProviderFake, login: Login | Mistake, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> Report:
    for name, value in login.env.items():
        monkeypatch.setenv(name, value)
    settings = fake.settings(login)
    named = settings.repositories.model_copy(update={"names": names})
    return await check_connection(settings.model_copy(update={"repositories": named}), Http(), retry=ONCE)


@pytest.mark.parametrize(("fake_type", "index"), pairs("login"))
async def test_a_login_is_reported_as_what_it_is(
    fake_type: type[ProviderFake], index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_type(tmp_path) as fake:
        login = fake.logins[index]
        listed = login.lists and not login.anonymous
        names = () if listed and login.pulls else (fake.public if login.anonymous else fake.names)[:1]
        report = await check(fake, login, names, monkeypatch)
        assert (report.reachable, report.provider) == (True, fake.kind)
        if login.anonymous:
            assert (report.authenticated, report.access) == (False, "anonymous")
        else:
            assert report.authenticated is True or (not login.pulls and report.authenticated is None)
            told = report.identity if report.other is None else report.other.identity
            assert re.search(login.identity, told)
        assert re.search(login.method, report.method)
        assert report.can_pull is login.pulls, report
        assert report.usable is login.pulls
        if listed:
            assert report.can_list
            assert report.source is not None
            assert report.source.name not in {"", "configured names"}
        if not login.pulls:
            assert report.advice
        assert report.requests <= 26


@pytest.mark.parametrize(("fake_type", "index"), pairs("mistake"))
async def test_a_mistake_is_never_a_proven_login_without_a_word(
    fake_type: type[ProviderFake], index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_type(tmp_path) as fake:
        report = await check(fake, fake.mistakes[index], fake.names[:1], monkeypatch)
        assert report.reachable
        assert report.authenticated is not True or not report.usable, report
        assert report.problem
        assert report.advice


async def test_a_scope_map_token_is_healthy_where_names_are_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AcrFake(tmp_path) as fake:
        (login,) = [one for one in fake.logins if "scope" in one.name]
        report = await check(fake, login, fake.names[:1], monkeypatch)
        assert (report.usable, report.problem, report.advice) == (True, "", "")
        assert {step.outcome for step in report.steps} == {"ok", "skipped"}
        assert {notice.code for notice in report.notices} <= {"plain_http"}


async def test_a_refused_api_token_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with QuayFake(tmp_path) as fake:
        robot = {"username": ROBOT, "password": ROBOT_TOKEN, "api": {"token": "wrong"}}
        report = await check(fake, Login(name="one", settings=robot), (), monkeypatch)
        assert report.usable
        (warning,) = [notice.message for notice in report.notices if notice.code == "listing"]
        assert warning.startswith("api.token was refused: ")


async def test_two_credentials_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with QuayFake(tmp_path) as fake:
        robot = {"username": ROBOT, "password": ROBOT_TOKEN, "api": {"token": OAUTH_TOKEN}}
        report = await check(fake, Login(name="one", settings=robot), (), monkeypatch)
        assert (report.identity, report.credential_expires) == (ROBOT, None)
        told = describe_report(report)["apiCredential"]
        assert isinstance(told, dict)
        assert (told["setting"], told["identity"]) == ("api.token", "alice")


async def test_an_app_that_pulls_only_what_is_public_is_not_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with GhcrFake(tmp_path) as fake:
        (login,) = [one for one in fake.logins if "App" in one.name]
        report = await check(fake, login, (), monkeypatch)
        assert (report.can_pull, report.usable, report.problem) == (True, False, "forbidden")
        assert "read:packages" in report.advice


async def test_an_api_that_refuses_its_own_password_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ArtifactoryFake(tmp_path) as fake:
        known = {**fake.logins[0].settings, "api": {"username": "x", "password": "wrong"}}
        report = await check(fake, Login(name="one", settings=known), (), monkeypatch)
        assert report.advice.startswith("api.password was refused: mend that first; ")
