"""The catalogers, in the order in which they are asked. One file is one ecosystem; adding one is one line here."""

from __future__ import annotations

from sensor.scan.packages import apk, dpkg, golang, npm, python, rpm
from sensor.scan.packages.ecosystem import Ecosystem

ECOSYSTEMS: tuple[Ecosystem, ...] = (
    dpkg.ECOSYSTEM,
    apk.ECOSYSTEM,
    rpm.ECOSYSTEM,
    python.ECOSYSTEM,
    npm.ECOSYSTEM,
    golang.ECOSYSTEM,
)
