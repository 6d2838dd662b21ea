"""Which images are in a tar: an OCI layout in it (`oci-archive`), or what `docker save` writes (`docker-archive`).

Where both are (Docker 25 and later), the layout counts: it has the digests. A docker-archive has none, because `docker save` drops the
manifest; one is made here, always the same bytes for the same image, from the configuration and the layers. The digest of the
configuration is the only one that such an image shares with its copy in a registry. An uncompressed layer goes by its diff ID, which
whoever reads the layer verifies, a compressed one by the hash of its bytes.

Opening files is left to `archive_folder`, the bytes to `archive_bytes`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import msgspec

from sensor.errors import DataError
from sensor.limits import MIB, Limits
from sensor.model.digest import Digest, is_digest, sha256_digest
from sensor.model.manifest import OCI_CONFIG, OCI_MANIFEST, Descriptor, parse_image_config
from sensor.model.reference import parse_reference
from sensor.registry.errors import inert
from sensor.registry.kinds.archive_bytes import Tar
from sensor.registry.kinds.archive_tar import Member, Members, NotImages, cut_short
from sensor.registry.kinds.layout import file_under, images_of, short
from sensor.scan.inflate import GZIP_MAGIC, ZSTD_MAGIC

_BLOB = re.compile(r"blobs/(sha256|sha512)/([0-9a-f]+)")
_NAMED_BY_HASH = re.compile(r"(?:.*/)?([0-9a-f]{64})(?:\.json)?")
_ROOT_DIRECTORIES = frozenset({"bin", "dev", "etc", "lib", "proc", "root", "sbin", "sys", "usr", "var"})
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_ANEW = "save the image anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """An image that is named but cannot be had. The others in the archive are not worse for it."""

    digest: Digest
    """Of what names it; only to tell it from others."""
    reason: str


Entry: TypeAlias = Descriptor | Broken


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageArchive:
    """What a tar holds: repository -> tag -> image, and where each blob stands."""

    form: Literal["oci-archive", "docker-archive"]
    images: dict[str, dict[str, Entry]]
    blobs: dict[Digest, Member]
    documents: dict[Digest, bytes]
    """Manifests that were made here, and small documents that are at hand."""
    refused: int = 0
    """Members that were passed over for their names."""
    cost: int = 0
    """About so many bytes of memory."""


def read_archive(tar: Tar, repository_default: str, limits: Limits) -> ImageArchive:
    """Find the images. Those without a repository in their name go to `repository_default`.

    Raises:
        NotImages: there are none; the message says what it is instead.
        DataError: the archive is damaged or cut short (retryable), or larger than the limits allow.
    """
    members = tar.members()
    if {"oci-layout", "index.json"} <= members.by_name.keys():
        return _read_layout(tar, members, repository_default, limits)
    if "manifest.json" in members.by_name:
        return _read_saved(tar, members, repository_default, limits)
    raise _unrecognised(members)


def _unrecognised(members: Members) -> DataError:
    names = members.by_name
    if not members.ended or {"oci-layout", "index.json"} & names.keys():
        return cut_short()  # what names the images comes last
    heads = {name.partition("/")[0] for name in names}
    if len(heads & _ROOT_DIRECTORIES) > 2:
        return NotImages(
            "it is a root file system (`docker export`), which has neither configuration nor layers",
            "use `docker save` instead",
        )
    if len(heads) == 1 and any(f"{next(iter(heads))}/{name}" in names for name in ("oci-layout", "manifest.json")):
        return NotImages(
            f"its images stand in the directory {inert(next(iter(heads)))!r} of the tar",
            "make it with `tar -C DIRECTORY -cf FILE .`",
        )
    return NotImages("it holds no images", "expected what `docker save` or `skopeo copy` writes")


def _small(tar: Tar, members: Members, names: tuple[str, ...], limits: Limits) -> dict[str, bytes]:
    """Documents of the archive's own by name."""
    found = {name: members.documents[name] for name in names if name in members.documents}
    wanted = [(name, members.find(name)) for name in names if name not in found]
    for name, member in wanted:
        if member.size > limits.manifest_bytes:
            message = f"{name} in it is larger than {limits.manifest_bytes // MIB} MiB"
            raise DataError(message, "the limit protects the sensor; save fewer images into one file")
    return found | dict(tar.documents(wanted))


def _too_many(count: int, limits: Limits) -> None:
    if count > limits.index_children:
        message = f"it names {count} images, more than {limits.index_children}"
        raise DataError(message, "the limit protects the sensor; save fewer images into one file")


# -- oci-archive -------------------------------------------------------------------------------------------------------


def _read_layout(tar: Tar, members: Members, repository_default: str, limits: Limits) -> ImageArchive:
    """An OCI image layout in a tar (image specification 1.1, image-layout.md)."""
    found = _small(tar, members, ("oci-layout", "index.json"), limits)
    if b"imageLayoutVersion" not in found["oci-layout"]:
        raise DataError("oci-layout in it names no imageLayoutVersion", _ANEW)
    images = images_of(found["index.json"], repository_default)
    _too_many(sum(map(len, images.values())), limits)
    blobs: dict[Digest, Member] = {}
    documents: dict[Digest, bytes] = {}
    for name in members.by_name:
        match = _BLOB.fullmatch(name)
        if match is None or not is_digest(digest := ":".join(match.groups())):
            continue
        try:
            blobs[Digest(digest)] = members.find(name)
        except DataError:
            continue  # as good as missing, which a layout may be lacking: told when it is wanted
        if name in members.documents:
            documents[Digest(digest)] = members.documents[name]
    return ImageArchive(
        form="oci-archive",
        images={repository: dict(tags) for repository, tags in images.items()},
        blobs=blobs,
        documents=documents,
        refused=members.refused,
        cost=members.cost,
    )


