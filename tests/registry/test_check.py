"""Test Connection as the command and the console ask for it: every situation is told apart, and says what to do."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sensor.config.schema import Http, Registry
from sensor.errors import SensorError
from sensor.limits import Limits
from sensor.registry.check import Report, check_connection, check_registry, describe_report
from sensor.registry.check_report import STEPS
from sensor.registry.errors import CannotEnumerate, RegistryForbidden
from sensor.registry.port import Listing, Standing
from sensor.secret import FromFile, InPlace, Secret
from tests.fakes.certificates import Authority
from tests.fakes.docker_registry import free_port
from tests.fakes.images import ImageStore
from tests.fakes.proxy import FakeProxy
from tests.fakes.registry import HTML, Behaviour, FakeRegistry
from tests.registry.conftest import Connect, Images
from tests.registry.test_tokens import jwt

KNOWN = {"username": "sensor", "password": "secret"}
PAGE = "<!DOCTYPE html><html><head><title>Hotel &amp; Bar Wi-Fi</title></head><body>Please pay</body></html>"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def registry(url: str, **settings: Any) -> Registry:
    for name in ("password", "token"):
        if isinstance(settings.get(name), str):
            settings[name] = InPlace(Secret(settings[name]))
    names, namespaces = settings.pop("names", ()), settings.pop("namespaces", ())
    return Registry.model_validate(
        {
            "name": "fake",
            "url": url,
            "insecure": not url.startswith("https"),
            "repositories": {"names": names, "namespaces": namespaces},
            **settings,
        }
    )


async def check(url: str, *, http: Http | None = None, limits: Limits | None = None, **settings: Any) -> Report:
    return await check_connection(registry(url, **settings), http, limits or Limits(connect_seconds=2, idle_seconds=2))


@contextlib.asynccontextmanager
async def answering(
    handler: Handler, *, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, 0, ssl_context=context).start()
    try:
        yield f"{'https' if context else 'http'}://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def always(**answer: Any) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        return web.Response(**answer)

    return handle


def outcomes(report: Report) -> dict[str, str]:
    assert tuple(step.name for step in report.steps) == STEPS
    assert all(step.detail for step in report.steps if step.outcome != "ok")
    return {step.name: step.outcome for step in report.steps}


def failed(report: Report) -> str:
    (step,) = [step for step in report.steps if step.outcome == "failed"]
    assert not report.usable
    return step.name


def codes(report: Report) -> list[str]:
    return [notice.code for notice in report.notices]


# -- all is well -------------------------------------------------------------------------------------------------------


async def test_a_login_that_works_over_tls(images: Images, tmp_path: Path) -> None:
    authority = Authority()
    context = authority.server_context(tmp_path)
    behaviour = Behaviour(auth="basic", redirect="storage")
    async with FakeRegistry(images.store.root, behaviour, ssl_context=context) as fake:
        report = await check(fake.url, ca_file=authority.write(tmp_path / "ca"), **KNOWN)
        assert set(outcomes(report).values()) == {"ok"}
        assert (report.reachable, report.authenticated, report.access) == (True, True, "authenticated")
        assert (report.can_list, report.can_pull, report.usable) == (True, True, True)
        assert report.latency_ms is not None
        assert report.latency_ms > 0
        assert (report.method, report.identity) == ("user name and password", "sensor")
        assert (report.provider, report.may_write, report.credential_expires) == ("distribution", None, None)
        assert report.source is not None
        assert (report.source.name, report.source.complete) == ("_catalog", True)
        assert (report.problem, report.advice, report.notices) == ("", "", ())
        assert "the credential was accepted" in report.steps[4].detail
        assert fake.count("blob", "storage") == 2
        assert report.requests == len(fake.seen)
        assert report.requests <= 12


async def test_an_open_registry_is_anonymous_and_usable(images: Images) -> None:
    async with FakeRegistry(images.store.root) as fake:
        report = await check(fake.url)
        assert (report.reachable, report.authenticated, report.access) == (True, False, "anonymous")
        assert (report.usable, report.can_list, report.can_pull) == (True, True, True)
        assert report.detail == "answers without a login"
        assert report.method == "anonymous"


async def test_an_open_registry_without_a_catalogue_and_with_nothing_named(images: Images) -> None:
    async with FakeRegistry(images.store.root, Behaviour(fail={"catalog": [404]})) as fake:
        report = await check(fake.url)
        assert (report.access, report.can_list, report.can_pull, report.usable) == ("anonymous", False, None, False)
        assert "repositories.names" in report.advice


async def test_a_stranger_who_gets_no_answer_proves_nothing(images: Images, connect: Connect) -> None:
    async with (
        FakeRegistry(images.store.root, Behaviour(auth="bearer")) as fake,
        connect(fake.url, **KNOWN) as client,
        connect(f"http://127.0.0.1:{free_port()}") as stranger,
    ):
        report = await check_registry(client, stranger=lambda: stranger)
        assert (report.authenticated, report.access, report.usable) == (None, "anonymous", True)
        report = await check_registry(client)
        assert report.authenticated is None
        assert "the token does not say whose it is" in report.steps[4].detail


async def test_a_multi_platform_sample_is_read_through(images: Images) -> None:
    async with FakeRegistry(images.store.root, Behaviour(redirect="storage")) as fake:
        report = await check(fake.url, names=("multi",))
        assert outcomes(report)["blob"] == "ok"
        assert outcomes(report)["tls"] == "skipped"
        assert fake.count("storage") == 1


async def test_an_empty_registry_and_empty_repositories(tmp_path: Path, images: Images) -> None:
    async with FakeRegistry(ImageStore(tmp_path / "empty").root) as fake:
        report = await check(fake.url)
        assert (outcomes(report)["catalog"], outcomes(report)["tags"]) == ("ok", "skipped")
        assert (report.usable, report.can_list, report.can_pull) == (True, True, None)
    async with FakeRegistry(images.store.root, Behaviour(null_tags=True)) as fake:
        report = await check(fake.url)
        assert (outcomes(report)["tags"], outcomes(report)["manifest"]) == ("ok", "skipped")
        assert fake.count("tags") == 3
    images.store.tag(images.store.index({}), "hollow", "v1")
    async with FakeRegistry(images.store.root) as fake:
        report = await check(fake.url, names=("hollow",))
        assert (outcomes(report)["manifest"], outcomes(report)["blob"]) == ("ok", "skipped")


async def test_a_repository_that_a_sweep_would_look_at_is_tried(images: Images) -> None:
    async with FakeRegistry(images.store.root) as fake:
        await check_connection(registry(fake.url), wanted=lambda name: name == "team/other")
        assert {seen.path for seen in fake.seen if seen.kind == "tags"} == {"/v2/team/other/tags/list"}


async def test_a_layout_on_disk_needs_no_login(images: Images, tmp_path: Path) -> None:
    report = await check(f"oci:{images.store.root}", insecure=False)
    assert (report.reachable, report.authenticated, report.access, report.usable) == (True, False, "anonymous", True)
    assert (report.can_list, report.can_pull, report.method) == (True, True, "files on disk")
    assert outcomes(report)["tls"] == "skipped"
    report = await check(f"oci:{tmp_path}/nothing", insecure=False)
    assert (report.reachable, report.problem, report.usable) == (False, "not_a_registry", False)
    assert "oci-layout" in report.advice
    report = await check("oci:relative", insecure=False)
    assert (report.reachable, report.problem) == (False, "configuration")
    assert "oci:/path" in report.advice


# -- logging in --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_a_401_without_a_credential(images: Images, auth: str) -> None:
    async with FakeRegistry(images.store.root, Behaviour(auth=auth)) as fake:  # type: ignore[arg-type]
        report = await check(fake.url)
        assert (report.reachable, report.authenticated, report.access) == (True, False, "none")
        assert report.detail.startswith("reachable but unauthenticated")
        assert (report.problem, failed(report), outcomes(report)["tags"]) == ("unauthenticated", "login", "skipped")
        assert "credential" in report.advice or "username" in report.advice


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_a_401_with_a_credential(images: Images, auth: str) -> None:
    async with FakeRegistry(images.store.root, Behaviour(auth=auth)) as fake:  # type: ignore[arg-type]
        report = await check(fake.url, username="sensor", password="wr0ng")
        assert report.detail.startswith("authentication failed")
        assert (report.problem, report.authenticated, report.access) == ("authentication_failed", False, "none")
        assert failed(report) == "login"
        assert "check user name and password" in report.advice
        assert "wr0ng" not in json.dumps(describe_report(report)) + repr(report)
        assert fake.count("catalog", "tags", "manifest", "blob") == 0


async def test_what_is_public_can_be_read_without_a_login(images: Images) -> None:
    async with FakeRegistry(images.store.root, Behaviour(auth="bearer", anonymous=("team/app",))) as fake:
        report = await check(fake.url, names=("team/app",))
        assert (report.authenticated, report.access, report.usable) == (False, "anonymous", True)
        assert (report.can_list, report.can_pull) == (False, True)
        assert outcomes(report)["login"] == "skipped"
        assert report.steps[4].detail.startswith("reachable but unauthenticated")


async def test_an_opaque_token_is_proven_by_what_a_stranger_is_refused(images: Images) -> None:
    async with FakeRegistry(images.store.root, Behaviour(auth="bearer")) as fake:
        report = await check(fake.url, **KNOWN)
        assert (report.authenticated, report.access) == (True, "authenticated")
        assert "without it the registry refuses" in report.steps[4].detail
        assert any(not seen.authorization for seen in fake.seen if seen.kind == "token")
        assert report.requests == len(fake.seen)


async def test_where_only_public_content_was_read_the_login_is_not_proven(images: Images) -> None:
    behaviour = Behaviour(auth="bearer", anonymous=("team/app",))
    async with FakeRegistry(images.store.root, behaviour) as fake:
        report = await check(fake.url, names=("team/app",), **KNOWN)
        assert (report.authenticated, report.access, report.usable) == (None, "anonymous", True)
        assert "only what is public could be read" in report.steps[4].detail
        assert "login_unproven" in codes(report)
        assert describe_report(report)["authenticated"] is None


async def test_without_anything_to_read_the_login_of_a_stranger_is_the_measure(tmp_path: Path) -> None:
    async with FakeRegistry(ImageStore(tmp_path / "empty").root, Behaviour(auth="bearer")) as fake:
        report = await check(fake.url, **KNOWN)
        assert (report.authenticated, report.usable) == (True, True)


def token_service(subject: str | None, *, grant: bool) -> Handler:
    """Every password gets a token, as Harbor does it; `grant`: it opens everything, else only `GET /v2/`."""

    token = "opaque" if subject is None else jwt({"sub": subject, "access": []})

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/token":
            return web.json_response({"token": token})
        if request.headers.get("Authorization") == f"Bearer {token}":
            if request.path == "/v2/" and not grant:
                return web.json_response({})
            if request.path == "/v2/_catalog" and grant:
                return web.json_response({"repositories": []})
        realm = f'Bearer realm="http://{request.host}/token",service="x"'
        return web.json_response(
            {"errors": [{"code": "UNAUTHORIZED"}]}, status=401, headers={"WWW-Authenticate": realm}
        )

    return handle


async def test_an_empty_handed_token_is_no_login() -> None:
    async with answering(token_service(None, grant=False)) as url:
        report = await check(url, names=("team/app",), **KNOWN)
        assert (report.authenticated, report.access, report.usable) == (None, "none", False)
        assert "nothing was granted with it" in report.steps[4].detail
        assert report.problem == "cannot_list"
    for nobody in ("", "(anonymous)", "host/users/Anonymous"):
        async with answering(token_service(nobody, grant=False)) as url:
            report = await check(url, names=("team/app",), **KNOWN)
            assert (report.authenticated, report.access, report.usable) == (False, "none", False)
            assert report.problem == "authentication_failed"
            assert report.detail.startswith("authentication failed: the token service gave an anonymous token")
            assert outcomes(report)["login"] == "failed"


async def test_a_token_that_names_its_owner_is_a_login_even_when_nothing_is_granted() -> None:
    async with answering(token_service("robot$ci\x1b", grant=False)) as url:
        report = await check(url, names=("team/app",), **KNOWN)
        assert (report.authenticated, report.access, report.usable) == (True, "authenticated", False)
        assert (report.can_list, report.can_pull, report.problem) == (False, False, "cannot_list")
        assert "the token is for robot$ci" in report.steps[4].detail
        assert "\x1b" not in report.steps[4].detail
        assert outcomes(report)["tags"] == "failed"


async def test_a_credential_that_nobody_asks_for_is_not_proven(images: Images) -> None:
    async with FakeRegistry(images.store.root) as fake:
        report = await check(fake.url, **KNOWN)
        assert (report.authenticated, report.access, report.usable) == (None, "anonymous", True)
        assert "the registry did not ask for the credential" in report.steps[4].detail
        report = await check(fake.url, token="abc")
        assert (report.authenticated, report.access, report.usable) == (None, "anonymous", True)


async def test_a_bearer_token_that_opens_a_closed_registry_is_a_login(images: Images) -> None:
    async with FakeRegistry(images.store.root, Behaviour(auth="bearer", static_token="abc")) as fake:
        report = await check(fake.url, token="abc")
        assert (report.authenticated, report.method, report.usable) == (True, "bearer token", True)
        report = await check(fake.url, token="other")
        assert (report.authenticated, report.problem) == (False, "authentication_failed")


async def test_a_secret_that_cannot_be_read(images: Images, tmp_path: Path) -> None:
    async with FakeRegistry(images.store.root, Behaviour(auth="basic")) as fake:
        report = await check(fake.url, username="sensor", password=FromFile(str(tmp_path / "missing")))
        assert (report.reachable, report.problem, failed(report)) == (True, "credential_unreadable", "login")
        assert outcomes(report)["ping"] == "ok"


async def test_a_token_service_that_cannot_be_found(images: Images) -> None:
    behaviour = Behaviour(auth="bearer", realm="http://auth.invalid/token")
    async with FakeRegistry(images.store.root, behaviour) as fake:
        report = await check(fake.url, trusted_realms=("auth.invalid",), **KNOWN)
        assert (report.reachable, report.problem, failed(report)) == (True, "dns", "login")
        assert "auth.invalid" in report.detail


# -- rights ------------------------------------------------------------------------------------------------------------


async def test_forbidden_to_list_but_able_to_pull(images: Images) -> None:
    behaviour = Behaviour(auth="bearer", no_catalog=True)
    async with FakeRegistry(images.store.root, behaviour) as fake:
        report = await check(fake.url, names=("team/app",), **KNOWN)
        assert (report.can_list, report.can_pull, report.usable) == (False, True, True)
        assert "forbidden to list, but able to pull" in report.detail
        # names are configured, so it is as it should be
        assert (report.problem, report.advice, outcomes(report)["catalog"]) == ("", "", "skipped")
        assert codes(report) == ["plain_http"]
        assert report.source is not None
        assert (report.source.name, report.source.repositories) == ("configured names", 1)
        report = await check(fake.url, **KNOWN)
        assert (report.can_list, report.can_pull, failed(report)) == (False, None, "catalog")
        assert "repositories.names" in report.advice
        assert outcomes(report)["manifest"] == "skipped"


async def test_a_missing_right_passes_the_advice_on(images: Images) -> None:
    behaviour = Behaviour(auth="bearer", forbidden=("team/app",))
    async with FakeRegistry(images.store.root, behaviour) as fake:
        report = await check(fake.url, names=("team/app",), **KNOWN)
        assert (report.can_pull, report.problem, failed(report)) == (False, "forbidden", "tags")
        assert "right to pull" in report.advice
        assert report.advice == report.steps[6].advice


async def test_one_repository_out_of_bounds_is_said_and_another_one_is_tried(images: Images) -> None:
    behaviour = Behaviour(auth="bearer", forbidden=("team/app",))
    async with FakeRegistry(images.store.root, behaviour) as fake:
        report = await check_connection(registry(fake.url, **KNOWN), wanted=lambda name: name.startswith("team/"))
        assert (report.can_pull, report.usable) == (True, True)
        assert codes(report) == ["forbidden", "plain_http"]
        assert "not everything can be read" in report.notices[0].message
        report = await check(fake.url, names=("team/app", "none"), **KNOWN)
        assert (report.can_pull, report.problem, failed(report)) == (False, "forbidden", "tags")


@pytest.mark.parametrize(("kind", "step"), [("tags", "tags"), ("manifest", "manifest"), ("blob", "blob")])
async def test_a_step_that_fails_says_what_to_do(images: Images, kind: str, step: str) -> None:
    async with FakeRegistry(images.store.root, Behaviour(fail={kind: [403] * 9})) as fake:
        report = await check(fake.url, names=("team/app",))
        assert failed(report) == step
        assert report.advice
        assert (report.can_pull, report.problem) == (False, "forbidden")


async def test_a_tag_without_its_manifest_is_passed_over(images: Images) -> None:
    async with FakeRegistry(images.store.root, Behaviour(tags=["v1", "gone"])) as fake:
        report = await check(fake.url, names=("team/app",))
        assert (report.can_pull, report.usable) == (True, True)
    async with FakeRegistry(images.store.root, Behaviour(tags=["gone"])) as fake:
        report = await check(fake.url, names=("team/app",))
        assert (report.can_pull, report.problem, failed(report)) == (False, "not_found", "manifest")


async def test_an_image_that_is_held_back_is_no_failure(images: Images) -> None:
    async with FakeRegistry(images.store.root, Behaviour(fail={"manifest": [412] * 9})) as fake:
        report = await check(fake.url, names=("team/app",))
        assert (report.can_pull, report.usable, outcomes(report)["manifest"]) == (None, True, "skipped")
        assert codes(report) == ["withheld"]


async def test_rate_limited_says_when(images: Images) -> None:
    before = time.time()
    for kind in ("base", "catalog"):
        async with FakeRegistry(images.store.root, Behaviour(fail={kind: [429] * 9}, retry_after="120")) as fake:
            report = await check(fake.url)
            assert (report.reachable, report.problem, report.usable) == (True, "rate_limited", False)
            assert "again in 120 s, at 20" in report.detail
            assert fake.count(kind) == 1
            assert report.can_pull is None
    assert time.time() - before < 10


async def test_a_listing_that_breaks_off_is_pointed_out(images: Images) -> None:
    async with FakeRegistry(images.store.root, Behaviour(page=1, fail_later_pages=True)) as fake:
        report = await check(fake.url)
        assert report.source is not None
        assert not report.source.complete
        assert "partial_listing" in codes(report)


async def test_a_large_registry_is_not_listed_to_its_end(images: Images) -> None:
    async with FakeRegistry(images.store.root, Behaviour(pages="endless")) as fake:
        report = await check(fake.url)
        assert codes(report) == []
        assert fake.count("catalog") == 5
        assert " or more repositories by _catalog" in report.steps[5].detail
        assert report.source is not None
        assert not report.source.complete


# -- before there is an answer -----------------------------------------------------------------------------------------


async def test_a_name_without_an_address() -> None:
    report = await check("https://no-such-host.invalid")
    assert (report.reachable, report.problem, failed(report)) == (False, "dns", "resolve")
    assert "cannot be resolved" in report.detail
    assert "DNS" in report.advice
    assert (report.latency_ms, report.authenticated, report.access) == (None, False, "none")


async def test_a_port_where_nobody_listens() -> None:
    report = await check(f"http://127.0.0.1:{free_port()}")
    assert (report.reachable, report.problem, failed(report)) == (False, "refused", "connect")
    assert outcomes(report)["resolve"] == "ok"
    assert "Connection refused" in report.detail
    assert "firewall" in report.advice


async def test_a_registry_that_says_nothing(images: Images) -> None:
    async with FakeRegistry(images.store.root, Behaviour(hang="base")) as fake:
        report = await check(fake.url, limits=Limits(idle_seconds=0.05))
        assert (report.reachable, report.problem, failed(report)) == (False, "timeout", "ping")
        assert "did not answer in time" in report.detail
        assert outcomes(report)["connect"] == "ok"


async def test_an_unknown_authority_is_named(images: Images, tmp_path: Path) -> None:
    context = Authority("Lab CA").server_context(tmp_path)
    async with FakeRegistry(images.store.root, ssl_context=context) as fake:
        for url in (fake.url, fake.host):
            report = await check(url, **KNOWN)
            assert (report.reachable, report.problem, failed(report)) == (False, "tls_untrusted", "tls")
            assert "issued by Lab CA, Example Org, is not trusted" in report.detail
            assert "ca_file" in report.advice
            assert outcomes(report)["connect"] == "ok"
        assert fake.seen == []


async def test_an_expired_certificate_is_told_with_both_clocks(images: Images, tmp_path: Path) -> None:
    valid = dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2021, 2, 3, 4, 5, tzinfo=dt.UTC)
    authority = Authority("Old CA", valid=valid)
    ca_file = authority.write(tmp_path / "ca")
    async with FakeRegistry(images.store.root, ssl_context=authority.server_context(tmp_path)) as fake:
        report = await check(fake.url, ca_file=ca_file)
        assert (report.problem, failed(report)) == ("tls_expired", "tls")
        assert "issued by Old CA, Example Org, has expired on 2021-02-03 04:05 UTC" in report.detail
        assert "by this machine's clock" in report.advice
    later = dt.datetime(2100, 1, 1, tzinfo=dt.UTC), dt.datetime(2101, 1, 1, tzinfo=dt.UTC)
    authority = Authority("New CA", valid=later)
    ca_file = authority.write(tmp_path / "ca")
    async with FakeRegistry(images.store.root, ssl_context=authority.server_context(tmp_path)) as fake:
        report = await check(fake.url, ca_file=ca_file)
        assert report.problem == "tls_expired"
        assert "is not valid yet, it begins on 2100-01-01" in report.detail


async def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    authority = Authority(names=("registry.example",))
    ca_file = authority.write(tmp_path / "ca")
    context = authority.server_context(tmp_path)
    async with answering(always(text="{}"), context=context, host="127.0.0.2") as url:
        report = await check(url, ca_file=ca_file)
        assert (report.problem, failed(report)) == ("tls_name", "tls")
        assert "is for another name" in report.detail
        assert "it is for localhost, registry.example, 127.0.0.1" in report.detail
        assert "use a name that the certificate is for" in report.advice


async def test_a_file_of_authorities_that_is_none(images: Images, tmp_path: Path) -> None:
    report = await check("https://127.0.0.1:1", ca_file=str(tmp_path / "none.pem"))
    assert (report.reachable, report.problem, failed(report)) == (False, "configuration", "tls")
    assert outcomes(report)["connect"] == "skipped"


async def test_http_on_an_https_port_and_the_reverse(images: Images, tmp_path: Path) -> None:
    async with FakeRegistry(images.store.root, Behaviour(auth="basic")) as fake:
        report = await check(f"https://{fake.host}", **KNOWN)
        assert (report.reachable, report.problem, failed(report)) == (False, "not_tls", "tls")
        assert "does not speak TLS" in report.detail
        assert "plain-HTTP port" in report.advice
    context = Authority().server_context(tmp_path)
    async with FakeRegistry(images.store.root, ssl_context=context) as fake:
        report = await check(f"http://{fake.host}", **KNOWN)
        assert (report.reachable, report.problem, failed(report)) == (False, "tls_only", "tls")
        assert "speaks TLS, but was asked in plain HTTP" in report.detail
        assert "https://" in report.advice


async def test_a_web_server_that_explains_that_its_port_is_for_https() -> None:
    page = "<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>"
    async with answering(always(status=400, text=page, content_type="text/html")) as url:
        report = await check(url)
        assert "the port speaks TLS" in report.detail
        assert "https://" in report.advice


async def test_a_service_that_is_not_http(images: Images) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        report = await check(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        assert (report.reachable, report.problem, failed(report)) == (False, "network", "ping")
        assert "not HTTP" in report.detail


# -- plain HTTP that was not allowed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auth", "access", "words"),
    [("none", "anonymous", "answers without a login"), ("basic", "none", "reachable but unauthenticated")],
)
async def test_plain_http_is_tested_without_a_credential(images: Images, auth: str, access: str, words: str) -> None:
    async with FakeRegistry(images.store.root, Behaviour(auth=auth)) as fake:  # type: ignore[arg-type]
        for url in (fake.url, fake.host):
            fake.forget()
            report = await check(url, insecure=False, **KNOWN)
            assert (report.reachable, report.authenticated, report.access) == (True, False, access)
            assert report.detail == f"{words}: plain HTTP, tested without a credential"
            assert (report.problem, report.usable) == ("insecure", False)
            assert "insecure: true" in report.advice
            assert outcomes(report)["login"] == "skipped"
            assert [(seen.kind, seen.authorization) for seen in fake.seen] == [("base", "")]


async def test_plain_http_that_is_not_there_either(tmp_path: Path) -> None:
    report = await check(
        f"http://127.0.0.1:{free_port()}", insecure=False, password=FromFile(str(tmp_path / "missing"))
    )
    assert (report.reachable, report.problem) == (False, "refused")
    report = await check("http://user@host", insecure=False)
    assert (report.reachable, report.problem) == (False, "configuration")


async def test_a_credential_over_plain_http_that_is_allowed_is_pointed_out(images: Images) -> None:
    async with FakeRegistry(images.store.root, Behaviour(auth="basic")) as fake:
        report = await check(fake.url, **KNOWN)
        assert (report.usable, codes(report)) == (True, ["plain_http"])


async def test_a_redirect_to_https(images: Images) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=308, headers={"Location": f"https://{request.host}{request.path}"})

    async with answering(handle) as url:
        for insecure in (True, False):
            report = await check(url, insecure=insecure)
            assert (report.problem, failed(report)) == ("tls_only", "ping")
            assert "redirected to https://" in report.detail
            assert "write https://" in report.advice


# -- something else answers --------------------------------------------------------------------------------------------


async def test_a_portals_page() -> None:
    for answer in ({"status": 200}, {"status": 511}):
        async with answering(always(text=PAGE, content_type="text/html", **answer)) as url:
            report = await check(url, **KNOWN)
            assert (report.problem, failed(report)) == ("not_a_registry", "ping")
            assert "a web page ('Hotel & Bar Wi-Fi') instead of a registry's answer" in report.detail
            assert "captive portal" in report.advice


async def test_a_redirect_to_a_login_page() -> None:
    async with answering(always(status=302, headers={"Location": "http://portal.example/login?next=secret"})) as url:
        report = await check(url, **KNOWN)
        assert (report.problem, failed(report)) == ("not_a_registry", "ping")
        assert "redirected to another host, http://portal.example/login" in report.detail
        assert "next=secret" not in report.detail
        assert "captive portal" in report.advice
    async with answering(always(status=302, headers={"Location": "/users/sign_in"})) as url:
        report = await check(url)
        assert "/users/sign_in" in report.detail
        assert "login page" in report.advice
    async with answering(always(status=302, headers={"Location": "ftp://x"})) as url:
        assert (await check(url)).problem == "not_a_registry"


async def test_a_firewalls_page() -> None:
    async with answering(always(status=403, text=HTML, content_type="text/html")) as url:
        report = await check(url)
        assert (report.problem, failed(report)) == ("forbidden", "ping")
        assert "proxy or firewall" in report.advice


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 404, "text": "404 page not found"},
        {"status": 404, "text": HTML, "content_type": "text/html"},
        {"status": 200, "text": '{"service": "prometheus"}', "content_type": "application/json"},
        {"status": 200, "text": "It works!"},
    ],
)
async def test_what_is_not_a_registry(answer: dict[str, Any]) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(**answer)

    async with answering(handle) as url:
        report = await check(url)
        assert (report.reachable, report.problem, report.usable) == (True, "not_a_registry", False)
        assert outcomes(report)["ping"] == "failed"
        assert "check host, port and path" in report.advice


async def test_an_odd_answer_of_a_registry_is_forgiven(images: Images) -> None:
    async with FakeRegistry(images.store.root, Behaviour(raw={"base": b'{"version": "2"}'})) as fake:
        report = await check(fake.url)
        assert (report.usable, report.problem) == (True, "")


# -- proxies -----------------------------------------------------------------------------------------------------------


async def test_through_a_proxy(images: Images, tmp_path: Path) -> None:
    async with FakeRegistry(images.store.root) as fake, FakeProxy(user="u", password="pw") as proxy:
        report = await check(fake.url, http=Http(proxy=proxy.url))
        assert report.usable
        assert outcomes(report)["resolve"] == "skipped"
        assert report.steps[1].detail.startswith("through the proxy 127.0.0.1:")
        assert "pw" not in report.steps[1].detail


@pytest.mark.parametrize("url", ["https://registry.example", "http://registry.example"])
async def test_a_proxy_that_wants_a_login(url: str) -> None:
    async with FakeProxy(user="u", password="p4ss") as proxy:
        report = await check(url, http=Http(proxy=proxy.url.replace("p4ss", "wr0ng")))
        assert (report.reachable, report.problem, failed(report)) == (False, "proxy_refused", "connect")
        assert "the proxy refused registry.example with status 407" in report.detail
        assert "the proxy wants a login" in report.advice
        assert "wr0ng" not in json.dumps(describe_report(report))


@pytest.mark.parametrize(("status", "advice"), [(403, "proxy's rules"), (502, "may not resolve or reach the host")])
async def test_a_proxy_that_refuses_the_tunnel(status: int, advice: str) -> None:
    async with FakeProxy(refuse=status) as proxy:
        report = await check("https://registry.example", http=Http(proxy=proxy.url))
        assert (report.reachable, report.problem) == (False, "proxy_refused")
        assert advice in report.advice


@pytest.mark.parametrize("proxy", ["http://u:s3cret@127.0.0.1:{port}", "http://u:s3cret@no-such-proxy.invalid:3128"])
async def test_a_proxy_that_is_away(proxy: str) -> None:
    report = await check("https://registry.example", http=Http(proxy=proxy.format(port=free_port())))
    assert (report.reachable, report.problem, failed(report)) == (False, "proxy_unreachable", "connect")
    assert "the proxy for registry.example cannot be reached" in report.detail
    assert "http.proxy" in report.advice
    assert "s3cret" not in json.dumps(describe_report(report))


# -- clocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "words"), [(-3600, "60 minutes ahead of"), (4 * 3600, "4 hours behind")])
async def test_a_wrong_clock_is_a_warning_and_the_first_advice_when_the_login_fails(seconds: int, words: str) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(
            status=401,
            headers={"Date": formatdate(time.time() + seconds, usegmt=True), "WWW-Authenticate": 'Basic realm="x"'},
        )

    async with answering(handle) as url:
        report = await check(url, **KNOWN)
        assert report.clock_skew == pytest.approx(-seconds, abs=3)
        assert codes(report)[0] == "clock_skew"
        assert report.notices[0].message == f"this machine's clock is {words} the registry's"
        assert report.advice.startswith(report.notices[0].message)
        assert "check user name and password" in report.advice
        assert describe_report(report)["clockSkewSeconds"] == pytest.approx(-seconds, abs=3)


async def test_a_small_difference_is_none(images: Images) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.json_response({"repositories": []}, headers={"Date": formatdate(time.time() - 200, usegmt=True)})

    async with answering(handle) as url:
        report = await check(url)
        assert report.clock_skew == pytest.approx(200, abs=3)
        assert codes(report) == ["nothing_selected"]


# -- what is known beforehand ------------------------------------------------------------------------------------------


async def test_the_provider_and_why(images: Images) -> None:
    async with FakeRegistry(images.store.root) as fake:
        report = await check(fake.url)
        assert (report.provider, report.provider_title) == ("distribution", "OCI Distribution")
        assert "taken for a plain OCI distribution registry" in report.provider_reason
        report = await check(fake.url, provider="distribution")
        assert report.provider_reason == "as configured"


async def test_a_quota_that_the_registry_tells(images: Images) -> None:
    async def handle(request: web.Request) -> web.Response:
        headers = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "93;w=21600"}
        return web.json_response({"repositories": []}, headers=headers)

    async with answering(handle) as url:
        report = await check(url)
        assert report.quota is not None
        assert describe_report(report)["quota"] == {
            "limit": 100,
            "remaining": 93,
            "windowSeconds": 21600.0,
            "source": "",
        }


async def test_a_wrong_guess_is_easy_to_see(images: Images) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.json_response({"repositories": []}, headers={"X-JFrog-Version": "Artifactory/7.90"})

    async with answering(handle) as url:
        report = await check(url)
        assert report.looks_like is not None
        assert (report.looks_like.provider, codes(report)) == ("artifactory", ["provider", "nothing_selected"])
        assert report.notices[0].message.startswith("this looks like JFrog Artifactory (")
        assert report.notices[0].advice == "set provider: artifactory"
        document = describe_report(report)
        assert document["looksLike"] == {
            "provider": "artifactory",
            "title": "JFrog Artifactory",
            "reason": report.looks_like.reason,
        }
        assert (await check(url, provider="artifactory", auth="anonymous")).looks_like is None


async def test_what_the_url_tells_is_passed_on() -> None:
    async with FakeProxy(refuse=403) as proxy:
        report = await check("https://labimages.azurecr.io", http=Http(proxy=proxy.url))
        assert report.provider == "acr"
        assert dict(report.facts)
        assert describe_report(report)["detectedBy"] == {
            "reason": report.provider_reason,
            "facts": dict(report.facts),
        }
        assert proxy.asked == ["labimages.azurecr.io:443"] * len(proxy.asked)


async def test_a_provider_that_there_is_not(images: Images) -> None:
    settings = registry("https://127.0.0.1:1").model_copy(update={"provider": "nothing"})
    report = await check_connection(settings)
    assert (report.problem, report.reachable, report.provider) == ("configuration", False, "nothing")


class Provider:
    """A provider's own API that lists nothing, and tells who we are."""

    def __init__(self, standing: Standing | SensorError) -> None:
        self._standing = standing

    async def repositories(self) -> Listing:
        raise CannotEnumerate("not with this credential")

    async def tags(self, repository: str) -> Listing:
        raise CannotEnumerate("not with this credential")

    async def standing(self) -> Standing:
        if isinstance(self._standing, SensorError):
            raise self._standing
        return self._standing


