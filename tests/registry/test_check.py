"""Test Connection: what it says in each situation."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor.registry.check import STEPS, Report, check_registry
from sensor.registry.kinds.layout import LayoutRegistry
from tests.fakes.certificates import Authority
from tests.fakes.docker_registry import free_port
from tests.fakes.images import ImageStore
from tests.fakes.registry import Behaviour, FakeRegistry
from tests.registry.conftest import Connect, Images

KNOWN = {"username": "sensor", "password": "secret"}


def outcomes(report: Report) -> dict[str, str]:
    assert tuple(step.name for step in report.steps) == STEPS
    assert all(step.detail for step in report.steps if step.outcome != "ok")
    return {step.name: step.outcome for step in report.steps}


def failed(report: Report) -> str:
    (step,) = [step for step in report.steps if step.outcome == "failed"]
    return step.name


async def test_all_is_well(images: Images, connect: Connect, tmp_path: Path) -> None:
    authority = Authority()
    context = authority.server_context(tmp_path)
    async with (
        FakeRegistry(images.store.root, Behaviour(auth="bearer", redirect="storage"), ssl_context=context) as fake,
        connect(f"https://{fake.host}", ca_file=authority.write(tmp_path / "ca"), **KNOWN) as client,
    ):
        report = await check_registry(client)
        assert set(outcomes(report).values()) == {"ok"}
        assert report.reachable
        assert report.authenticated
        assert report.usable
        assert report.latency_ms is not None
        assert report.latency_ms > 0


async def test_a_multi_platform_sample_is_read_through(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root, Behaviour(redirect="storage")) as fake, connect(fake.url) as client:
        report = await check_registry(client, "multi")
        assert outcomes(report)["blob"] == "ok"
        assert outcomes(report)["tls"] == "skipped"
        assert fake.count("storage") == 1


async def test_no_credential(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root, Behaviour(auth="basic")) as fake, connect(fake.url) as client:
        report = await check_registry(client)
        assert (report.reachable, report.authenticated) == (True, False)
        assert report.detail.startswith("reachable but unauthenticated")
        assert failed(report) == "login"
        assert outcomes(report)["tags"] == "skipped"
        assert not report.usable


async def test_a_wrong_credential(images: Images, connect: Connect) -> None:
    behaviour = Behaviour(auth="bearer")
    async with (
        FakeRegistry(images.store.root, behaviour) as fake,
        connect(fake.url, username="sensor", password="x") as client,
    ):
        report = await check_registry(client, "team/app")
        assert report.detail.startswith("authentication failed")
        assert failed(report) == "login"


async def test_no_catalogue_is_no_obstacle_when_a_repository_is_named(images: Images, connect: Connect) -> None:
    behaviour = Behaviour(auth="bearer", no_catalog=True)
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url, **KNOWN) as client:
        report = await check_registry(client, "team/app")
        assert failed(report) == "catalog"
        assert report.usable
        report = await check_registry(client)
        assert failed(report) == "catalog"
        assert not report.usable
        assert outcomes(report)["manifest"] == "skipped"


async def test_an_empty_registry_and_an_empty_repository(tmp_path: Path, connect: Connect, images: Images) -> None:
    empty = ImageStore(tmp_path / "empty")
    async with FakeRegistry(empty.root) as fake, connect(fake.url) as client:
        report = await check_registry(client)
        assert outcomes(report)["catalog"] == "ok"
        assert outcomes(report)["tags"] == "skipped"
        assert report.usable
    async with FakeRegistry(images.store.root, Behaviour(null_tags=True)) as fake, connect(fake.url) as client:
        report = await check_registry(client)
        assert outcomes(report)["tags"] == "ok"
        assert outcomes(report)["manifest"] == "skipped"
    images.store.tag(images.store.index({}), "hollow", "v1")
    async with FakeRegistry(images.store.root) as fake, connect(fake.url) as client:
        report = await check_registry(client, "hollow")
        assert outcomes(report)["manifest"] == "ok"
        assert outcomes(report)["blob"] == "skipped"


@pytest.mark.parametrize(("kind", "step"), [("tags", "tags"), ("manifest", "manifest"), ("blob", "blob")])
async def test_a_step_that_fails_says_what_to_do(images: Images, connect: Connect, kind: str, step: str) -> None:
    behaviour = Behaviour(fail={kind: [403] * 9})
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url) as client:
        report = await check_registry(client, "team/app")
        assert failed(report) == step
        assert next(one for one in report.steps if one.outcome == "failed").advice
        assert not report.usable


async def test_what_goes_wrong_before_the_first_answer(images: Images, connect: Connect, tmp_path: Path) -> None:
    async with connect("https://no-such-host.invalid") as client:
        report = await check_registry(client)
        assert failed(report) == "resolve"
        assert not report.reachable
        assert report.latency_ms is None
    async with connect(f"http://127.0.0.1:{free_port()}") as client:
        assert failed(await check_registry(client)) == "connect"
    context = Authority().server_context(tmp_path)
    async with FakeRegistry(images.store.root, ssl_context=context) as fake, connect(fake.host) as client:
        report = await check_registry(client)
        assert failed(report) == "tls"
        assert outcomes(report)["connect"] == "ok"
    async with FakeRegistry(images.store.root, Behaviour(html="base")) as fake, connect(fake.url) as client:
        report = await check_registry(client)
        assert failed(report) == "ping"
        assert report.reachable


async def test_a_layout_on_disk(images: Images) -> None:
    registry = LayoutRegistry(images.store.root, host="x.layout", repository_default="d")
    report = await check_registry(registry)
    assert report.usable
    assert outcomes(report)["blob"] == "ok"
