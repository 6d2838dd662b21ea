import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.model.advisory import Advisory, Affected, Range

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
RANGES = st.builds(
    Range,
    type=st.sampled_from(["SEMVER", "ECOSYSTEM"]),
    events=st.lists(
        st.tuples(st.sampled_from(["introduced", "fixed", "last_affected", "limit"]), TEXT), max_size=4
    ).map(tuple),
)
AFFECTED = st.builds(
    Affected, advisory=TEXT, ecosystem=TEXT, name=TEXT, ranges=st.lists(RANGES, max_size=3).map(tuple), versions=st.lists(TEXT, max_size=3).map(tuple)
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(AFFECTED)
def test_an_affected_entry_survives_its_store(affected: Affected) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(affected), type=Affected) == affected


def test_an_advisory_survives_its_store() -> None:
    record = Advisory(
        id="GHSA-1", aliases=("CVE-2026-1",), severity=(("CVSS_V3", "CVSS:3.1/AV:N"),), summary="s", is_malware=True
    )
    assert msgspec.json.decode(msgspec.json.encode(record), type=Advisory) == record


@pytest.mark.parametrize(
    "stored", [["GIT", []], ["SEMVER", [["erased", "1"]]], ["SEMVER", [["fixed"]]], ["SEMVER", [["fixed", 1]]]]
)
def test_ranges_of_an_unknown_kind_are_refused(stored: list[object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(stored, type=Range)