async def test_the_standing_of_a_credential_is_told(images: Images, connect: Connect) -> None:
    now = 1_800_000_000.0
    told = Standing(identity="robot$ci", expires=now + 3.5 * 86400, may_write=True, detail="Harbor API")
    async with (
        FakeRegistry(images.store.root, Behaviour(auth="basic")) as fake,
        connect(fake.url, native=lambda _session: Provider(told), **KNOWN) as client,
    ):
        report = await check_registry(client, now=lambda: now)
        assert (report.identity, report.may_write, report.usable) == ("robot$ci", True, True)
        assert codes(report)[-3:] == ["expires_soon", "may_write", "plain_http"]
        assert describe_report(report)["credentialExpires"] == "2027-01-18T20:00:00Z"
    async with (
        FakeRegistry(images.store.root, Behaviour(auth="basic")) as fake,
        connect(fake.url, native=lambda _session: Provider(RegistryForbidden("no scope")), **KNOWN) as client,
    ):
        report = await check_registry(client)
        assert (report.standing, report.may_write, report.usable) == ("not told: no scope", None, True)


async def test_a_bearer_token_tells_its_own_end(images: Images, connect: Connect) -> None:
    token = jwt({"sub": "ci", "exp": 1000})
    async with (
        FakeRegistry(images.store.root, Behaviour(auth="bearer", static_token=token)) as fake,
        connect(fake.url, token=token) as client,
    ):
        report = await check_registry(client)
        assert (report.credential_expires, report.authenticated) == (1000.0, True)
        assert "expired" in codes(report)
        assert token not in json.dumps(describe_report(report))