# -- docker-archive ----------------------------------------------------------------------------------------------------


class _Saved(msgspec.Struct, rename="pascal"):
    """One image in `manifest.json`. Docker writes null for what is empty, skopeo an empty list."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


@dataclass(slots=True)
class _Image:
    """One image on its way from names to descriptors."""

    saved: _Saved
    config: Member | None = None
    layers: list[Member] = field(default_factory=list)
    config_digest: Digest | None = None
    diff_ids: tuple[str, ...] = ()
    broken: str = ""


def _read_saved(tar: Tar, members: Members, repository_default: str, limits: Limits) -> ImageArchive:
    images = [
        _Image(saved) for saved in _parse_saved(_small(tar, members, ("manifest.json",), limits)["manifest.json"])
    ]
    _too_many(len(images), limits)
    for image in images:
        _resolve(image, members, limits)
    documents: dict[Digest, bytes] = {}
    wanted = ((number, image.config) for number, image in enumerate(images) if image.config is not None)
    for number, data in tar.documents(wanted):
        images[number].config_digest = sha256_digest(data)
        _read_config(images[number], data)
    hashed = tar.digests(layer for image in images if not image.broken for layer in image.layers if _compression(layer))
    archive = ImageArchive(
        form="docker-archive",
        images={},
        blobs={},
        documents=documents,
        refused=members.refused,
        cost=members.cost,
    )
    for image in images:
        entry = _entry(image, hashed, archive)
        for repository, tag in _names(image, entry, repository_default, alone=len(images) == 1):
            file_under(archive.images.setdefault(repository, {}), tag, entry)
    return archive


def _parse_saved(data: bytes) -> list[_Saved]:
    if data.lstrip()[:1] == b"{":
        raise NotImages(
            "it is a tar of a `dir:` copy of skopeo, which has no names",
            "copy with `skopeo copy dir:... oci-archive:...`",
        )
    try:
        return msgspec.json.decode(data, type=list[_Saved])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"manifest.json in it is malformed: {inert(str(error))}"
        raise DataError(message, _ANEW) from error


def _resolve(image: _Image, members: Members, limits: Limits) -> None:
    """Find the members that an image names."""
    try:
        config = members.find(image.saved.config)
        image.layers = [members.find(name) for name in image.saved.layers or ()]
    except DataError as error:
        image.broken = error.message
        return
    if config.size > limits.config_bytes:
        image.broken = f"its configuration is larger than {limits.config_bytes // MIB} MiB"
    else:
        image.config = config


def _read_config(image: _Image, data: bytes) -> None:
    """Take the diff IDs from an image's configuration, and see that it is the one that is meant."""
    named = _NAMED_BY_HASH.fullmatch(image.saved.config)
    if named and image.config_digest != f"sha256:{named[1]}":
        image.broken = f"its configuration {named[1]} hashes to {image.config_digest}"
        return
    try:
        image.diff_ids = parse_image_config(data).rootfs.diff_ids
    except DataError as error:
        image.broken = error.message
        return
    if len(image.diff_ids) != len(image.layers):
        image.broken = f"it has {len(image.layers)} layers, and its configuration names {len(image.diff_ids)}"
    elif odd := next((text for text in image.diff_ids if not is_digest(text)), ""):
        image.broken = f"its configuration names a layer {inert(odd)!r}, which is no digest"


def _entry(image: _Image, hashed: dict[Member, Digest], archive: ImageArchive) -> Entry:
    """Make the manifest of an image, and note in the archive where its blobs stand."""
    if not image.broken:
        blobs: dict[Digest, Member] = {}
        layers = []
        for member, diff_id in zip(image.layers, image.diff_ids, strict=True):
            digest = hashed.get(member) or Digest(diff_id)
            if (archive.blobs | blobs).get(digest, member).size != member.size:
                image.broken = f"two different files of the archive are the layer {digest}"
            blobs[digest] = member
            layers.append({"mediaType": _LAYER + _compression(member), "digest": digest, "size": member.size})
    if image.broken or image.config is None or image.config_digest is None:
        return Broken(digest=sha256_digest(msgspec.json.encode(image.saved)), reason=image.broken)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": image.config_digest, "size": image.config.size},
        "layers": layers,
    }
    data = msgspec.json.encode(document)
    digest = sha256_digest(data)
    archive.documents[digest] = data
    archive.blobs.update(blobs)
    archive.blobs[image.config_digest] = image.config
    return Descriptor(media_type=OCI_MANIFEST, digest=digest, size=len(data))


def _compression(layer: Member) -> str:
    """The ending of a layer's media type. Its first bytes tell; what others say about layers in such archives is often wrong."""
    if layer.head.startswith(GZIP_MAGIC):
        return "+gzip"
    return "+zstd" if layer.head.startswith(ZSTD_MAGIC) else ""


def _names(image: _Image, entry: Entry, repository_default: str, *, alone: bool) -> list[tuple[str, str]]:
    """Repositories and tags. The host in a name is that of where the image came from, and of no use here."""
    unnamed = "latest" if alone else f"untagged-{short(image.config_digest or entry.digest)}"
    found = []
    for text in image.saved.repo_tags or ():
        try:
            reference = parse_reference(text)
        except DataError:
            continue
        found.append((reference.repository, reference.tag or "latest"))
    return found or [(repository_default, unnamed)]
