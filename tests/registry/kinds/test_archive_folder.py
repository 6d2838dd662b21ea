"""Archives of a directory: what is there together, what is not read again, and what one bad file does to the others."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest

from sensor.errors import DataError
from sensor.limits import DEFAULT_LIMITS, MIB, Limits
from sensor.model.digest import Digest
from sensor.registry.errors import NotARegistry
from sensor.registry.kinds.archive_bytes import Tar
from sensor.registry.kinds.archive_folder import ArchiveFolder, Gathered
from sensor.registry.kinds.archive_index import Broken, read_archive
from tests.fakes.archives import Image, docker_save, layout_members, without, write
from tests.fakes.images import ImageStore
from tests.fakes.layers import digest_of, directory, file, layer, layer_tar

ONE = layer_tar(file("etc/os-release", b"ID=debian\n"))
TWO = layer_tar(file("opt/app", b"two"))


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    path = tmp_path / "drop"
    path.mkdir()
    return path


def save(path: Path, *images: Image, age: float = 0.0, compressed: bool = False) -> Path:
    """Write a docker-archive whose time is `age` seconds before a fixed moment."""
    write(path, *docker_save(*images), compression="gzip" if compressed else "none")
    os.utime(path, (1_700_000_000 - age, 1_700_000_000 - age))
    return path


def gather(path: Path, limits: Limits = DEFAULT_LIMITS) -> Gathered:
    return ArchiveFolder(path, limits).gather()


def named(gathered: Gathered) -> dict[str, str]:
    """Image to file name."""
    return {
        f"{repository}:{tag}": found.file.path.name
        for repository, tags in gathered.images.items()
        for tag, found in tags.items()
    }


def test_every_archive_contributes_its_images(drop: Path, tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "layout")
    store.image("team/app", "v1", [layer(file("a", b"1"))])
    write(drop / "layout.tar", *layout_members(store.root), compression="zstd")
    save(drop / "saved.tar.gz", Image(["host.example/team/app:v2"], [ONE]), compressed=True)
    save(drop / "My Image-1.4.tar", Image(None, [TWO]))
    (drop / "app.tar.sha256").write_text("abc  app.tar\n")
    (drop / "notes.gz").write_bytes(b"\x1f\x8b")
    (drop / ".saved.tar.part").write_bytes(b"half")
    (drop / "saved.done").touch()
    (drop / "below").mkdir()
    found = gather(drop)
    assert named(found) == {
        "team/app:v1": "layout.tar",
        "team/app:v2": "saved.tar.gz",
        "my-image-1-4:latest": "My Image-1.4.tar",
    }
    assert (found.archives, found.forms, found.passed_over) == (3, {"oci-archive", "docker-archive"}, 3)
    assert [error.message for error in found.problems] == ["notes.gz: its compression is damaged or cut short"]


def test_an_unreadable_file_is_named_and_hides_nothing(drop: Path) -> None:
    save(drop / "good.tar", Image(["app:1"], [ONE]))
    whole = save(drop / "half.tar", Image(["app:2"], [TWO])).read_bytes()
    (drop / "half.tar").write_bytes(whole[:3000])
    (drop / "page.tar").write_text("<html>not found</html>" * 40)
    write(drop / "root.tar", directory("etc"), directory("usr"), directory("var"), directory("bin"))
    (drop / "empty.tar").touch()
    save(drop / "closed.tar", Image(["app:3"], [ONE]))
    found = gather(drop)
    assert set(named(found)) == {"app:1", "app:3"}
    told = {error.message.partition(":")[0]: error for error in found.problems}
    assert set(told) == {"half.tar", "page.tar", "root.tar", "empty.tar"}
    assert told["half.tar"].retryable
    assert told["empty.tar"].retryable
    assert "docker export" in told["root.tar"].message
    assert "half.tar: it is cut short" in found.reason


def test_only_some_reasons_are_told_one_by_one(drop: Path) -> None:
    for number in range(8):
        (drop / f"{number}.tar").touch()
    assert gather(drop).reason.endswith("; and 3 more")


def test_of_two_files_with_one_name_the_newer_has_the_tag_and_the_older_is_kept(drop: Path) -> None:
    save(drop / "a-old.tar", Image(["app:latest"], [ONE]), age=100)
    save(drop / "b-new.tar", Image(["app:latest"], [TWO]), age=10)
    save(drop / "c-oldest.tar", Image(["app:latest", "app:1"], [TWO]), age=1000)
    found = gather(drop)
    old = found.images["app"][f"latest.{digest_of_image([ONE])[7:19]}"]
    assert named(found) == {
        "app:latest": "b-new.tar",
        f"app:latest.{old.entry.digest[7:19]}": "a-old.tar",
        "app:1": "c-oldest.tar",
    }
    assert found.doubled == [f"app:latest of a-old.tar as latest.{old.entry.digest[7:19]}"]
    assert [one.path.name for one in found.files["app"]] == ["b-new.tar", "a-old.tar", "c-oldest.tar"]
    assert found.problems == []


def digest_of_image(layers: list[bytes]) -> Digest:
    tar = Tar(io.BytesIO(layer_tar(*docker_save(Image(["x:1"], layers)))), DEFAULT_LIMITS)
    return read_archive(tar, "x", DEFAULT_LIMITS).images["x"]["1"].digest


def test_links_out_of_the_directory_are_told_and_links_inside_are_nothing_new(drop: Path, tmp_path: Path) -> None:
    save(drop / "app.tar", Image(["app:1"], [ONE]))
    save(tmp_path / "outside.tar", Image(["secret:1"], [TWO]))
    (drop / "latest.tar").symlink_to("app.tar")
    (drop / "out.tar").symlink_to(tmp_path / "outside.tar")
    found = gather(drop)
    assert named(found) == {"app:1": "app.tar"}
    assert found.reason == "out.tar: it is a link out of the directory"


def test_a_pipe_does_not_make_us_wait(drop: Path) -> None:
    os.mkfifo(drop / "pipe.tar")
    assert gather(drop).passed_over == 1
    with pytest.raises(DataError, match="no file"):
        gather(drop / "pipe.tar")


def test_a_single_file_is_read_through_a_link(drop: Path, tmp_path: Path) -> None:
    save(drop / "app.tar", Image(["app:1"], [ONE]))
    (tmp_path / "current").symlink_to(drop / "app.tar")
    assert named(gather(tmp_path / "current")) == {"app:1": "current"}


def test_a_single_file_that_cannot_be_read_is_an_error(drop: Path) -> None:
    (drop / "x.tar").write_bytes(layer_tar(file("a"))[:600])
    with pytest.raises(DataError, match=r"x\.tar: ") as caught:
        gather(drop / "x.tar")
    assert caught.value.retryable
    with pytest.raises(NotARegistry, match="No such file"):
        gather(drop / "nosuch.tar")


def test_what_is_no_directory_of_archives_is_told_as_what_it_is(drop: Path) -> None:
    ImageStore(drop / "layout")
    with pytest.raises(NotARegistry, match="is an OCI image layout") as caught:
        gather(drop / "layout")
    assert caught.value.advice == f"write oci:{drop}/layout"
    copied = drop / "copied"
    copied.mkdir()
    (copied / "manifest.json").write_text("{}")
    (copied / "version").write_text("1.0")
    assert gather(copied).images == {}
    (copied / "version").write_text("Directory Transport Version: 1.1\n")
    with pytest.raises(NotARegistry, match="`dir:` copy of skopeo"):
        gather(copied)


class Counting(ArchiveFolder):
    """Counts the archives that are really read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, DEFAULT_LIMITS)
        self.read: list[str] = []

    def _index(self, path: Path) -> object:  # type: ignore[override]
        self.read.append(path.name)
        return super()._index(path)

    def again(self) -> tuple[set[str], list[str]]:
        """What is there now, and what was read to find out."""
        self.read = []
        images = set(named(self.gather()))
        return images, sorted(self.read)


