"""Package URLs (purl-spec, PURL-SPECIFICATION and PURL-TYPES) for the packages of an image.

Distribution packages get `arch`, `distro`, `upstream` and, for rpm, `epoch` as qualifiers, spelled as other scanners spell them.
"""

from __future__ import annotations

from urllib.parse import quote

from sensor.model.package import OsRelease, Package

_RPM_VENDORS = {"rhel": "redhat", "sles": "suse", "sled": "suse", "sle-micro": "suse", "suse": "suse"}


def package_url(package: Package, os_release: OsRelease | None) -> str:
    """The purl of a package in an image of this distribution."""
    if package.type in {"deb", "apk", "rpm"}:
        return _distribution_url(package, os_release)
    namespace, _, name = package.name.rpartition("/")
    if package.type == "pypi":
        name = name.replace("_", "-").lower()
    elif package.type == "npm":
        namespace, name = namespace.lower(), name.lower()
    return _written(package.type, namespace, name, package.version, {})


def _distribution_url(package: Package, os_release: OsRelease | None) -> str:
    version, source_version = package.version, package.source_version
    qualifiers = {"arch": package.arch}
    namespace = name = ""
    if os_release is not None:
        namespace = os_release.id.lower()
        release = os_release.version_id or os_release.version_codename
        qualifiers["distro"] = f"{os_release.id}-{release}" if release else os_release.id
    if package.type == "rpm":
        namespace = "opensuse" if namespace.startswith("opensuse") else _RPM_VENDORS.get(namespace, namespace)
        epoch, colon, rest = version.partition(":")
        if colon and epoch.isdigit():
            version = rest
            qualifiers["epoch"] = epoch
        if package.source_name:
            qualifiers["upstream"] = f"{package.source_name}-{source_version.rpartition(':')[2] or version}.src.rpm"
    elif source_version not in {"", version}:
        qualifiers["upstream"] = f"{package.source_name or package.name}@{source_version}"
    elif package.source_name != package.name:
        qualifiers["upstream"] = package.source_name
    name = package.name.lower() if package.type == "apk" else package.name
    return _written(package.type, namespace, name, version, qualifiers)


def _written(kind: str, namespace: str, name: str, version: str, qualifiers: dict[str, str]) -> str:
    parts = [*(part for part in namespace.split("/") if part), name]
    text = f"pkg:{kind}/{'/'.join(map(_quoted, parts))}"
    if version:
        text += f"@{_quoted(version)}"
    given = "&".join(f"{key}={_quoted(value)}" for key, value in sorted(qualifiers.items()) if value)
    return f"{text}?{given}" if given else text


def _quoted(text: str) -> str:
    """Percent-encoding of everything but unreserved characters, the colon (purl-spec, "Character encoding") and the slash."""
    return quote(text.encode("utf-8", "backslashreplace"), safe="/:")
