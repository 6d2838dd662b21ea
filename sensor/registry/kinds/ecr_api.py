"""What ECR's own API tells: repositories, tags with digests and push dates, archived images; and what its refusals mean.

Tags of pull-through-cache repositories come from here too, never from the registry: `DescribeImages` tells what is cached, while a request
for a tag at the registry would make ECR look at the upstream. Leaves credentials and calls to `identity.aws`, public.ecr.aws to `ecr_public`.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from sensor.errors import ConfigError, RegistryError, SensorError
from sensor.identity.aws import AwsIdentity
from sensor.identity.aws_errors import AwsRefused, Denial
from sensor.limits import Limits
from sensor.model.reference import is_repository
from sensor.registry.client import RegistryClient
from sensor.registry.errors import (
    AUTHENTICATION_FAILED,
    CannotEnumerate,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    RegistryUnavailable,
    UnexpectedAnswer,
)
from sensor.registry.login import Basic, Credential
from sensor.registry.native import Names
from sensor.registry.pages import is_listed_tag
from sensor.registry.port import Listing, Standing
from sensor.registry.session import Session

PAGE = 1000
"""The largest page that Describe and List calls give."""
RESTORE = (
    "aws ecr update-image-storage-class --target-storage-class STANDARD restores it (UpdateImageStorageClass), "
    "or exclude it"
)
NAME_THEM = "name the repositories in repositories.names"
_STATES = {
    "ARCHIVED": f"archived; {RESTORE}",
    "ACTIVATING": "is being restored from the archive; it is scanned when that is done",
}
_Shape = TypeVar("_Shape")


class _Repository(msgspec.Struct, rename="camel"):
    repository_name: object = None


class _Repositories(msgspec.Struct, rename="camel"):
    repositories: list[_Repository] | None = None


class _Image(msgspec.Struct, rename="camel"):
    image_digest: object = None
    image_tags: list[object] | None = None
    image_pushed_at: datetime | None = None
    image_status: str = ""


class _Images(msgspec.Struct, rename="camel"):
    image_details: list[_Image] | None = None


class _Id(msgspec.Struct, rename="camel"):
    image_digest: object = None
    image_tag: object = None


class _Ids(msgspec.Struct, rename="camel"):
    image_ids: list[_Id] | None = None


async def walk(
    names: Names,
    call: Callable[[Mapping[str, object]], Awaitable[Mapping[str, Any]]],
    shape: type[_Shape],
    take: Callable[[_Shape], None],
) -> None:
    """All pages of an API call. A later page that fails, loops or is one too many makes the listing partial.

    Raises:
        SensorError: the first page fails.
    """
    more: Mapping[str, object] = {}
    while True:
        try:
            answer = await call({"maxResults": PAGE, **more})
            take(convert(answer, shape))
        except SensorError as error:
            if not more:
                raise
            names.partial(f"a later page failed: {error.message}")
            return
        token = answer.get("nextToken")
        # a filter is applied after paging, so that many pages in a row may bring nothing
        if not token or not names.another_page(str(token), useful=True):
            return
        more = {"nextToken": token}


def text(value: object) -> str | None:
    """A value of an answer, if it is text: one odd entry must not cost a page."""
    return value if isinstance(value, str) else None


def unix(moment: datetime | None) -> float | None:
    """Unix time of a date."""
    return None if moment is None else moment.timestamp()


def convert(answer: Mapping[str, Any], shape: type[_Shape]) -> _Shape:
    """An answer of the SDK as a typed value.

    Raises:
        UnexpectedAnswer: it is of another shape.
    """
    try:
        return msgspec.convert(dict(answer), shape)
    except (msgspec.ValidationError, RecursionError) as error:
        message = f"the AWS API gave an answer of another shape than expected: {error}"
        raise UnexpectedAnswer(message, "check api.url, and any proxy in between") from error


class PrivateApi:
    """A private registry: one account in one region. Implements `Native`."""

    def __init__(
        self,
        identity: AwsIdentity | None,
        session: Session,
        *,
        account: str,
        namespaces: tuple[str, ...],
        limits: Limits,
    ) -> None:
        """Without an identity (a token that was configured as a password) only the registry itself can be asked."""
        self._identity = identity
        self._session = session
        self._plain = RegistryClient(session)
        self._registry: Mapping[str, object] = {"registryId": account} if account else {}
        self._namespaces = namespaces
        self._limits = limits
        self._tells_states = True

    async def repositories(self) -> Listing:
        """All repositories, by DescribeRepositories; where that is not allowed by `_catalog`.

        Raises:
            CannotEnumerate: neither is allowed.
            SensorError: no answer, or a broken one.
        """
        if self._identity is None:
            return await self._catalog()
        names = Names(self._limits, is_repository, source="ecr:DescribeRepositories")

        def take(page: _Repositories) -> None:
            for one in page.repositories or ():
                if self._wanted(one.repository_name):
                    names.add(text(one.repository_name))

        try:
            await walk(names, self._call("describe_repositories"), _Repositories, take)
        except AwsRefused as error:
            if error.category != "denied":
                raise registry_error(error) from error
            return await self._catalog_instead(error)
        return names.listing

    def _wanted(self, name: object) -> bool:
        return not self._namespaces or any(f"{name}/".startswith(f"{one}/") for one in self._namespaces)

    async def _catalog(self) -> Listing:
        listing = await self._plain.repositories()
        return replace(listing, names=tuple(name for name in listing.names if self._wanted(name)))

    async def _catalog_instead(self, denied: AwsRefused) -> Listing:
        try:
            return await self._catalog()
        except RegistryError as error:
            message = f"repositories cannot be listed: {denied.message}"
            raise CannotEnumerate(message, f"{denied.advice}; or {NAME_THEM}") from error

    async def tags(self, repository: str) -> Listing:
        """All tags, by DescribeImages with digests, push dates and archived images; else by ListImages, with digests.

        Raises:
            CannotEnumerate: neither is allowed.
            RegistryNotFound: no such repository.
            SensorError: no answer, or a broken one.
        """
        if self._identity is None:
            raise CannotEnumerate("the API needs an AWS identity", "configure access keys or a role")
        if len(repository) < 2:
            message = f"ECR has no repository {repository!r}"
            raise RegistryNotFound(message, "names there have two characters at least")
        try:
            return await self._describe(repository)
        except AwsRefused as error:
            if error.category != "denied":
                raise registry_error(error) from error
        names = Names(self._limits, is_listed_tag, source="ecr:ListImages")

        def take(page: _Ids) -> None:
            for one in page.image_ids or ():
                names.add(text(one.image_tag), digest=text(one.image_digest))

        call = self._call("list_images", repositoryName=repository, filter={"tagStatus": "TAGGED"})
        try:
            await walk(names, call, _Ids, take)
        except AwsRefused as error:
            if error.category == "denied":
                raise CannotEnumerate(error.message, error.advice) from error
            raise registry_error(error) from error
        return names.listing

    async def _describe(self, repository: str) -> Listing:
        """DescribeImages; archived images too, where this partition and this SDK know of them."""
        while True:
            names = Names(self._limits, is_listed_tag, source="ecr:DescribeImages")

            def take(page: _Images, names: Names = names) -> None:
                for one in page.image_details or ():
                    digest, pushed = text(one.image_digest), unix(one.image_pushed_at)
                    for tag in one.image_tags or ():
                        names.add(text(tag), digest=digest, pushed=pushed, withheld=_STATES.get(one.image_status, ""))

            states = {"imageStatus": "ANY"} if self._tells_states else {}
            call = self._call("describe_images", repositoryName=repository, filter={"tagStatus": "TAGGED", **states})
            try:
                await walk(names, call, _Images, take)
            except (AwsRefused, ConfigError) as error:
                refused = isinstance(error, AwsRefused) and error.category == "parameter"
                if not states or not (refused or "imageStatus" in error.message):
                    raise
                self._tells_states = False
            else:
                return names.listing

    def _call(
        self, operation: str, **arguments: object
    ) -> Callable[[Mapping[str, object]], Awaitable[Mapping[str, Any]]]:
        identity = self._identity
        assert identity is not None  # noqa: S101 - for the type checker

        async def call(page: Mapping[str, object]) -> Mapping[str, Any]:
            return await identity.call("ecr", operation, **self._registry, **arguments, **page)

        return call

    async def standing(self) -> Standing:
        """Who AWS takes us for. Whether it could push is not told without trying."""
        if self._identity is None:
            return token_standing(await self._session.credential())
        return await standing(self._identity)


async def standing(identity: AwsIdentity | None) -> Standing:
    """The ARN of an identity, and how it was found. A private network often has no way to STS; that is said, not raised."""
    if identity is None:
        return Standing()
    try:
        caller = await identity.who()
    except SensorError as error:
        return Standing(detail=f"AWS does not tell who we are: {error}")
    detail = f"{caller.via}; whether it may push as well is not told by AWS: look at its policies"
    return Standing(identity=caller.arn, detail=detail)


class _Claims(msgspec.Struct):
    expiration: float


def token_standing(credential: Credential | None) -> Standing:
    """What a password that was made elsewhere tells: nobody's name, but when it ends."""
    if not isinstance(credential, Basic):
        return Standing()
    detail = "a password that was made elsewhere; it ends 12 hours after that, and AWS does not tell whose it is"
    try:
        claims = msgspec.json.decode(base64.b64decode(credential.password.reveal(), validate=True), type=_Claims)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return Standing(identity=credential.username, detail=detail)
    return Standing(identity=credential.username, expires=claims.expiration, detail=detail)


def registry_error(error: AwsRefused) -> RegistryError:
    """What AWS's refusal of an API call means for a registry."""
    kinds: Mapping[str, type[RegistryError]] = {
        "denied": RegistryForbidden,
        "missing": RegistryNotFound,
        "throttled": RegistryRateLimited,
        "unavailable": RegistryUnavailable,
    }
    if error.category in {"credential", "expired"} or error.operation.startswith("sts:AssumeRole"):
        return RegistryUnauthorized(f"{AUTHENTICATION_FAILED}: {error.message}", error.advice)
    if "Kms" in error.code or "KMS" in error.message:
        return RegistryForbidden(error.message, KMS)
    return kinds.get(error.category, UnexpectedAnswer)(error.message, error.advice)


KMS = "the repository's KMS key is disabled, deleted, or not granted to ECR: enable it, or restore its grant"


def denial_error(message: str, text: str) -> RegistryForbidden:
    """The error for the registry's 403 that names a principal, an action and a resource."""
    return RegistryForbidden(message, Denial(text).advice())
