"""What is said where the SDKs of clouds are left out. Each case is a process of its own, in which their import fails as it does there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sensor.identity.sdk import AWS, AZURE, GOOGLE, Sdk, importing

PROGRAM = """
import asyncio, json, os, sys
sys.modules.update(dict.fromkeys({gone!r}))
from sensor.config.logins import Aws, Azure, Gcp
from sensor.errors import SensorError
from sensor.identity.aws import AwsIdentity, Place
from sensor.identity.azure import AzureIdentity
from sensor.identity.gcp import GoogleIdentity
from sensor.route import Route
from sensor.transport import Transport

async def ask():
    transport = Transport()
    try:
        {ask}
    except SensorError as error:
        print(json.dumps([type(error).__name__, error.message, error.advice, error.retryable]))
    finally:
        await transport.close()

asyncio.run(ask())
"""


@pytest.mark.parametrize(
    ("gone", "ask", "cloud", "distribution"),
    [
        (["botocore"], "await AwsIdentity(Aws(), Place(region='eu-west-1'), Route()).who()", "AWS", "boto3"),
        (["google.auth"], "await GoogleIdentity(Gcp(), Route()).token()", "Google", "google-auth"),
        (["azure.identity"], "await AzureIdentity(Azure(), transport).token('scope')", "Azure", "azure-identity"),
        (["msal"], "await AzureIdentity(Azure(), transport).token('scope')", "Azure", "azure-identity"),
    ],
)
def test_a_missing_sdk_is_named_with_what_to_do(gone: list[str], ask: str, cloud: str, distribution: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(gone=gone, ask=ask)], capture_output=True, text=True, check=True
    )
    kind, message, advice, retryable = json.loads(ran.stdout)
    assert (kind, retryable) == ("ConfigError", False)
    assert message == f"the identity at {cloud} needs {distribution}, which is not installed here"
    assert "full image" in advice
    assert "runtime.lock" in advice


def test_a_federation_of_aws_needs_the_sdk_of_aws_too() -> None:
    ask = "from sensor.identity.gcp_credentials import AwsSupplier; AwsSupplier(Route()).get_aws_security_credentials(None, None)"
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(gone=["botocore"], ask=ask)], capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout)[1] == "the identity at AWS needs boto3, which is not installed here"


@pytest.mark.parametrize("sdk", [AWS, GOOGLE, AZURE])
def test_a_module_of_others_that_is_missing_is_no_fault_of_the_installation(sdk: Sdk) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), importing(sdk):
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401


def test_what_is_there_is_imported() -> None:
    with importing(AWS):
        import botocore.exceptions
    assert botocore.exceptions.BotoCoreError.__module__ == "botocore.exceptions"
