"""public.ecr.aws: what its API tells of our own public repositories. Other people's are read by name only, as anybody reads them.

The API exists in us-east-1 alone and knows repositories without their alias, while references carry it: `public.ecr.aws/ALIAS/REPOSITORY`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from sensor.identity.aws import AwsIdentity
from sensor.identity.aws_errors import AwsRefused
from sensor.limits import Limits
from sensor.model.reference import is_repository
from sensor.registry.errors import CannotEnumerate
from sensor.registry.kinds.ecr_api import NAME_THEM, registry_error, standing, text, unix, walk
from sensor.registry.native import Names
from sensor.registry.pages import is_listed_tag
from sensor.registry.port import Listing, Standing

SERVICE = "ecr-public"


class _Repository(msgspec.Struct, rename="camel"):
    repository_name: str = ""
    repository_uri: str = ""


class _Repositories(msgspec.Struct, rename="camel"):
    repositories: list[_Repository] | None = None


class _Detail(msgspec.Struct, rename="camel"):
    image_digest: object = None
    image_pushed_at: datetime | None = None


class _Tag(msgspec.Struct, rename="camel"):
    image_tag: object = None
    created_at: datetime | None = None
    image_detail: _Detail = msgspec.field(default_factory=_Detail)


class _Tags(msgspec.Struct, rename="camel"):
    image_tag_details: list[_Tag] | None = None


class PublicApi:
    """Our own part of the public registry. Implements `Native`."""

    def __init__(self, identity: AwsIdentity | None, *, limits: Limits) -> None:
        self._identity = identity
        self._limits = limits
        self._own: dict[str, str] = {}
        """Names as references have them, and as the API has them."""

    async def repositories(self) -> Listing:
        """Our own public repositories.

        Raises:
            CannotEnumerate: nobody is logged in, or the identity may not list.
            SensorError: no answer, or a broken one.
        """
        if self._identity is None:
            raise CannotEnumerate("public.ecr.aws lists nothing to anonymous clients", f"{NAME_THEM}, or set auth: aws")
        names = Names(self._limits, is_repository, source="ecr-public:DescribeRepositories")
        own: dict[str, str] = {}

        def take(page: _Repositories) -> None:
            for one in page.repositories or ():
                name = one.repository_uri.partition("/")[2]
                names.add(name)
                own[name] = one.repository_name

        try:
            await walk(names, self._call("describe_repositories"), _Repositories, take)
        except AwsRefused as error:
            if error.category == "denied":
                message = f"repositories cannot be listed: {error.message}"
                raise CannotEnumerate(message, f"{error.advice}; or {NAME_THEM}") from error
            raise registry_error(error) from error
        self._own = own
        return names.listing

    async def tags(self, repository: str) -> Listing:
        """All tags of one of our own repositories, with digests and dates.

        Raises:
            CannotEnumerate: it is somebody else's, or the identity may not list.
            SensorError: no answer, or a broken one.
        """
        name = self._own.get(repository)
        if name is None:
            raise CannotEnumerate("the API tells of one's own repositories only")
        names = Names(self._limits, is_listed_tag, source="ecr-public:DescribeImageTags")

        def take(page: _Tags) -> None:
            for one in page.image_tag_details or ():
                image = one.image_detail
                pushed = unix(image.image_pushed_at or one.created_at)
                names.add(text(one.image_tag), digest=text(image.image_digest), pushed=pushed)

        try:
            await walk(names, self._call("describe_image_tags", repositoryName=name), _Tags, take)
        except AwsRefused as error:
            if error.category == "denied":
                raise CannotEnumerate(error.message, error.advice) from error
            raise registry_error(error) from error
        return names.listing

    def _call(
        self, operation: str, **arguments: object
    ) -> Callable[[Mapping[str, object]], Awaitable[Mapping[str, Any]]]:
        identity = self._identity
        assert identity is not None  # noqa: S101 - for the type checker

        async def call(page: Mapping[str, object]) -> Mapping[str, Any]:
            return await identity.call(SERVICE, operation, **arguments, **page)

        return call

    async def standing(self) -> Standing:
        """Who AWS takes us for; nobody, when anonymous."""
        return await standing(self._identity)
