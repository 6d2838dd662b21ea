from __future__ import annotations

import pytest

from sensor.advisories.feeds import FEEDS
from sensor.advisories.feeds.feed import Feed
from sensor.errors import DataError
from sensor.limits import DEFAULT_LIMITS


@pytest.mark.parametrize("feed", FEEDS, ids=lambda feed: feed.name)
class TestEveryFeed:
    def test_has_an_identity(self, feed: Feed) -> None:
        assert feed.name
        assert feed.version >= 1

    @pytest.mark.parametrize("data", [b"", b"\x00\xff", b"[]", b"{}", b"null", b"[" * 100_000])
    def test_refuses_bytes_that_are_no_record(self, feed: Feed, data: bytes) -> None:
        with pytest.raises(DataError):
            feed.parse(data, DEFAULT_LIMITS)


def test_feeds_have_different_names() -> None:
    assert len({feed.name for feed in FEEDS}) == len(FEEDS)
