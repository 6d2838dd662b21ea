"""A registry in memory: implements `registry.port.Registry`, counts every call, and fails where it is told to.

registry = MemoryRegistry()
registry.image("team/app", "v1", [b"layer bytes"])
registry.fail("tags", "team/app", RegistryForbidden("no"))
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from sensor.errors import SensorError
from sensor.model.digest import Digest, sha256_digest
from sensor.model.manifest import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    parse_image_config,
    parse_manifest,
)
from sensor.registry.errors import CannotEnumerate, RegistryNotFound
from sensor.registry.port import FetchedManifest, Listing, ManifestHead, Method, Ping, Standing

LAYER = "application/vnd.oci.image.layer.v1.tar"


class MemoryRegistry:
    """Repositories, tags and blobs as dictionaries. `calls` counts by (verb, name); `most_at_once` is the concurrency seen."""

    def __init__(self, host: str = "registry.test") -> None:
        self._host = host
        self.tagged: dict[str, dict[str, Digest]] = {}
        self.manifests: dict[Digest, tuple[str, bytes]] = {}
        self.blobs: dict[Digest, bytes] = {}
        self.calls: Counter[tuple[str, str]] = Counter()
        self.partial: dict[str, str] = {}
        """Repository ("" for the list of repositories) to the reason why its listing is not complete."""
        self.enumerable = True
        self.tells_digests = False
        self.pushed: dict[str, dict[str, float]] = {}
        """Repository to tag to the Unix time that listings tell."""
        self.withheld: dict[str, dict[str, str]] = {}
        """Repository ("" for the list of repositories) to names that are held back, and why."""
        self.chunk = 64 * 1024
        self.most_at_once = 0
        self._at_once = 0
        self._failures: dict[tuple[str, str], list[SensorError | None]] = {}

    # --- building -----------------------------------------------------------------------------------------------------

    def blob_of(self, data: bytes) -> Digest:
        """Store a blob."""
        digest = sha256_digest(data)
        self.blobs[digest] = data
        return digest

    def document(self, document: dict[str, Any], media_type: str) -> Digest:
        """Store a manifest or an index."""
        data = json.dumps({"schemaVersion": 2, "mediaType": media_type, **document}).encode()
        digest = sha256_digest(data)
        self.manifests[digest] = (media_type, data)
        return digest

    def image_manifest(
        self, layers: list[bytes], *, platform: str = "linux/amd64", layer_type: str = LAYER, **more: Any
    ) -> Digest:
        """Store an image without a tag."""
        system, architecture, *variant = platform.split("/")
        config = json.dumps(
            {
                "os": system,
                "architecture": architecture,
                **({"variant": variant[0]} if variant else {}),
                "rootfs": {"type": "layers", "diff_ids": []},
            }
        ).encode()
        return self.document(
            {
                "config": {"mediaType": OCI_CONFIG, "digest": self.blob_of(config), "size": len(config)},
                "layers": [
                    {"mediaType": layer_type, "digest": self.blob_of(layer), "size": len(layer)} for layer in layers
                ],
                **more,
            },
            OCI_MANIFEST,
        )

    def image(self, repository: str, tag: str, layers: list[bytes], **options: Any) -> Digest:
        """Store an image and tag it."""
        digest = self.image_manifest(layers, **options)
        self.tag(repository, tag, digest)
        return digest

    def pointer(self, digest: Digest, platform: str = "", **more: Any) -> dict[str, Any]:
        """A descriptor of a stored document."""
        media_type, data = self.manifests[digest]
        pointer: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": len(data), **more}
        if platform:
            system, architecture, *variant = platform.split("/")
            pointer["platform"] = {"os": system, "architecture": architecture}
            if variant:
                pointer["platform"]["variant"] = variant[0]
        return pointer

    def index(self, children: list[dict[str, Any]], **more: Any) -> Digest:
        """Store an index over descriptors."""
        return self.document({"manifests": children, **more}, OCI_INDEX)

    def tag(self, repository: str, tag: str, digest: Digest) -> None:
        """Point a tag at something."""
        self.tagged.setdefault(repository, {})[tag] = digest

    def fail(self, verb: str, name: str, *errors: SensorError | None) -> None:
        """Answer the next calls of `verb` about `name` with these (None: answer well); the last one stays."""
        self._failures[verb, name] = list(errors)

    def requested(self, verb: str) -> int:
        """Calls of one verb."""
        return sum(count for (called, _), count in self.calls.items() if called == verb)

    # --- the port -----------------------------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        return self._host

    @property
    def namespace(self) -> str:
        return ""

    @property
    def requests(self) -> int:
        return self.calls.total()

    async def ping(self) -> Ping:
        await self._called("ping", "")
        return Ping(reachable=True, authenticated=True, latency_ms=0.1)

    async def repositories(self) -> Listing:
        await self._called("repositories", "")
        if not self.enumerable:
            raise CannotEnumerate("the catalogue is refused", "name the repositories")
        return self._listing("", tuple(self.tagged))

    async def tags(self, repository: str) -> Listing:
        await self._called("tags", repository)
        if repository not in self.tagged:
            raise RegistryNotFound(f"no repository {repository}")
        return self._listing(repository, tuple(self.tagged[repository]))

    async def head(self, repository: str, target: str) -> ManifestHead:
        await self._called("head", f"{repository}:{target}")
        digest = self._resolve(repository, target)
        media_type, data = self.manifests.get(digest, (OCI_MANIFEST, b""))
        return ManifestHead(digest=digest, media_type=media_type, size=len(data))

    async def manifest(self, repository: str, target: str) -> FetchedManifest:
        await self._called("manifest", f"{repository}:{target}")
        digest = self._resolve(repository, target)
        if digest not in self.manifests:
            raise RegistryNotFound(f"no manifest {digest}")
        media_type, data = self.manifests[digest]
        return FetchedManifest(
            digest=digest, media_type=media_type, data=data, document=parse_manifest(data, media_type)
        )

    async def config(self, repository: str, descriptor: Descriptor) -> ImageConfig:
        await self._called("config", descriptor.digest)
        return parse_image_config(self.blobs[descriptor.digest])

    async def blob(self, repository: str, descriptor: Descriptor) -> AsyncIterator[bytes]:
        await self._called("blob", descriptor.digest)
        if descriptor.digest not in self.blobs:
            raise RegistryNotFound(f"no blob {descriptor.digest}")
        data = self.blobs[descriptor.digest]
        for start in range(0, len(data), self.chunk):
            await asyncio.sleep(0)
            yield data[start : start + self.chunk]

    async def method(self) -> Method:
        return Method(name="none")

    async def standing(self) -> Standing:
        return Standing(identity="memory")

    async def close(self) -> None:
        pass

    # --- inside -------------------------------------------------------------------------------------------------------

    def _resolve(self, repository: str, target: str) -> Digest:
        if target.startswith("sha"):
            return Digest(target)
        try:
            return self.tagged[repository][target]
        except KeyError as error:
            raise RegistryNotFound(f"no {repository}:{target}") from error

    def _listing(self, name: str, names: tuple[str, ...]) -> Listing:
        reason = self.partial.get(name, "")
        digests = dict(self.tagged[name]) if self.tells_digests and name else {}
        return Listing(
            names=names,
            complete=not reason,
            reason=reason,
            digests=digests,
            pushed=self.pushed.get(name, {}),
            withheld=self.withheld.get(name, {}),
            source="memory" if name else "memory catalogue",
        )

    async def _called(self, verb: str, name: str) -> None:
        self.calls[verb, name] += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(0)
        finally:
            self._at_once -= 1
        planned = self._failures.get((verb, name))
        if planned:
            error = planned.pop(0) if len(planned) > 1 else planned[0]
            if error is not None:
                raise error
