from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sensor.config.logins import Aws
from sensor.errors import ConfigError, NetworkError, SecretError
from sensor.identity.aws import AwsIdentity, Patience, Place
from sensor.identity.aws_errors import AwsRefused, NoIdentity
from sensor.limits import Limits
from sensor.route import Route
from tests.fakes.aws import ACCOUNT, OTHER_ACCOUNT, Container, Iam, Metadata, Served, Sts
from tests.fakes.certificates import Authority
from tests.fakes.moto_server import moto_server
from tests.fakes.proxy import FakeProxy

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


class Cloud:
    """STS, metadata and container credentials on loopback, and the environment that leads there."""

    def __init__(self) -> None:
        self.iam = Iam()
        self.user = self.iam.user()
        self.sts = Sts(iam=self.iam)
        self.metadata = Metadata(iam=self.iam)
        self.container = Container(iam=self.iam)
        self.sts_url = self.container_url = ""

    def identity(self, *, region: str = "eu-west-1", route: Route | None = None, **settings: Any) -> AwsIdentity:
        more = {name: settings.pop(name) for name in ("limits", "clock") if name in settings}
        patience = {
            name: settings.pop(name) for name in ("seconds", "metadata_seconds", "attempts") if name in settings
        }
        place = Place(region=region, endpoints={"sts": self.sts_url})
        return AwsIdentity(
            Aws.model_validate(settings),
            place,
            route or Route(),
            patience=Patience(**{"attempts": 1, **patience}),
            **more,
        )

    def by_key(self, **settings: Any) -> AwsIdentity:
        return self.identity(access_key_id=self.user.id, secret_access_key=self.user.secret, **settings)


@pytest.fixture
async def cloud(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cloud]:
    cloud = Cloud()
    async with Served(cloud.sts) as sts, Served(cloud.metadata) as metadata, Served(cloud.container) as container:
        cloud.sts_url, cloud.container_url = sts.url, container.url
        for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_CA_BUNDLE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        yield cloud


