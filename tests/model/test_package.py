from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.model.digest import Digest
from sensor.model.package import Evidence, Gap, ImageInventory, InstalledPackage, LayerInventory, OsRelease, Package

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PACKAGES = st.builds(
    Package,
    type=st.sampled_from(["deb", "apk", "rpm", "pypi", "npm", "golang"]),
    name=TEXT,
    version=TEXT,
    path=TEXT,
    source_name=TEXT,
    license=TEXT,
)
GAPS = st.builds(Gap, kind=TEXT, subject=TEXT, reason=TEXT)
EVIDENCE = st.builds(
    Evidence,
    cataloger=TEXT,
    path=TEXT,
    packages=st.lists(PACKAGES, max_size=3).map(tuple),
    owns=st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple),
)
INVENTORIES = st.builds(
    LayerInventory,
    evidence=st.lists(EVIDENCE, max_size=3).map(tuple),
    os_release=st.dictionaries(TEXT, st.builds(OsRelease, id=TEXT, version_id=TEXT), max_size=1),
    whiteouts=st.lists(TEXT, max_size=2).map(tuple),
    symlinks=st.dictionaries(TEXT, TEXT, max_size=2),
    files=st.binary(max_size=20),
    entries=st.integers(0, 2**40),
    gaps=st.lists(GAPS, max_size=2).map(tuple),
)


@settings(deadline=None, max_examples=60)
@given(INVENTORIES)
def test_a_layer_inventory_survives_its_cache(inventory: LayerInventory) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(inventory), type=LayerInventory) == inventory
    assert msgspec.json.decode(msgspec.json.encode(inventory), type=LayerInventory) == inventory


def test_an_image_inventory_survives_its_store() -> None:
    digest = Digest("sha256:" + "0" * 64)
    package = Package(type="deb", name="openssl", version="1:3.0.11-1", path="var/lib/dpkg/status", arch="amd64")
    found = ImageInventory(
        manifest=digest,
        platform="linux/amd64",
        os_release=OsRelease(id="debian", version_id="12"),
        packages=(InstalledPackage(package=package, layer=digest, purl="pkg:deb/debian/openssl@1:3.0.11-1"),),
    )
    assert msgspec.json.decode(msgspec.json.encode(found), type=ImageInventory) == found


@pytest.mark.parametrize("change", [{"type": "gem"}, {"name": 5}, {"version": None}])
def test_stored_data_of_a_wrong_type_is_refused(change: dict[str, Any]) -> None:
    raw = {"type": "deb", "name": "a", "version": "1", "path": "p", **change}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(raw, type=Package)


def test_values_do_not_share_their_empty_containers() -> None:
    first, second = LayerInventory(), LayerInventory()
    first.symlinks["a"] = "b"
    assert second.symlinks == {}
