"""Real images for the end-to-end tests: one of unpacked Debian packages, one with an apk database, one with an rpm database.

    debian = debian_image(tmp_path)          # layer blobs, lowest first
    write_layout(tmp_path / "layout", {"team/debian:12": debian, "team/alpine:3.18": alpine_image()})

The Debian packages come from the machine's own package sources and are unpacked by dpkg itself.
"""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from sensor.cli.machine import LayoutWriter
from sensor.model.digest import Digest, sha256_digest
from sensor.model.manifest import OCI_CONFIG
from tests.fakes.layers import compressed, directory, file, layer
from tests.fakes.rpmdb import RpmPackage, database

DEBIAN_PACKAGES = ("base-files", "zlib1g", "tzdata")
"""Small, without dependencies that must run; zlib1g has advisories in the shipped extract."""

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

APK_DATABASE = b"""\
C:Q1pSnrJ0YyEDJYW9HKbGXxaEiDVGA=
P:musl
V:1.2.4-r1
A:x86_64
o:musl
L:MIT
F:lib
R:ld-musl-x86_64.so.1

P:libssl3
V:3.1.1-r0
A:x86_64
o:openssl
L:Apache-2.0

"""


def debian_image(room: Path) -> list[bytes]:
    """A root of real Debian packages as two layers: the packages, then a Python application on top."""
    packages, root = room / "debs", room / "root"
    packages.mkdir()
    (root / "var/lib/dpkg/updates").mkdir(parents=True)
    (root / "var/lib/dpkg/info").mkdir()
    (root / "var/lib/dpkg/status").touch()
    _download(packages)
    # --unpack runs no maintainer scripts but preinst; --root needs no chroot then, and --force-all no dependencies
    subprocess.run(
        [
            "dpkg",
            f"--root={root}",
            "--force-all",
            "--force-script-chrootless",
            "--unpack",
            *map(str, sorted(packages.glob("*.deb"))),
        ],
        check=True,
        capture_output=True,
    )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(root, arcname=".")
    return [compressed(buffer.getvalue()), python_layer("Jinja2", "2.10")]


def _download(target: Path) -> None:
    command = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *DEBIAN_PACKAGES]
    if subprocess.run(command, cwd=target, capture_output=True, check=False).returncode != 0:
        subprocess.run(["apt-get", "update", "-qq"], check=True, capture_output=True)
        subprocess.run(command, cwd=target, check=True, capture_output=True)


def python_layer(name: str, version: str) -> bytes:
    """A layer with one installed Python distribution."""
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\n"
    return layer(file(f"opt/app/lib/python3.11/site-packages/{name}-{version}.dist-info/METADATA", text.encode()))


def alpine_image() -> list[bytes]:
    """An Alpine-style root: os-release and an apk database."""
    release = b'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.18.4\n'
    return [layer(directory("etc"), file("etc/os-release", release), file("lib/apk/db/installed", APK_DATABASE))]


def rpm_image(room: Path) -> list[bytes]:
    """An rpm-style root: os-release and a SQLite rpm database with real header blobs."""
    path = room / "rpmdb.sqlite"
    database(
        path,
        RpmPackage(
            name="openssl-libs", version="3.0.7", release="18.el9", epoch=1, source="openssl-3.0.7-18.el9.src.rpm"
        ),
        RpmPackage(name="bash", version="5.1.8", release="6.el9_1", source="bash-5.1.8-6.el9_1.src.rpm"),
    )
    release = b'NAME="AlmaLinux"\nID="almalinux"\nVERSION_ID="9.3"\n'
    return [layer(file("etc/os-release", release), file("var/lib/rpm/rpmdb.sqlite", path.read_bytes()))]


def write_layout(target: Path, images: Mapping[str, Sequence[bytes]]) -> dict[str, Digest]:
    """Write images (name to layer blobs) as one OCI image layout; returns the manifest digests."""
    writer = LayoutWriter(target)
    digests = {}
    for name, blobs in images.items():
        config = {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [sha256_digest(gzip.decompress(blob)) for blob in blobs]},
            "history": [{"created_by": f"step {number}"} for number in range(len(blobs))],
        }
        descriptor = {"mediaType": OCI_CONFIG, **writer.blob(json.dumps(config).encode())}
        digests[name] = writer.manifest(descriptor, [{"mediaType": LAYER, **writer.blob(blob)} for blob in blobs], name)
    writer.close()
    return digests