async def test_what_is_repeated_of_a_container_token_is_not_shown(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def repeating(request: web.Request) -> web.StreamResponse:
        return web.Response(status=403, text=f"no right for {request.headers['Authorization']}")

    async with Served(repeating) as container:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{container.url}/task")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "s3cret-container-token")
        with pytest.raises(NoIdentity, match=r"no right for \*\*\*") as refused:
            await cloud.identity().who()
    assert refused.value.__cause__ is None
    assert "s3cret" not in repr(refused.value)


async def test_a_closed_identity_has_let_go_of_its_clients(cloud: Cloud) -> None:
    identity = cloud.by_key()
    await identity.close()  # before anything was asked
    identity = cloud.by_key()
    await identity.who()
    assert identity._open is not None
    await identity.close()
    assert identity._open is None


# --- configured keys ----------------------------------------------------------------------------------------------------------


async def test_an_access_key_says_who_it_is_and_no_metadata_is_asked(cloud: Cloud) -> None:
    identity = cloud.by_key()
    caller = await identity.who()
    assert caller.arn == f"arn:aws:iam::{ACCOUNT}:user/sensor"
    assert (caller.account, caller.via) == (ACCOUNT, "access key")
    assert cloud.metadata.asked == []
    assert cloud.container.asked == []


async def test_a_temporary_key_needs_its_token(cloud: Cloud) -> None:
    key = cloud.iam.session(f"arn:aws:iam::{ACCOUNT}:role/build")
    whole = cloud.identity(access_key_id=key.id, secret_access_key=key.secret, session_token=key.token)
    assert (await whole.who()).arn.endswith("assumed-role/build/session")
    with pytest.raises(AwsRefused, match="InvalidClientTokenId") as refused:
        await cloud.identity(access_key_id=key.id, secret_access_key=key.secret).who()
    assert refused.value.category == "credential"
    assert "aws.session_token" in refused.value.advice


async def test_a_wrong_secret_is_a_wrong_signature(cloud: Cloud) -> None:
    with pytest.raises(AwsRefused, match="sts:GetCallerIdentity: InvalidSignatureException") as refused:
        await cloud.identity(access_key_id=cloud.user.id, secret_access_key=SECRET).who()
    assert "aws.secret_access_key" in refused.value.advice
    assert SECRET not in f"{refused.value!r} {refused.value}"


async def test_an_expired_key_is_told_from_a_wrong_one(cloud: Cloud) -> None:
    cloud.user.state = "expired"
    with pytest.raises(AwsRefused) as refused:
        await cloud.by_key().who()
    assert refused.value.category == "expired"
    assert "role, which is renewed" in refused.value.advice


@pytest.mark.parametrize("broken", ["line\nbreak", "ümlaut", "tab\t"])
async def test_a_secret_that_no_key_can_be_is_refused_without_being_shown(cloud: Cloud, broken: str) -> None:
    with pytest.raises(SecretError, match="secret access key") as refused:
        await cloud.identity(access_key_id=cloud.user.id, secret_access_key=broken).who()
    assert broken not in str(refused.value)
    with pytest.raises(SecretError, match=r"aws\.session_token"):
        await cloud.by_key(session_token=broken).who()
    assert cloud.sts.asked == []


async def test_half_a_key_is_an_error(cloud: Cloud) -> None:
    with pytest.raises(SecretError, match="no secret key"):
        await cloud.identity(access_key_id=cloud.user.id).who()


async def test_nothing_secret_shows_in_a_repr(cloud: Cloud) -> None:
    identity = cloud.by_key()
    await identity.who()
    assert cloud.user.secret not in repr(identity) + repr(vars(identity))


async def test_a_key_that_was_rotated_is_read_again(cloud: Cloud, tmp_path: Path) -> None:
    now = [0.0]
    secret = tmp_path / "secret"
    secret.write_text(cloud.user.secret)
    identity = cloud.identity(
        access_key_id=cloud.user.id, secret_access_key={"file": str(secret)}, clock=lambda: now[0]
    )
    await identity.who()
    cloud.user.secret = "another/secret"
    with pytest.raises(AwsRefused):
        await identity.who()  # read a moment ago
    now[0] = 60.0
    secret.write_text(cloud.user.secret)
    assert (await identity.who()).account == ACCOUNT


# --- the machine's identity ---------------------------------------------------------------------------------------------------


async def test_the_role_of_the_instance_is_had_by_version_2_alone(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_V1_DISABLED", "false")
    caller = await cloud.identity().who()
    assert "assumed-role/instance/" in caller.arn
    assert caller.via == "instance role (IMDSv2) [iam-role]"
    assert cloud.metadata.asked[0] == "PUT /latest/api/token"


@pytest.mark.parametrize("status", [403, 404, 405, 400])
async def test_a_refused_token_is_not_followed_by_version_1(
    cloud: Cloud, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_V1_DISABLED", "false")
    cloud.metadata.refuse = status
    with pytest.raises(NoIdentity) as none:
        await cloud.identity().who()
    assert none.value.advice
    assert not any(one.startswith("GET") for one in cloud.metadata.asked)


async def test_a_token_that_never_arrives_names_the_hop_limit(cloud: Cloud) -> None:
    cloud.metadata.hang = asyncio.Event()
    try:
        with pytest.raises(NoIdentity, match="no IMDSv2 token") as none:
            await cloud.identity(metadata_seconds=0.2).who()
    finally:
        cloud.metadata.hang.set()
    assert "--http-put-response-hop-limit 2" in none.value.advice


async def test_metadata_is_never_asked_through_a_proxy(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeProxy() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert "assumed-role/instance/" in (await cloud.identity().who()).arn
        assert proxy.asked == []


@pytest.mark.parametrize("disabled", [True, False])
async def test_a_machine_without_any_identity(cloud: Cloud, disabled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.metadata.role = ""
    if disabled:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(NoIdentity, match="no AWS credentials were found") as none:
        await cloud.identity().who()
    assert "aws.access_key_id" in none.value.advice
    assert bool(cloud.metadata.asked) is not disabled


async def test_many_calls_at_once_look_for_the_identity_once(cloud: Cloud) -> None:
    identity = cloud.identity()
    callers = await asyncio.gather(*(identity.who() for _ in range(12)))
    assert len({caller.arn for caller in callers}) == 1
    assert cloud.metadata.asked.count("PUT /latest/api/token") == 1


async def test_expired_keys_from_the_metadata_service_do_not_stop_us(cloud: Cloud) -> None:
    identity = cloud.identity()
    cloud.metadata.expires = (dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    # the SDK keeps using keys that metadata gives out as expired, and asks again soon: a fault of AWS's must not stop us
    assert (await identity.who()).account == ACCOUNT


@pytest.mark.parametrize("pod", [True, False])
async def test_a_container_has_the_role_of_its_task_or_pod(
    cloud: Cloud, pod: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "eks-pod-identity-token"
    token.write_text("container-token")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{cloud.container_url}/v1/credentials")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-token")
    if pod:
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(token))
    caller = await cloud.identity().who()
    assert "assumed-role/task/" in caller.arn
    assert caller.via == ("EKS Pod Identity [container-role]" if pod else "container role [container-role]")
    assert cloud.metadata.asked == []


@pytest.mark.parametrize(
    ("variables", "answer", "said", "advice"),
    [
        ({"AWS_CONTAINER_AUTHORIZATION_TOKEN": "token\n"}, None, "ends with a line break", "printf"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://192.0.2.1/x"}, None, "may not be asked", "loopback"),
        ({"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/nonexistent/token"}, None, "/nonexistent/token", "path"),
        ({}, {"Code": "none"}, "not understood", "endpoint"),
        ({}, {"AccessKeyId": "a", "SecretAccessKey": "b", "Token": "c", "Expiration": "2001-01-01T00:00:00Z"}, "expired", "clock"),
    ],
)  # fmt: skip
async def test_a_container_without_credentials_says_why(
    cloud: Cloud,
    variables: dict[str, str],
    answer: dict[str, str] | None,
    said: str,
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cloud.container.answer = answer
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{cloud.container_url}/creds")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-token")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NoIdentity, match=said) as none:
        await cloud.identity().who()
    assert advice in none.value.advice


async def test_a_web_identity_wins_over_a_pod_identity(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = cloud.iam.role("irsa", web_token="web.identity.token")
    token = tmp_path / "token"
    token.write_text("web.identity.token")
    monkeypatch.setenv("AWS_ROLE_ARN", role.arn)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{cloud.container_url}/v1/credentials")
    caller = await cloud.identity().who()
    assert "assumed-role/irsa/" in caller.arn
    assert caller.via == "web identity (IRSA) [assume-role-with-web-identity]"
    assert cloud.container.asked == []

    token.write_text("of another cluster")
    with pytest.raises(AwsRefused, match="sts:AssumeRoleWithWebIdentity: InvalidIdentityToken") as refused:
        await cloud.identity().who()
    assert "OIDC provider" in refused.value.advice

    token.unlink()
    with pytest.raises(NoIdentity, match="No such file"):
        await cloud.identity().who()


async def test_profiles_and_their_mistakes(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "credentials"
    key = f"aws_access_key_id = {cloud.user.id}\naws_secret_access_key = {cloud.user.secret}\n"
    role = cloud.iam.role("profile", trusts="user/sensor")
    file.write_text(
        f"[keys]\n{key}\n[half]\naws_access_key_id = {cloud.user.id}\n"
        f"[role]\nrole_arn = {role.arn}\nsource_profile = keys\n"
        f"[instance]\nrole_arn = {role.arn}\ncredential_source = Ec2InstanceMetadata\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOFTHEENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    assert (await cloud.identity(profile="keys").who()).via == "access key of a profile [shared-credentials-file]"
    caller = await cloud.identity(profile="role").who()
    assert "assumed-role/profile" in caller.arn
    assert caller.via == "role of a profile [assume-role]"
    with pytest.raises(SecretError, match="nosuch") as missing:
        await cloud.identity(profile="nosuch").who()
    assert "aws.profile" in missing.value.advice
    with pytest.raises(SecretError, match="Partial credentials"):
        await cloud.identity(profile="half").who()
    cloud.metadata.refuse = 403
    with pytest.raises(SecretError):
        await cloud.identity(profile="instance").who()
    assert not any(one.startswith("GET") for one in cloud.metadata.asked)


async def test_a_broken_configuration_file_is_named(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config"
    file.write_text("not an ini file")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    with pytest.raises(SecretError, match=str(file)):
        await cloud.identity().who()


async def test_the_region_comes_from_the_environment_or_is_missed(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="no AWS region") as none:
        await cloud.by_key(region="").who()
    assert "aws.region" in none.value.advice
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert (await cloud.by_key(region="").who()).account == ACCOUNT
    with pytest.raises(ConfigError):
        await cloud.by_key(region="not a region").who()


# --- roles --------------------------------------------------------------------------------------------------------------------


async def test_roles_are_assumed_one_after_the_other(cloud: Cloud) -> None:
    middle = cloud.iam.role("middle", trusts="user/sensor", external_id="one two")
    last = cloud.iam.role("last", OTHER_ACCOUNT, trusts="assumed-role/middle/")
    roles = [{"arn": middle.arn, "external_id": "one two"}, {"arn": last.arn, "session_name": "my-session"}]
    caller = await cloud.by_key(assume_roles=roles).who()
    assert caller.arn == f"arn:aws:sts::{OTHER_ACCOUNT}:assumed-role/last/my-session"
    assert caller.via == f"access key, then the role {middle.arn}, then the role {last.arn}"


async def test_a_role_that_does_not_trust_us_says_what_to_do(cloud: Cloud) -> None:
    role = cloud.iam.role("reader", trusts="user/sensor", external_id="right")
    with pytest.raises(AwsRefused, match="sts:AssumeRole: AccessDenied") as refused:
        await cloud.by_key(assume_roles=[{"arn": role.arn, "external_id": "wrong"}]).who()
    assert "trust policy" in refused.value.advice
    assert "external_id" in refused.value.advice
    assert cloud.user.arn in refused.value.advice
    with pytest.raises(ConfigError):
        await cloud.by_key(assume_roles=[{"arn": role.arn, "session_name": "x"}]).who()


async def test_a_roles_keys_are_renewed_before_they_end(cloud: Cloud) -> None:
    role = cloud.iam.role("reader", trusts="user/sensor")
    cloud.sts.life = (dt.datetime.now(dt.UTC) + dt.timedelta(minutes=12)).isoformat()
    identity = cloud.by_key(assume_roles=[{"arn": role.arn}])
    await identity.who()
    before = [one["Action"] for one in cloud.sts.asked].count("AssumeRole")
    await identity.who()
    assert [one["Action"] for one in cloud.sts.asked].count("AssumeRole") == before + 1
    role.trusts = "nobody"
    assert (await identity.who()).account == ACCOUNT  # the old keys are good for 12 minutes yet


# --- the way there ------------------------------------------------------------------------------------------------------------


async def test_calls_take_the_sensors_own_proxy_and_its_exceptions(cloud: Cloud) -> None:
    hosts: list[str] = []

    async def proxy(request: web.Request) -> web.StreamResponse:
        hosts.append(request.host)
        return await cloud.sts(request)

    async with Served(proxy) as server:
        cloud.sts_url = "http://sts.invalid"
        assert (await cloud.by_key(route=Route(proxy=server.url)).who()).account == ACCOUNT
        assert hosts == ["sts.invalid"]
        with pytest.raises(NetworkError):
            await cloud.by_key(route=Route(proxy=server.url, no_proxy=("sts.invalid",))).who()
        assert hosts == ["sts.invalid"]


async def test_a_proxy_that_is_away_is_named(cloud: Cloud) -> None:
    identity = cloud.by_key(route=Route(proxy="http://127.0.0.1:1"))
    with pytest.raises(NetworkError, match="the proxy cannot be reached"):
        await identity.who()


async def test_an_endpoint_that_is_away_names_the_vpc_endpoints(cloud: Cloud) -> None:
    cloud.sts_url = "http://127.0.0.1:1"
    with pytest.raises(NetworkError, match="sts:GetCallerIdentity") as away:
        await cloud.by_key().who()
    assert away.value.retryable
    for name in ("ecr.api", "ecr.dkr", "S3 gateway"):
        assert name in away.value.advice


@pytest.mark.parametrize(
    "patience", [{"limits": Limits(idle_seconds=0.2)}, {"seconds": 0.3, "limits": Limits(idle_seconds=1.0)}]
)
async def test_a_call_ends_in_time_and_the_loop_runs_meanwhile(cloud: Cloud, patience: dict[str, Any]) -> None:
    released = asyncio.Event()

    async def hang(_request: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response()

    async with Served(hang) as server:
        cloud.sts_url = server.url
        with pytest.raises(NetworkError) as late:
            await cloud.by_key(**patience).who()
        released.set()
    assert "ecr.api" in late.value.advice


async def test_calls_that_hang_leave_the_threads_of_others_alone(cloud: Cloud) -> None:
    arrived, released = asyncio.Event(), asyncio.Event()

    async def hang(_request: web.Request) -> web.StreamResponse:
        arrived.set()
        await released.wait()
        return web.Response()

    common = concurrent.futures.ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(common)
    async with Served(hang) as server:
        cloud.sts_url = server.url
        hanging = asyncio.create_task(cloud.by_key().who())
        await arrived.wait()
        assert await asyncio.to_thread(lambda: "free") == "free"
        assert not hanging.done()
        hanging.cancel()
        released.set()


@contextlib.asynccontextmanager
async def tls_server(cloud: Cloud, authority: Authority, directory: Path) -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await cloud.sts(request)

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=authority.server_context(directory)).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_private_authority_is_trusted_when_it_is_named(cloud: Cloud, tmp_path: Path) -> None:
    first, second, ca = Authority(), Authority("Second CA"), tmp_path / "ca.pem"
    async with tls_server(cloud, first, tmp_path) as url:
        cloud.sts_url = url
        with pytest.raises(NetworkError, match="SSL") as refused:
            await cloud.by_key().who()
        assert not refused.value.retryable
        assert "ca_file" in refused.value.advice
        ca.write_bytes(second.pem)
        identity = cloud.by_key(route=Route(ca_file=str(ca)))
        with pytest.raises(NetworkError):
            await identity.who()
        ca.write_bytes(first.pem + second.pem)  # it is looked at again
        assert (await identity.who()).account == ACCOUNT
        ca.write_text("no certificate")
        with pytest.raises(ConfigError, match=r"ca\.pem"):
            await identity.who()


async def test_answers_that_are_none(cloud: Cloud) -> None:
    async def nonsense(_request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>portal</html", content_type="text/html")

    async with Served(nonsense) as server:
        cloud.sts_url = server.url
        with pytest.raises(AwsRefused, match="not understood") as odd:
            await cloud.by_key().who()
    assert "proxy" in odd.value.advice


async def test_a_pause_that_aws_asks_for_is_taken_by_the_sdk(cloud: Cloud) -> None:
    left = [2]

    async def throttled(request: web.Request) -> web.StreamResponse:
        if left[0]:
            left[0] -= 1
            text = (
                "<ErrorResponse><Error><Code>Throttling</Code><Message>Rate exceeded</Message></Error></ErrorResponse>"
            )
            return web.Response(status=400, text=text, content_type="text/xml")
        return await cloud.sts(request)

    async with Served(throttled) as server:
        cloud.sts_url = server.url
        with pytest.raises(AwsRefused, match="Rate exceeded") as refused:
            await cloud.by_key(attempts=1).who()
        assert (refused.value.category, refused.value.retryable) == ("throttled", True)
        assert (await cloud.by_key(attempts=2).who()).account == ACCOUNT


# --- moto: AWS's own shapes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


async def test_the_real_sdk_against_moto(
    cloud: Cloud, moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", moto)
    place = Place(region="eu-west-1")

    key = AwsIdentity(Aws(access_key_id="AKIA", secret_access_key="x"), place, Route(), patience=Patience(attempts=1))
    assert (await key.who()).arn == f"arn:aws:sts::{ACCOUNT}:user/moto"  # as moto has it
    answer = await key.call("ecr", "get_authorization_token")
    assert answer["authorizationData"][0]["authorizationToken"]

    instance = AwsIdentity(Aws(), place, Route(), patience=Patience(attempts=1))
    assert (await instance.who()).via == "instance role (IMDSv2) [iam-role]"

    roles = [{"arn": "arn:aws:iam::222222222222:role/x", "external_id": "harbor"}]
    foreign = AwsIdentity(
        Aws.model_validate({"access_key_id": "AKIA", "secret_access_key": "x", "assume_roles": roles}), place, Route()
    )
    assert (await foreign.who()).account == "222222222222"

    token = tmp_path / "token"
    token.write_text("web.identity.token")
    monkeypatch.setenv("AWS_ROLE_ARN", f"arn:aws:iam::{ACCOUNT}:role/irsa")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    irsa = AwsIdentity(Aws(), place, Route(), patience=Patience(attempts=1))
    assert "assumed-role/irsa/" in (await irsa.who()).arn


def test_the_sdk_is_imported_by_nobody_who_has_no_ecr() -> None:
    import subprocess
    import sys

    code = "import sys, sensor.registry.kinds; print([m for m in sys.modules if m.startswith(('boto', 'moto'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
