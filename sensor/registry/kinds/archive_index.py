"""Which images are in a tar: an OCI layout in it (`oci-archive`), or what `docker save` writes (`docker-archive`).

Where both are (Docker 25 and later), the layout counts: it has the digests. A docker-archive has none, because `docker save` drops the
manifest; one is made here, always the same bytes for the same image, from the configuration and the layers. The digest of the
configuration is the only one that such an image shares with its copy in a registry. An uncompressed layer goes by its diff ID, which
whoever reads the layer verifies, a compressed one by the hash of its bytes.

Opening files is left to `archive_folder`, the bytes to `archive_bytes`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
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
_NAME_COST = 512
"""What a name of an image takes in memory, with what hangs on it."""
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
    if "manifest.json" in members.by_name and (members.ended or "index.json" not in members.by_name):
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
    if not members.ended and any(entry.digest not in blobs for tags in images.values() for entry in tags.values()):
        raise cut_short()
    return ImageArchive(
        form="oci-archive",
        images={repository: dict(tags) for repository, tags in images.items()},
        blobs=blobs,
        documents=documents,
        refused=members.refused,
        cost=members.cost + _NAME_COST * sum(map(len, images.values())),
    )


# -- docker-archive ----------------------------------------------------------------------------------------------------


class _Saved(msgspec.Struct, rename="pascal"):
    """One image in `manifest.json`. Docker writes null for what is empty, skopeo an empty list."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


def _read_saved(tar: Tar, members: Members, repository_default: str, limits: Limits) -> ImageArchive:
    all_saved = _parse_saved(_small(tar, members, ("manifest.json",), limits)["manifest.json"])
    _too_many(sum(len(saved.repo_tags or ("",)) for saved in all_saved), limits)
    found: list[_Found | Broken] = [_find(saved, members, limits) for saved in all_saved]
    whole = [(number, one) for number, one in enumerate(found) if isinstance(one, _Found)]
    hashed = tar.digests(layer for _, one in whole for layer in one.layers if _compression(layer))
    made = _Made(hashed, hold=tar.compressed)
    entries: dict[int, Entry] = {number: one for number, one in enumerate(found) if isinstance(one, Broken)}
    for number, data in tar.documents((number, one.config) for number, one in whole):
        one = found[number]
        assert isinstance(one, _Found)  # noqa: S101 - for the type checker
        entries[number] = made.image(all_saved[number], one, data)
        if members.cost + made.cost > limits.archive_index_bytes:
            raise DataError("its images have too many layers in all", "save fewer images into one file")
    if not members.ended and any(isinstance(entry, Broken) for entry in entries.values()):
        raise cut_short()
    images: dict[str, dict[str, Entry]] = {}
    for number, saved in enumerate(all_saved):
        for repository, tag in _names(saved, entries[number], repository_default, alone=len(all_saved) == 1):
            file_under(images.setdefault(repository, {}), tag, entries[number])
    return ImageArchive(
        form="docker-archive",
        images=images,
        blobs=made.blobs,
        documents=made.documents,
        refused=members.refused,
        cost=members.cost + made.cost + _NAME_COST * sum(map(len, images.values())),
    )


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


@dataclass(frozen=True, slots=True)
class _Found:
    """The members that an image names."""

    config: Member
    layers: tuple[Member, ...]


def _find(saved: _Saved, members: Members, limits: Limits) -> _Found | Broken:
    names = saved.layers or ()
    if len(names) > limits.layers:
        return _broken(saved, f"it has more than {limits.layers} layers")
    try:
        found = _Found(members.find(saved.config), tuple(members.find(name) for name in names))
    except DataError as error:
        return _broken(saved, error.message)
    if found.config.size > limits.config_bytes:
        return _broken(saved, f"its configuration is larger than {limits.config_bytes // MIB} MiB")
    return found


def _broken(saved: _Saved, reason: str) -> Broken:
    return Broken(digest=sha256_digest(msgspec.json.encode(saved)), reason=reason)


class _Made:
    """Makes manifests, and notes where the blobs stand that they name."""

    def __init__(self, hashed: dict[Member, Digest], *, hold: bool) -> None:
        """`hold` keeps the configurations, for a tar that is slow to go back in."""
        self._hashed = hashed
        self._hold = hold
        self.blobs: dict[Digest, Member] = {}
        self.documents: dict[Digest, bytes] = {}
        self.cost = 0

    def image(self, saved: _Saved, found: _Found, config: bytes) -> Entry:
        """One image, from its members and the bytes of its configuration."""
        config_digest = sha256_digest(config)
        named = _NAMED_BY_HASH.fullmatch(saved.config)
        if named and config_digest != f"sha256:{named[1]}":
            return _broken(saved, f"its configuration {named[1]} hashes to {config_digest}")
        try:
            diff_ids = parse_image_config(config).rootfs.diff_ids
        except DataError as error:
            return _broken(saved, error.message)
        if len(diff_ids) != len(found.layers):
            reason = f"it has {len(found.layers)} layers, and its configuration names {len(diff_ids)}"
            return _broken(saved, reason)
        if odd := next((text for text in diff_ids if not is_digest(text)), ""):
            return _broken(saved, f"its configuration names a layer {inert(odd)!r}, which is no digest")
        blobs = {config_digest: found.config}
        layers = []
        for member, diff_id in zip(found.layers, diff_ids, strict=True):
            digest = self._hashed.get(member) or Digest(diff_id)
            if (blobs.get(digest) or self.blobs.get(digest) or member).size != member.size:
                return _broken(saved, f"two different files of the archive are the layer {digest}")
            blobs[digest] = member
            layers.append({"mediaType": _LAYER + _compression(member), "digest": digest, "size": member.size})
        self.blobs |= blobs
        if self._hold:
            self.documents[config_digest] = config
            self.cost += len(config)
        return self._manifest(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": {"mediaType": OCI_CONFIG, "digest": config_digest, "size": len(config)},
                "layers": layers,
            }
        )

    def _manifest(self, document: dict[str, object]) -> Descriptor:
        data = msgspec.json.encode(document)
        digest = sha256_digest(data)
        self.documents[digest] = data
        self.cost += len(data)
        return Descriptor(media_type=OCI_MANIFEST, digest=digest, size=len(data))


def _compression(layer: Member) -> str:
    """The ending of a layer's media type. Its first bytes tell; what others say about layers in such archives is often wrong."""
    if layer.head.startswith(GZIP_MAGIC):
        return "+gzip"
    return "+zstd" if layer.head.startswith(ZSTD_MAGIC) else ""


def _names(saved: _Saved, entry: Entry, repository_default: str, *, alone: bool) -> list[tuple[str, str]]:
    """Repositories and tags. The host in a name is that of where the image came from, and of no use here."""
    found = []
    for text in saved.repo_tags or ():
        try:
            reference = parse_reference(text)
        except DataError:
            continue
        found.append((reference.repository, reference.tag or "latest"))
    return found or [(repository_default, "latest" if alone else f"untagged-{short(entry.digest)}")]