def test_only_what_changed_is_read_again(drop: Path) -> None:
    save(drop / "a.tar", Image(["a:1"], [ONE]))
    save(drop / "b.tar", Image(["b:1"], [TWO]))
    (drop / "bad.tar").write_bytes(b"x" * 1000)
    folder = Counting(drop)
    assert folder.again() == ({"a:1", "b:1"}, ["a.tar", "b.tar", "bad.tar"])
    assert folder.again() == ({"a:1", "b:1"}, [])
    save(drop / "c.tar", Image(["c:1"], [ONE]))
    (drop / "b.tar").unlink()
    assert folder.again() == ({"a:1", "c:1"}, ["c.tar"])
    save(drop / "new", Image(["a:2"], [ONE, TWO]))
    (drop / "new").replace(drop / "a.tar")
    assert folder.again() == ({"a:2", "c:1"}, ["a.tar"])
    os.utime(drop / "c.tar", (1, 1))
    assert folder.again() == ({"a:2", "c:1"}, ["c.tar"])
    save(drop / "b.tar", Image(["b:1"], [TWO]))
    assert folder.again() == ({"a:2", "b:1", "c:1"}, ["b.tar"])


def test_a_file_that_grows_until_it_is_whole(drop: Path) -> None:
    whole = layer_tar(*docker_save(Image(["app:1"], [ONE])))
    path = drop / "app.tar"
    folder = ArchiveFolder(drop, DEFAULT_LIMITS)
    for size in (100, 600, len(whole) - 9000, len(whole)):
        path.write_bytes(whole[:size])
        found = folder.gather()
        assert bool(found.problems) == (size < len(whole))
        assert all(error.retryable for error in found.problems)
    assert set(named(found)) == {"app:1"}


