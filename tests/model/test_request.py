import msgspec
import pytest

from sensor.model.digest import Digest
from sensor.model.request import JobRequest, Lane, RematchRequest, ScanRequest, SweepRequest, Work

WORK: list[Work] = [
    SweepRequest(registry="a", reason="asked"),
    ScanRequest(registry="a", repository="acme/app", tag="1", digest=Digest("sha256:" + "0" * 64)),
    JobRequest(link="l", job="j", reference="acme/app:1", scanners=("trivy",)),
    RematchRequest(revision="2026-05-01"),
]


@pytest.mark.parametrize("work", WORK, ids=lambda work: type(work).__name__)
def test_work_survives_the_queue_as_what_it_was(work: Work) -> None:
    again = msgspec.json.decode(msgspec.json.encode(work), type=Work)
    assert again == work
    assert type(again) is type(work)


def test_work_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"type":"erase"}', type=Work)


def test_lanes_are_taken_in_order() -> None:
    assert sorted([Lane.AGAIN, Lane.NEW, Lane.NOW]) == [Lane.NOW, Lane.NEW, Lane.AGAIN]