async def test_nothing_secret_is_in_a_report(images: Images) -> None:
    for behaviour in (Behaviour(auth="basic"), Behaviour(auth="bearer"), Behaviour(auth="bearer", no_catalog=True)):
        for secret in ("secret", "wr0ng-s3cret"):
            async with FakeRegistry(images.store.root, behaviour) as fake:
                report = await check(fake.url, username="user", password=f"X{secret}X", names=("team/app",))
                assert f"X{secret}X" not in repr(report) + json.dumps(describe_report(report))


# -- nothing to log in with, nothing to look at --------------------------------------------------------------------------------


async def test_a_docker_config_without_an_entry_is_said_and_comes_first_in_the_advice(
    images: Images, tmp_path: Path
) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"auths": {"other:5901": {"username": "u", "password": "p"}}}))
    for behaviour in (Behaviour(auth="basic"), Behaviour(auth="bearer")):
        async with FakeRegistry(images.store.root, behaviour) as fake:
            report = await check(fake.url, docker_config={"path": str(path)})
            expected = f"{path} has no entry for {fake.host} (it has: other:5901)"
            assert report.advice.startswith(f"{expected}; ")
            assert report.detail.startswith("reachable but unauthenticated")
    async with FakeRegistry(images.store.root) as fake:
        report = await check(fake.url, docker_config={"path": str(path)})
        assert (report.usable, codes(report)) == (True, ["no_credential"])
        assert report.notices[0].message.endswith("(it has: other:5901)")