def test_pieces_of_a_file_that_changes_are_not_taken_for_whole(drop: Path) -> None:
    path = save(drop / "app.tar", Image(["app:1"], [layer_tar(file("big", bytes(3 * MIB)))]))
    found = gather(path).images["app"]["1"].file
    (digest,) = [digest for digest, member in found.archive.blobs.items() if member.size > MIB]
    assert found.is_current
    with found.open() as opened:
        pieces = found.pieces(opened, found.archive.blobs[digest], DEFAULT_LIMITS)
        next(pieces)
        os.utime(path, (5, 5))
        with pytest.raises(DataError, match=r"app\.tar: it was changed while it was read") as caught:
            list(pieces)
    assert caught.value.retryable
    assert not found.is_current
    with pytest.raises(DataError, match="changed") as caught:
        found.open()
    path.unlink()
    assert not found.is_current
    with pytest.raises(DataError, match="cannot be read: No such file"):
        found.open()


def test_a_change_while_the_index_is_read_is_noticed(drop: Path) -> None:
    path = save(drop / "app.tar", Image(["app:1"], [ONE]))

    class Meddling:
        """Limits that have the file touched when they are asked for."""

        def __getattr__(self, name: str) -> object:
            if name == "archive_members":
                os.utime(path, (7, 7))
            return getattr(DEFAULT_LIMITS, name)

    with pytest.raises(DataError, match="changed while it was read") as caught:
        ArchiveFolder(path, Meddling()).gather()  # type: ignore[arg-type]
    assert caught.value.retryable
    assert set(named(gather(path))) == {"app:1"}


def test_documents_come_from_memory_or_the_file(drop: Path, tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "layout")
    built = store.image("app", "1", [layer(file("a", b"1"))])
    path = write(drop / "app.tar", *layout_members(store.root))
    found = gather(path).images["app"]["1"].file
    assert found.document(built.digest, DEFAULT_LIMITS) == built.data
    assert found.document(digest_of(b"none"), DEFAULT_LIMITS) is None
    with pytest.raises(DataError, match="is larger than"):
        found.document(built.digest, replace(DEFAULT_LIMITS, manifest_bytes=10))


def test_bounds_hold(drop: Path) -> None:
    for number in range(6):
        save(drop / f"{number}.tar", Image([f"app:{number}"], [ONE]), age=number)
    found = gather(drop, replace(DEFAULT_LIMITS, archive_files=3))
    assert "holds more than 3 files" in found.reason
    assert found.archives <= 4
    cost = gather(drop / "0.tar").images["app"]["0"].file.archive.cost
    found = gather(drop, replace(DEFAULT_LIMITS, archive_directory_bytes=cost * 3))
    assert set(named(found)) == {"app:0", "app:1", "app:2"}
    assert found.reason == "older files than 3.tar, and it, are more than are kept in memory"


def test_broken_images_are_listed(drop: Path) -> None:
    members = docker_save(Image(["app:1"], [ONE]), Image(["app:2"], [TWO]))
    write(drop / "app.tar", *without(members, f"{digest_of(TWO)[7:]}.tar"))
    found = gather(drop)
    assert set(named(found)) == {"app:1", "app:2"}
    assert isinstance(found.images["app"]["2"].entry, Broken)


def test_members_that_were_passed_over_are_counted(drop: Path) -> None:
    write(drop / "app.tar", file("/etc/passwd"), file("../up"), *docker_save(Image(["app:1"], [ONE])))
    assert gather(drop).refused == 2
