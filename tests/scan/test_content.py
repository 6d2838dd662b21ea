from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sensor.errors import DataError
from sensor.scan.content import Capture, Spool, SpooledContent


@pytest.fixture
def spool() -> Spool:
    return Spool()


def captured(
    data: bytes,
    *,
    needles: frozenset[bytes] = frozenset(),
    spool: Spool | None = None,
    spool_from: int = 100,
    in_memory: bool = False,
    step: int = 10,
) -> Capture:
    seen: list[Capture] = []
    capture = Capture(
        needles=needles, hold=True, spool=spool, spool_from=spool_from, in_memory=in_memory, finished=seen.append
    )
    for start in range(0, len(data), step):
        capture.write(b"<<" + data[start : start + step] + b">>", 2, 2 + len(data[start : start + step]))
    return capture


def test_small_content_stays_in_memory(spool: Spool) -> None:
    capture = captured(b"0123456789" * 5, spool=spool)
    assert (capture.size, capture.spilled) == (50, False)
    assert capture.data() == b"0123456789" * 5


@pytest.mark.parametrize("spilled", [True, False])
def test_spooled_content_reads_the_same_from_memory_and_from_the_file(spool: Spool, spilled: bool) -> None:
    data = b"0123456789" * 50
    capture = captured(data, spool=spool, spool_from=100 if spilled else 1000)
    assert capture.spilled is spilled
    content = SpooledContent(capture.size, capture.pieces, spool, spilled=capture.spilled)
    assert content.size == 500
    assert content.read() == data
    with content.view() as view:
        assert view[10:20] == b"0123456789"
    assert Path(content.path()).read_bytes() == data
    assert Path(content.path()).read_bytes() == data
    content.release()
    spool.close()


def test_the_file_is_used_again_and_holds_nothing_of_the_one_before(spool: Spool) -> None:
    for data in (b"a" * 500, b"b" * 300, b"c" * 400):
        capture = captured(data, spool=spool)
        content = SpooledContent(capture.size, capture.pieces, spool, spilled=True)
        assert content.read() == data
        assert Path(content.path()).read_bytes() == data
        content.release()
    spool.close()


def test_a_view_that_is_kept_outlives_the_content(spool: Spool) -> None:
    capture = captured(b"a" * 5000, spool=spool)
    content = SpooledContent(capture.size, capture.pieces, spool, spilled=True)
    view = content.view()
    content.release()
    spool.append([memoryview(b"b" * 5000)])
    assert bytes(view) == b"a" * 5000
    spool.close()


def test_an_empty_file_can_be_read(spool: Spool) -> None:
    content = SpooledContent(0, [], spool, spilled=False)
    assert content.read() == b""
    assert Path(content.path()).read_bytes() == b""
    assert bytes(content.view()) == b""
    content.release()
    spool.close()


@pytest.mark.parametrize("step", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("data", [b"xxneedlexx", b"needle", b"nneedle", b"neeneedle", b"needlneedle"])
def test_needles_are_found_wherever_the_pieces_break(step: int, data: bytes) -> None:
    assert captured(data, needles=frozenset({b"needle", b"absent", b"e"}), step=step).found == {b"needle", b"e"}


@pytest.mark.parametrize("step", [1, 4, 100])
def test_bytes_around_a_piece_do_not_count(step: int) -> None:
    assert captured(b"need", needles=frozenset({b"need>", b"<need", b"<<", b"need>>"}), step=step).found == set()


class FullSpool(Spool):
    """A disk with room for so many pieces."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room

    def append(self, pieces: list[memoryview]) -> None:
        self._room -= len(pieces)
        if self._room < 0:
            raise OSError(28, "No space left on device")
        super().append(pieces)


def test_a_full_disk_is_a_failure_of_the_file() -> None:
    capture = captured(b"a" * 500, spool=FullSpool(0))
    assert "No space left" in capture.failure
    with pytest.raises(DataError, match="No space"):
        capture.data()


def test_without_room_on_disk_a_file_of_bearable_size_stays_in_memory() -> None:
    spool = FullSpool(0)
    capture = captured(b"abcde" * 100, spool=spool, in_memory=True)
    assert (capture.failure, capture.spilled, capture.data()) == ("", False, b"abcde" * 100)
    assert SpooledContent(capture.size, capture.pieces, spool, spilled=False).read() == b"abcde" * 100


def test_a_disk_that_fills_up_half_way_is_a_failure_of_the_file() -> None:
    spool = FullSpool(20)
    capture = captured(b"a" * 500, spool=spool, in_memory=True)
    assert "No space left" in capture.failure
    assert capture.pieces == []
    spool.close()


def test_the_callback_sees_the_complete_capture(spool: Spool) -> None:
    sizes: list[int] = []
    finished: Callable[[Capture], None] = lambda capture: sizes.append(capture.size)  # noqa: E731
    capture = Capture(needles=frozenset(), hold=True, spool=spool, spool_from=3, finished=finished)
    capture.write(b"abcdef", 1, 5)
    capture.close()
    assert sizes == [4]
    assert capture.pieces == []
    spool.close()