async def test_patterns_that_leave_nothing_are_said(images: Images) -> None:
    async with FakeRegistry(images.store.root) as fake:
        for names in ((), ("team/app",)):
            settings = registry(fake.url, names=names)
            report = await check_connection(settings, wanted=lambda name: name.startswith("taem/"))
            assert codes(report) == ["nothing_selected"]
            assert "include" in report.notices[0].advice
            assert fake.count("tags", "manifest") == 0


async def test_every_configured_name_is_looked_for(images: Images) -> None:
    async with FakeRegistry(images.store.root) as fake:
        report = await check(fake.url, names=("team/app", "team/ghost", "team/gone"))
        assert (report.can_pull, report.usable, report.problem, failed(report)) == (True, False, "not_found", "tags")
        assert "team/ghost" in report.steps[6].detail
        assert "(and 1 more)" in report.steps[6].detail
        report = await check(fake.url, names=("team/app", "team/other"))
        assert (report.usable, report.notices) == (True, ())
        report = await check(fake.url, names=("team/app",) * 30)
        assert codes(report) == ["not_all_tried"]
        assert fake.count("tags") <= 60


async def test_a_failed_login_names_the_user(images: Images) -> None:
    async with FakeRegistry(images.store.root, Behaviour(auth="basic")) as fake:
        report = await check(fake.url, username="sensor", password="wr0ng")
        assert report.detail.endswith("(logging in as sensor)")
        report = await check(fake.url, token="abc")
        assert report.advice.startswith("the registry asks for user name and password, not for a bearer token")


