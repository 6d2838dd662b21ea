from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from sensor.config.schema import S3
from sensor.errors import NetworkError
from sensor.identity.aws_errors import AwsRefused, NoIdentity
from sensor.identity.s3 import S3Bucket
from sensor.limits import Limits
from sensor.route import Route
from sensor.secret import InPlace, Secret
from tests.fakes.docker_registry import free_port
from tests.fakes.moto_server import moto_server
from tests.fakes.proxy import FakeProxy


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with moto_server() as url:
        client(url).create_bucket(Bucket="reports")
        yield url


def client(endpoint: str) -> Any:
    import boto3

    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )


def bucket(endpoint: str, route: Route | None = None, **more: Any) -> S3Bucket:
    settings = {"bucket": "reports", "access_key_id": "AKIAEXAMPLE", "secret_access_key": InPlace(Secret("s3cret"))}
    made = S3.model_validate({**settings, "endpoint": endpoint, **more})
    return S3Bucket(made, route or Route(), limits=Limits(connect_seconds=1.0, idle_seconds=1.0))


async def test_an_object_is_stored(endpoint: str) -> None:
    await bucket(endpoint).put("scans/1/sbom.cdx.json", b"{}", "application/vnd.cyclonedx+json")
    found = await asyncio.to_thread(client(endpoint).get_object, Bucket="reports", Key="scans/1/sbom.cdx.json")
    assert (found["ContentType"], found["Body"].read()) == ("application/vnd.cyclonedx+json", b"{}")


async def test_the_machines_identity_will_do(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    await bucket(endpoint, access_key_id="", secret_access_key=None).put("scans/2/x", b"x", "text/plain")
    assert await asyncio.to_thread(client(endpoint).head_object, Bucket="reports", Key="scans/2/x")


async def test_what_goes_wrong_is_told(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AwsRefused, match="NoSuchBucket"):
        await bucket(endpoint, bucket="elsewhere").put("scans/1/x", b"", "text/plain")
    with pytest.raises(NetworkError):
        await bucket(f"http://127.0.0.1:{free_port()}").put("scans/1/x", b"", "text/plain")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(NoIdentity):
        await bucket(endpoint, access_key_id="", secret_access_key=None).put("scans/1/x", b"", "text/plain")


async def test_the_sensors_proxy_is_used_and_the_bucket_stands_in_the_path(endpoint: str) -> None:
    async with FakeProxy() as proxy:
        await bucket(endpoint.replace("127.0.0.1", "localhost"), Route(proxy=proxy.url)).put(
            "scans/1/x", b"", "text/plain"
        )
        (asked,) = proxy.asked
    assert asked.partition("//")[2].partition("/")[2] == "reports/scans/1/x"


def test_the_sdk_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys; from sensor.identity.s3 import S3Bucket; from sensor.config.schema import S3; from sensor.route import Route; "
        "S3Bucket(S3(bucket='reports'), Route()); print([m for m in ('boto3', 'botocore') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
