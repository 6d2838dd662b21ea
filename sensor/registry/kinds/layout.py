"""An OCI image layout on disk (`oci:/path`, image specification 1.1, image-layout.md) in the place of a registry.

`read_layout` gives names to what is in `index.json`; `LayoutRegistry` answers like any other registry, and `registry/serve.py` puts the
same behind HTTP. The directory is as little trusted as a registry: nothing outside it is read, whatever its names and links say.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from sensor.errors import ConfigError, DataError
from sensor.limits import DEFAULT_LIMITS, MIB, Limits
from sensor.model.digest import Digest, is_digest, parse_digest
from sensor.model.manifest import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    parse_image_config,
    parse_manifest,
)
from sensor.model.reference import is_repository, is_tag, parse_reference
from sensor.registry.client import check_digest
from sensor.registry.errors import NotARegistry, RegistryNotFound, inert
from sensor.registry.kinds.kind import Detection, Opening, RegistryKind
from sensor.registry.port import FetchedManifest, Listing, ManifestHead, Method, Ping, Registry, Standing

_SCHEME = "oci:"
_CONTAINERD_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a layout holds: repository -> tag -> descriptor. Blobs stay on disk."""

    root: Path
    images: dict[str, dict[str, Descriptor]]

    def blob(self, digest: Digest) -> Path:
        """The file of a blob.

        Raises:
            RegistryNotFound: there is no such file inside the directory; layouts may lack blobs that they name.
        """
        algorithm, _, value = parse_digest(digest).partition(":")
        path = self.root / "blobs" / algorithm / value
        resolved = path.resolve()
        if not resolved.is_relative_to(self.root) or not resolved.is_file():
            message = f"{digest} is not in the image layout {self.root}"
            raise RegistryNotFound(message, "the layout is incomplete, or still being written")
        return resolved

    def descriptor(self, repository: str, target: str) -> Descriptor | None:
        """What a tag stands for, or the entry of a digest."""
        tags = self.images.get(repository, {})
        if not is_digest(target):
            return tags.get(target)
        return next((entry for entry in tags.values() if entry.digest == target), None)


def read_layout(root: Path, repository_default: str, limits: Limits = DEFAULT_LIMITS) -> Layout:
    """Read `oci-layout` and `index.json`. Entries without a repository in their name go to `repository_default`.

    Raises:
        NotARegistry: the directory is no image layout.
        DataError: its index is malformed or too large.
    """
    root = root.resolve()
    if b"imageLayoutVersion" not in _read_small(root / "oci-layout", limits):
        message = f"{root} is not an OCI image layout"
        raise NotARegistry(message, "expected a directory with oci-layout, index.json and blobs/")
    return Layout(root=root, images=images_of(_read_small(root / "index.json", limits), repository_default))


def images_of(data: bytes, repository_default: str) -> dict[str, dict[str, Descriptor]]:
    """What an `index.json` holds: repository -> tag -> descriptor.

    Raises:
        DataError: it is malformed.
    """
    index = parse_manifest(data, OCI_INDEX)
    assert isinstance(index, Index)  # noqa: S101 - for the type checker: the shape is checked against the type
    images: dict[str, dict[str, Descriptor]] = {}
    for entry in index.manifests:
        repository, tag = _name_of(entry, repository_default, alone=len(index.manifests) == 1)
        file_under(images.setdefault(repository, {}), tag, entry)
    return images


class _Identified(Protocol):
    @property
    def digest(self) -> Digest: ...


_Entry = TypeVar("_Entry", bound=_Identified)


def file_under(tags: dict[str, _Entry], tag: str, entry: _Entry) -> str:
    """Give an entry its tag, or one made of tag and digest where another image has it already: neither is lost. Returns the tag."""
    if tag in tags and tags[tag].digest != entry.digest:
        tag = f"{tag[:100]}.{short(entry.digest)}"
    tags[tag] = entry
    return tag


def _read_small(path: Path, limits: Limits) -> bytes:
    if not path.resolve().is_relative_to(path.parent):
        message = f"{path} leads out of its directory"
        raise NotARegistry(message, "an OCI image layout holds its files itself")
    try:
        with path.open("rb") as file:
            data = file.read(limits.manifest_bytes + 1)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise NotARegistry(message, "expected an OCI image layout: oci-layout, index.json and blobs/") from error
    if len(data) > limits.manifest_bytes:
        message = f"{path} is larger than {limits.manifest_bytes // MIB} MiB"
        raise DataError(
            message, "the limit protects the sensor from hostile answers; an honest registry stays far below it"
        )
    return data


def _name_of(entry: Descriptor, repository_default: str, *, alone: bool) -> tuple[str, str]:
    """Repository and tag: containerd writes the full name, skopeo a bare tag or a full reference, others nothing."""
    annotations = entry.annotations or {}
    unnamed = "latest" if alone else f"untagged-{short(entry.digest)}"
    for text in (annotations.get(_CONTAINERD_NAME, ""), annotations.get(_REF_NAME, "")):
        if is_tag(text):
            return repository_default, text
        try:
            reference = parse_reference(text)
        except DataError:
            continue
        return reference.repository, reference.tag or unnamed
    return repository_default, unnamed


def short(digest: str) -> str:
    """The start of a digest, for names."""
    return digest.partition(":")[2][:12]


def repository_name(directory: Path) -> str:
    """A repository name made of a directory's, for images that bring none."""
    return repository_of(directory.resolve().name)


def repository_of(name: str) -> str:
    """A repository name made of a file's name."""
    name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return name if is_repository(name) else "images"


