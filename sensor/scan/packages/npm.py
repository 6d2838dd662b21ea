"""Catalogs installed npm packages by the `package.json` in the root of each.

A root is `node_modules/NAME` or `node_modules/@SCOPE/NAME`, however deep (pnpm keeps the real ones under `node_modules/.pnpm`), the same in
the directories where Debian's Node looks, and a copy that a package carries in its own `vendor/NAME`. Files of that name elsewhere are
fixtures, module-type markers or the application itself. Lock files say what was wanted, not what is installed, and are not looked at.
"""

from __future__ import annotations

import re

import msgspec

from sensor.errors import DataError
from sensor.limits import Limits
from sensor.model.package import Evidence
from sensor.scan.packages.ecosystem import Content, Ecosystem, Findings

_NAME = r"(?:@[^/]+/)?[^/@.][^/]*"
_ROOT = re.compile(
    rf"(?:^|/)node_modules/{_NAME}/package\.json$|^usr/(?:share|lib)/nodejs/{_NAME}/package\.json$|^opt/yarn-v[^/]+/package\.json$"
)
"""The second form is Debian's (its Node policy, "Directory location"), the third is where the official Node images put Yarn."""
_VENDORED = re.compile(rf"(?:^|/)node_modules/{_NAME}/vendor/(?P<name>{_NAME})/package\.json$")
_NO_LICENSE = msgspec.Raw(b"null")


class _Manifest(msgspec.Struct, gc=False):
    """The fields that are wanted; msgspec skips the rest without building it."""

    name: str | None = None
    version: str | None = None
    license: msgspec.Raw = _NO_LICENSE
    licenses: msgspec.Raw = _NO_LICENSE


class _License(msgspec.Struct, gc=False):
    """The object form that npm has deprecated and old packages still carry."""

    type: str = ""


_decode_manifest = msgspec.json.Decoder(_Manifest).decode
_decode_license = msgspec.json.Decoder(str | _License | list[str | _License] | None).decode


def _wants(path: str) -> bool:
    return _ROOT.search(path) is not None or _VENDORED.search(path) is not None


def _read(path: str, content: Content, limits: Limits) -> Evidence:
    """Without a name or a version the file is not a package (a module-type marker), and there is nothing to report.

    Nobody promises that a directory in `vendor` is a package, so there the name has to fit it.
    """
    manifest = _decode(path, content.read())
    findings = Findings(ECOSYSTEM.name, path, limits)
    vendored = _VENDORED.search(path)
    if manifest.name and manifest.version and (vendored is None or vendored["name"] == manifest.name):
        version = manifest.version.strip().lstrip("=v").strip() or manifest.version
        findings.package("npm", manifest.name, version, license=_license(manifest))
    return findings.evidence()


def _decode(path: str, data: bytes) -> _Manifest:
    if not data.isascii():
        data = data.decode("utf-8-sig", "replace").encode()
    try:
        return _decode_manifest(data)
    except RecursionError:
        message = f"{path} is nested too deeply"
        raise DataError(message) from None
    except msgspec.MsgspecError as error:
        message = f"{path} is not the manifest of a package: {error}"
        raise DataError(message) from error


def _license(manifest: _Manifest) -> str:
    """The licence in any of the forms that npm has had: text, an object with a type, a list of either."""
    for raw in (manifest.license, manifest.licenses):
        try:
            declared = _decode_license(raw)
        except (msgspec.MsgspecError, RecursionError):
            continue
        match declared:
            case str() if declared:
                return declared
            case _License() if declared.type:
                return declared.type
            case list():
                return " OR ".join(filter(None, (item if isinstance(item, str) else item.type for item in declared)))
            case _:
                continue
    return ""


ECOSYSTEM = Ecosystem(
    name="npm",
    version=2,
    read=_read,
    wants=_wants,
    names=frozenset({"package.json"}),
    most_bytes=lambda limits: limits.metadata_file_bytes,
)
