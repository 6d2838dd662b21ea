"""How Artifact Registry lists by its own API; where that is refused, `gar_tags` lists with the registry's rights alone.

`dockerImages` names every image of a repository with tags, digests and upload times, a thousand to a page. A crawl takes that once, and
`tags` is answered from it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TypeVar
from urllib.parse import quote

import msgspec

from sensor.errors import NetworkError, SensorError
from sensor.model.digest import Digest, is_digest
from sensor.registry.errors import (
    AUTHENTICATION_FAILED,
    CannotEnumerate,
    RegistryForbidden,
    RegistryNotFound,
    RegistryUnauthorized,
    UnexpectedAnswer,
)
from sensor.registry.kinds.gar_login import ApiLogin, IdentityToken, key_principal
from sensor.registry.kinds.gar_places import Place, image_name, literal_paths, read_host, read_place
from sensor.registry.kinds.gar_tags import SOURCE, TagLists
from sensor.registry.kinds.gar_words import explain_api
from sensor.registry.kinds.gathered import Gathered, unix_time
from sensor.registry.kinds.kind import Connection, host_of
from sensor.registry.login import Basic, Credential
from sensor.registry.native import Api
from sensor.registry.port import Listing, Standing

API = "https://artifactregistry.googleapis.com"
_PAGE = 1000
_NAME_IT = "name projects, or projects/repositories, in repositories.namespaces, or single images in repositories.names"
_RESOURCE = re.compile(r"projects/[^/?#%\s]+/locations/[^/?#%\s]+/repositories/[^/?#%\s]+")


class _Location(msgspec.Struct, rename="camel"):
    location_id: str = ""


class _Locations(msgspec.Struct, rename="camel"):
    locations: list[_Location] = []
    next_page_token: str = ""


class _Repository(msgspec.Struct):
    name: str = ""
    format: str = ""
    mode: str = ""

    @property
    def id(self) -> str:
        """The last part of its name."""
        return self.name.rpartition("/")[2]


class _Repositories(msgspec.Struct, rename="camel"):
    repositories: list[_Repository] = []
    next_page_token: str = ""


class _Image(msgspec.Struct, rename="camel"):
    uri: str = ""
    tags: list[object] | None = None
    upload_time: str | None = None


class _Images(msgspec.Struct, rename="camel"):
    docker_images: list[_Image] = []
    next_page_token: str = ""


_Page = TypeVar("_Page", _Locations, _Repositories, _Images)


class GarNative:
    """Listing for one open registry of Google's."""

    def __init__(self, connection: Connection) -> None:
        settings = connection.settings
        self._connection = connection
        self._limits = connection.opening.limits
        self._host = read_host(host_of(settings.url))
        self._credential: Credential | None = None
        self._tag_lists = TagLists(connection.session, self._limits)
        self._api = Api(
            settings.api.url or API,
            connection.transport,
            ApiLogin(connection),
            explain=lambda error, reply: explain_api(error, reply, self._credential),
            insecure=settings.insecure,
        )
        self._gathered: Gathered | None = None
        self._remote: set[str] = set()
        """Paths of remote repositories, as references begin with them."""

    async def standing(self) -> Standing:
        """Whom the credential is for. What it may do besides is not told. Raises SensorError."""
        given = await self._connection.credentials.credential(renew=False)
        principal = given.principal if isinstance(given, IdentityToken) else key_principal(given)
        if principal is not None:
            return Standing(identity=principal.name, detail=principal.way)
        if isinstance(given, Basic):
            return Standing(identity=given.username)
        return Standing(detail="" if given is None else "an access token as it was given: it holds for an hour at most")

    async def tags(self, repository: str) -> Listing:
        """All tags of an image: from the listing of the crawl, once; else by `tags/list`, with Google's extension.

        Raises:
            RegistryNotFound: no such image.
            SensorError: no answer, or a refusal.
        """
        if self._gathered is not None and not self._gathered.reason:
            taken = self._gathered.take(repository)
            if taken is not None:
                return taken
        remote = any(repository.startswith(f"{path}/") for path in self._remote)
        cached_only = remote and not self._connection.settings.materialize
        return await self._tag_lists.listing(repository, cached_only=cached_only)

    async def repositories(self) -> Listing:
        """All images of the configured projects and repositories, with their tags kept for `tags`.

        Raises:
            CannotEnumerate: no project is known, or none can be listed.
            SensorError: no answer.
        """
        self._gathered = None
        self._remote.clear()
        self._credential = await self._connection.credentials.credential(renew=False)
        places = self._places()
        gathered = Gathered(self._limits, source="Artifact Registry API")
        failed: list[SensorError] = []
        walked = False
        for place in places:
            try:
                await self._gather(place, gathered)
            except SensorError as error:
                if await self._walk(place, gathered, error):
                    walked = True
                else:
                    failed.append(error)
        if len(failed) == len(places):
            raise self._cannot_enumerate(failed[0])
        if failed:
            gathered.partial(f"not everything could be listed: {failed[0].message}")
        self._gathered = gathered
        return replace(gathered.listing(), source=SOURCE) if walked else gathered.listing()

    def _places(self) -> tuple[Place, ...]:
        """Where to look: as configured, else in the URL's path, else where the patterns begin, else in the identity's own project.

        Raises:
            CannotEnumerate: nothing of that is there.
        """
        settings = self._connection.settings
        namespace = self._connection.address.namespace
        texts = settings.repositories.namespaces or ((namespace,) if namespace else ())
        if not texts:
            texts = literal_paths(settings.repositories.include)
        if not texts:
            given = self._credential
            principal = given.principal if isinstance(given, IdentityToken) else key_principal(given)
            texts = (principal.project,) if principal is not None and principal.project else ()
        places = []
        for text in dict.fromkeys(texts):
            if (place := read_place(text, self._host)) is None:
                message = f"not a project, or project/repository, of Google: {text[:200]!r}"
                raise CannotEnumerate(message, _NAME_IT)
            places.append(place)
        if not places:
            raise CannotEnumerate("no Google project is known whose repositories could be listed", _NAME_IT)
        return tuple(places)

    async def _walk(self, place: Place, gathered: Gathered, error: SensorError) -> bool:
        """Whether a place that the API did not list could be walked instead, with the registry's rights alone.

        A whole project can only be walked on a gcr.io host. A site may let the registry's host through and the API's not.
        """
        refused = self._is_denied(error) and not isinstance(error, CannotEnumerate)
        if not place.repository or not (refused or isinstance(error, NetworkError)):
            return False
        try:
            await self._tag_lists.walk(place.path, gathered)
        except SensorError:
            return False  # the API's refusal says more
        return True

    def _is_denied(self, error: SensorError) -> bool:
        """Whether this credential lacks a right, rather than being no good at all."""
        if isinstance(error, RegistryUnauthorized):
            return self._credential is None or AUTHENTICATION_FAILED not in error.message
        return isinstance(error, (RegistryForbidden, RegistryNotFound, CannotEnumerate))

    def _cannot_enumerate(self, error: SensorError) -> SensorError:
        if isinstance(error, CannotEnumerate) or not self._is_denied(error):
            return error
        advice = f"{error.advice}; or {_NAME_IT}" if error.advice else _NAME_IT
        return CannotEnumerate(f"repositories cannot be listed: {error.message}", advice)

    # -- the API ---------------------------------------------------------------------------------------------------------------

    async def _gather(self, place: Place, gathered: Gathered) -> None:
        """Take in all images of a place. Virtual repositories repeat what others hold; remote ones list what they have cached."""
        found = await self._find(place, gathered)
        taken = [one for one in found if one.format in {"", "DOCKER"} and one.mode != "VIRTUAL_REPOSITORY"]
        if place.repository and not taken:
            shown = f"{place.project}/{place.repository}"
            if not found:
                message = f"there is no repository {shown}"
                raise RegistryNotFound(message, "check repositories.namespaces, and the location in the URL")
            message = f"{shown} is a virtual repository, or one of another format than Docker's"
            raise CannotEnumerate(
                message, "name the repositories behind it in repositories.namespaces: they hold the images"
            )
        for repository in taken:
            if not _RESOURCE.fullmatch(repository.name):
                message = f"the API names a repository in an unexpected way: {repository.name[:200]!r}"
                raise UnexpectedAnswer(message, "check api.url")
            if repository.mode == "REMOTE_REPOSITORY":
                gcr = self._host is not None and self._host.gcr
                self._remote.add(place.project_path if gcr else f"{place.project_path}/{repository.id}")
            try:
                await self._images(place, repository, gathered)
            except (RegistryForbidden, RegistryNotFound) as error:
                if place.repository:
                    raise
                gathered.partial(f"the repository {repository.id} could not be listed: {error.message}")

    async def _find(self, place: Place, gathered: Gathered) -> list[_Repository]:
        """The repositories of a place. A host of Google's names the location; elsewhere all of them are asked."""
        project = f"/v1/projects/{quote(place.project, safe=':')}/locations"
        if self._host is not None and place.repository:
            path = f"{project}/{self._host.location}/repositories/{quote(place.repository, safe='')}"
            return [await self._api.json(path, _Repository)]
        locations = [self._host.location] if self._host is not None else []
        if not locations:
            async for page in self._pages(project, _Locations, gathered):
                locations += [one.location_id for one in page.locations if one.location_id]
        found: list[_Repository] = []
        for location in locations:
            path = f"{project}/{quote(location, safe='')}/repositories"
            async for listed in self._pages(path, _Repositories, gathered):
                found += [one for one in listed.repositories if place.repository in {"", one.id}]
        return found

    async def _images(self, place: Place, repository: _Repository, gathered: Gathered) -> None:
        """All images of one repository. Entries without a tag are mostly the platforms of an index, and are left out."""
        fields = quote("nextPageToken,dockerImages(uri,tags,uploadTime)", safe="")
        async for page in self._pages(f"/v1/{repository.name}/dockerImages?fields={fields}", _Images, gathered):
            for image in page.docker_images:
                name, digest = image_name(image.uri, place, repository.id, self._host)
                if name and not place.covers(name):
                    continue
                pushed = unix_time(image.upload_time)
                for tag in image.tags or ():
                    told = Digest(digest) if is_digest(digest) else None
                    gathered.add(name, tag if isinstance(tag, str) else "", told, pushed)
            if gathered.full:
                gathered.partial(f"more than {self._limits.listing_entries} tags")
                return

    async def _pages(self, path: str, shape: type[_Page], gathered: Gathered) -> AsyncIterator[_Page]:
        """All pages of a list. A first page that cannot be had is an error; a later one makes the listing partial."""
        base = f"{path}{'&' if '?' in path else '?'}pageSize={_PAGE}"
        token, seen = "", {""}
        while True:
            try:
                page = await self._api.json(f"{base}&pageToken={quote(token, safe='')}" if token else base, shape)
            except SensorError as error:
                if not token:
                    raise
                gathered.partial(f"a later page failed: {error.message}")
                return
            yield page
            token = page.next_page_token
            if not token:
                return
            if token in seen or len(seen) >= self._limits.pages:
                gathered.partial(
                    "the pages go in a circle" if token in seen else f"more than {self._limits.pages} pages"
                )
                return
            seen.add(token)