class LayoutRegistry:
    """A layout on disk as `port.Registry`. The index is read anew for every question, because it may be replaced at any time."""

    def __init__(self, root: Path, *, host: str, repository_default: str, limits: Limits = DEFAULT_LIMITS) -> None:
        self._root = root
        self._host = host
        self._default = repository_default
        self._limits = limits

    @property
    def host(self) -> str:
        """The name that stands where a registry's host does."""
        return self._host

    @property
    def namespace(self) -> str:
        """A layout is taken whole."""
        return ""

    @property
    def requests(self) -> int:
        """Always 0: a disk has no quota."""
        return 0

    async def _layout(self) -> Layout:
        return await asyncio.to_thread(read_layout, self._root, self._default, self._limits)

    async def ping(self) -> Ping:
        """Look at the directory."""
        begun = time.monotonic()
        layout = await self._layout()
        return Ping(
            reachable=True,
            authenticated=True,
            latency_ms=(time.monotonic() - begun) * 1000,
            scheme="oci",
            detail=f"an image layout with {sum(map(len, layout.images.values()))} images",
        )

    async def repositories(self) -> Listing:
        """The repositories that the entries' names speak of."""
        return Listing(names=tuple((await self._layout()).images))

    async def tags(self, repository: str) -> Listing:
        """The tags of a repository, with their digests."""
        tags = (await self._layout()).images.get(repository)
        if tags is None:
            raise _missing(self._root, repository)
        return Listing(names=tuple(tags), digests={tag: entry.digest for tag, entry in tags.items()})

    async def head(self, repository: str, target: str) -> ManifestHead:
        """Digest, type and size as the index tells them."""
        entry = (await self._layout()).descriptor(repository, target)
        if entry is not None:
            return ManifestHead(digest=entry.digest, media_type=entry.media_type, size=entry.size)
        fetched = await self.manifest(repository, target)
        return ManifestHead(digest=fetched.digest, media_type=fetched.media_type, size=len(fetched.data))

    async def manifest(self, repository: str, target: str) -> FetchedManifest:
        """Read a manifest by tag or digest; its bytes are checked."""
        layout = await self._layout()
        entry = layout.descriptor(repository, target)
        if entry is None and not is_digest(target):
            raise _missing(self._root, f"{repository}:{target}")
        digest = entry.digest if entry else parse_digest(target)
        data = await asyncio.to_thread(_read_small, layout.blob(digest), self._limits)
        check_digest(data, digest, str(self._root))
        document = parse_manifest(data, entry.media_type if entry else "")
        media_type = media_type_of(document, entry)
        return FetchedManifest(digest=digest, media_type=media_type, data=data, document=document)

    async def config(self, repository: str, descriptor: Descriptor) -> ImageConfig:
        """Read and check an image configuration."""
        return await read_config(self.blob(repository, descriptor), descriptor, self._limits, str(self._root))

    async def blob(self, repository: str, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:  # noqa: ARG002 - blobs are shared
        """Read a blob in pieces of 1 MiB. The caller checks the digest."""
        path = (await self._layout()).blob(descriptor.digest)
        done = 0
        with await asyncio.to_thread(path.open, "rb") as file:
            while chunk := await asyncio.to_thread(file.read, MIB):
                done += len(chunk)
                if done > descriptor.size:
                    break
                yield chunk
        if done != descriptor.size:
            message = f"{path}: not of the {descriptor.size} bytes that its manifest says"
            raise DataError(message, "the layout is damaged, or still being written")

    async def method(self) -> Method:
        """There is no login to a disk."""
        return Method(name="files on disk")

    async def standing(self) -> Standing:
        """Nobody is anybody on a disk."""
        return Standing()

    async def close(self) -> None:
        """Nothing to release."""


async def read_config(chunks: AsyncIterator[bytes], descriptor: Descriptor, limits: Limits, where: str) -> ImageConfig:
    """Read and check an image configuration.

    Raises:
        DataError: it is too large, has another digest, or is malformed.
    """
    if descriptor.size > limits.config_bytes:
        message = f"the image configuration {descriptor.digest} is larger than {limits.config_bytes // MIB} MiB"
        raise DataError(
            message, "the limit protects the sensor from hostile answers; an honest registry stays far below it"
        )
    data = b"".join([chunk async for chunk in chunks])
    check_digest(data, descriptor.digest, where)
    return parse_image_config(data)


def media_type_of(document: Manifest | Index, entry: Descriptor | None = None) -> str:
    """The media type to serve a document under: its own word, else that of the entry that led to it, else by its shape."""
    own = document.media_type or (entry.media_type if entry else "")
    if own:
        return own
    if isinstance(document, Index):
        return OCI_INDEX
    return DOCKER_MANIFEST if "docker" in document.config.media_type else OCI_MANIFEST


def _missing(root: Path, name: str) -> RegistryNotFound:
    message = f"there is no {inert(name)} in the image layout {root}"
    return RegistryNotFound(message, "look into its index.json")


def _open_layout(_kind: RegistryKind, opening: Opening) -> Registry:
    settings = opening.settings
    path = settings.url.removeprefix(_SCHEME)
    if not path or not Path(path).is_absolute():
        message = f"registry {settings.name}: {settings.url!r} names no absolute path"
        raise ConfigError(message, "expected oci:/path/to/an/image/layout")
    root = Path(path)
    host = f"{re.sub('[^a-z0-9.-]+', '-', settings.name).strip('.-')}.layout"
    return LayoutRegistry(root, host=host, repository_default=repository_name(root), limits=opening.limits)


LAYOUT = RegistryKind(
    name="layout",
    title="OCI image layout",
    detect=lambda url: (
        Detection(reason="the URL begins with oci: (an image layout on disk)") if url.startswith(_SCHEME) else None
    ),
    open=_open_layout,
)