async def test_what_the_registry_looks_like_is_the_first_thing_to_do() -> None:
    async def handle(_request: web.Request) -> web.Response:
        realm = 'Bearer realm="https://gitlab.example/jwt/auth",service="container_registry"'
        return web.json_response({}, status=401, headers={"WWW-Authenticate": realm})

    async with answering(handle) as url:
        report = await check(url, **KNOWN)
        assert not report.usable
        assert report.advice.startswith("set provider: gitlab; this looks like GitLab (")
        assert not (await check(url, provider="gitlab", **KNOWN)).advice.startswith("set provider")


async def test_an_unreadable_secret_ends_the_login_and_nothing_before_it(images: Images, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    async with FakeRegistry(images.store.root, Behaviour(auth="basic")) as fake:
        report = await check(fake.url, username="sensor", password=FromFile(str(tmp_path / "empty")))
        assert report.detail == f"file {tmp_path / 'empty'} is empty"
        assert [step.detail for step in report.steps[5:]] == ["not logged in"] * 4


async def test_images_that_are_not_there_were_not_connected_to(tmp_path: Path) -> None:
    report = await check_connection(Registry.model_validate({"name": "x", "url": f"oci:{tmp_path}/none"}))
    assert {step.outcome for step in report.steps[:3]} == {"skipped"}
    assert failed(report) == "ping"
