"""The SDKs of clouds may be left out: of the slim image, or of an installation that needs none. Says so where one is wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from sensor.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sdk:
    """The SDK of one cloud."""

    cloud: str
    distribution: str
    """What to install."""
    modules: frozenset[str]
    """Top-level modules that it brings."""


AWS = Sdk(cloud="AWS", distribution="boto3", modules=frozenset({"botocore", "boto3", "s3transfer", "jmespath"}))
GOOGLE = Sdk(cloud="Google", distribution="google-auth", modules=frozenset({"google"}))
AZURE = Sdk(cloud="Azure", distribution="azure-identity", modules=frozenset({"azure", "msal", "msal_extensions"}))


@contextlib.contextmanager
def importing(sdk: Sdk) -> Iterator[None]:
    """Around the first import of an SDK.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in sdk.modules:
            raise
        message = f"the identity at {sdk.cloud} needs {sdk.distribution}, which is not installed here"
        raise ConfigError(
            message,
            "use the full image instead of the slim one, or install requirements/runtime.lock instead of slim.lock; "
            "or give the registry a user name and a password, or auth: anonymous",
        ) from error
