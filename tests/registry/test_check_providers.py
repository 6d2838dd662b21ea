"""Test Connection against every provider's fake, with every login and every mistake that the conformance suite knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sensor.config.schema import Http
from sensor.registry.check import Report, check_connection
from sensor.transport import Retry
from tests.fakes.registries.provider import Login, Mistake, ProviderFake
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
            assert re.search(login.identity, report.identity)
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
