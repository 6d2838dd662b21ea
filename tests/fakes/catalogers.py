"""A small cataloger for tests of the walk and the squash, and the way from tar members to inventories.

Its files are lines of `name version`; `db` stands for a whole database, `pkg` for one file a package, ELF files for programs.
"""

from __future__ import annotations

from collections.abc import Sequence

from sensor.errors import DataError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.model.package import Evidence, LayerInventory, Package
from sensor.scan.packages.ecosystem import Content, Ecosystem
from sensor.scan.stream import LayerStream
from tests.fakes.layers import Compression, Entry, layer

NEEDLE = b"\xff needle:"
ELF = b"\x7fELF"


def packages_in(path: str, text: str, kind: str) -> tuple[Package, ...]:
    pairs = [line.split() for line in text.splitlines() if len(line.split()) == 2 and not line.startswith("owns ")]
    return tuple(Package(type=kind, name=name, version=version, path=path) for name, version in pairs)  # type: ignore[arg-type]


def read_db(path: str, content: Content, _limits: Limits) -> Evidence:
    text = content.read().decode()
    if text.startswith("broken"):
        raise DataError("the database is broken")
    if text.startswith("crash"):
        raise IndexError(text)
    owns = [line.split()[1:] for line in text.splitlines() if line.startswith("owns ")]
    return Evidence(
        cataloger="db", path=path, packages=packages_in(path, text, "deb"), owns=tuple((p, n) for p, n in owns)
    )


def read_pkg(path: str, content: Content, _limits: Limits) -> Evidence:
    return Evidence(cataloger="pkg", path=path, packages=packages_in(path, content.read().decode(), "npm"))


def read_program(path: str, content: Content, _limits: Limits) -> Evidence:
    data = bytes(content.view())
    text = data.partition(NEEDLE)[2].partition(b"\0")[0].decode()
    return Evidence(cataloger="program", path=path, packages=packages_in(path, text, "golang"))


DB = Ecosystem(
    name="db", version=1, read=read_db, names=frozenset({"db"}), most_bytes=lambda limits: limits.package_file_bytes
)
PKG = Ecosystem(
    name="pkg",
    version=1,
    read=read_pkg,
    names=frozenset({"pkg"}),
    directories=frozenset({"var/lib/pkgs"}),
    suffixes=(".pkg",),
    wants=lambda path: not path.startswith("ignored/"),
    most_bytes=lambda limits: limits.metadata_file_bytes,
)
PROGRAM = Ecosystem(
    name="program",
    version=2,
    read=read_program,
    magics=(ELF,),
    needle=NEEDLE,
    spooled=True,
    most_bytes=lambda limits: limits.spool_bytes,
)
CATALOGERS = (DB, PKG, PROGRAM)


def program(text: str, padding: int = 0) -> bytes:
    """An ELF file with packages behind a needle."""
    return ELF + bytes(padding) + NEEDLE + text.encode() + b"\0tail"


def inventory_of(
    blob: bytes, *, limits: Limits = DEFAULT_LIMITS, step: int = 1 << 20, catalogers: Sequence[Ecosystem] = CATALOGERS
) -> LayerInventory:
    """Walk a blob, fed in steps."""
    stream = LayerStream(catalogers, limits)
    for start in range(0, len(blob), step):
        stream.feed(blob[start : start + step])
    return stream.finish("sha256:layer")


def layer_inventory(
    *entries: Entry, compression: Compression = "gzip", limits: Limits = DEFAULT_LIMITS
) -> LayerInventory:
    """Members to inventory."""
    return inventory_of(layer(*entries, compression=compression), limits=limits)
