"""Version orders of the package ecosystems, and the table that says which ecosystem of an advisory uses which."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sensor.versions.apk import APK
from sensor.versions.deb import DEB
from sensor.versions.names import base_ecosystem
from sensor.versions.order import VersionOrder, compare
from sensor.versions.pep440 import PEP440
from sensor.versions.rpm import RPM
from sensor.versions.semver import SEMVER

__all__ = ["ORDERS", "VersionOrder", "compare", "order_of"]

ORDERS: Mapping[str, VersionOrder] = MappingProxyType(
    {
        "Debian": DEB,
        "Ubuntu": DEB,
        "Alpine": APK,
        "Alpaquita": APK,
        "BellSoft Hardened Containers": APK,
        "Chainguard": APK,
        "MinimOS": APK,
        "Wolfi": APK,
        "AlmaLinux": RPM,
        "Azure Linux": RPM,
        "Mageia": RPM,
        "Photon OS": RPM,
        "Red Hat": RPM,
        "Rocky Linux": RPM,
        "SUSE": RPM,
        "openEuler": RPM,
        "openSUSE": RPM,
        "PyPI": PEP440,
        "Go": SEMVER,
        "npm": SEMVER,
    }
)
"""Base names of OSV ecosystems (OSV schema, "Defined ecosystems") that this sensor can judge, each with its order."""


def order_of(ecosystem: str) -> VersionOrder | None:
    """The order of an ecosystem, with or without suffix; None where the sensor cannot compare its versions."""
    return ORDERS.get(base_ecosystem(ecosystem))
