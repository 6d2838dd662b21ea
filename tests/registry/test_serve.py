"""An image layout served as a registry: to our client, to skopeo, and to hostile requests."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from sensor.errors import DataError
from sensor.registry.errors import NotARegistry
from sensor.registry.serve import make_app, serve
from sensor.transport import NO_RETRY, Reply, Transport
from tests.fakes.images import REF_NAME, ImageStore
from tests.fakes.layers import file, layer
from tests.registry.conftest import Connect, Images


async def ask(url: str, path: str, method: str = "GET", **headers: str) -> Reply:
    transport = Transport()
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await transport.fetch(method, url + path, headers=named, retry=NO_RETRY)
    finally:
        await transport.close()


def code(reply: Reply) -> str:
    return str(json.loads(reply.body)["errors"][0]["code"])


async def test_our_client_reads_everything(images: Images, connect: Connect) -> None:
    async with serve(images.store.root) as url, connect(url) as client:
        assert (await client.ping()).authenticated
        assert (await client.repositories()).names == ("charts/app", "multi", "team/app", "team/other")
        assert "v1" in (await client.tags("team/app")).names
        assert (await client.head("team/app", "v1")).digest == images.app.digest
        fetched = await client.manifest("multi", images.multi.digest)
        assert fetched.data == images.multi.data
        child = fetched.document.manifests[1]  # type: ignore[union-attr]
        assert (await client.manifest("multi", child.digest)).digest == child.digest
        descriptor = (await client.manifest("team/app", "v1")).document.layers[0]  # type: ignore[union-attr]
        assert b"".join([chunk async for chunk in client.blob("team/app", descriptor)]) == images.blob


async def test_skopeo_reads_it(images: Images, tmp_path: Path) -> None:
    async with serve(images.store.root) as url:
        host = url.removeprefix("http://")
        process = await asyncio.create_subprocess_exec(
            "skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests", "--src-tls-verify=false",
            f"docker://{host}/multi:v2", f"oci:{tmp_path}/copy:x", stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert await process.wait() == 0
    copied = json.loads((tmp_path / "copy" / "index.json").read_bytes())
    assert copied["manifests"][0]["digest"] == images.multi.digest


async def test_answers_carry_the_protocols_headers(images: Images) -> None:
    async with serve(images.store.root) as url:
        base = await ask(url, "/v2/")
        assert (base.status, base.body) == (200, b"{}")
        assert base.headers["docker-distribution-api-version"] == "registry/2.0"
        manifest = await ask(url, "/v2/team/app/manifests/v1", "HEAD")
        assert manifest.headers["docker-content-digest"] == images.app.digest
        assert manifest.headers["content-type"] == images.app.media_type
        assert manifest.headers["content-length"] == str(len(images.app.data))
        assert (await ask(url, "/v2/team/app/manifests/v1", If_None_Match=manifest.headers["etag"])).status == 304


async def test_blobs_are_served_in_ranges(images: Images) -> None:
    path = f"/v2/team/app/blobs/{images.app.layers[0]}"
    size = len(images.blob)
    async with serve(images.store.root) as url:
        whole = await ask(url, path)
        assert whole.body == images.blob
        assert whole.headers["docker-content-digest"] == images.app.layers[0]
        part = await ask(url, path, Range=f"bytes={size - 10}-")
        assert (part.status, part.body) == (206, images.blob[-10:])
        assert part.headers["content-range"] == f"bytes {size - 10}-{size - 1}/{size}"
        assert (await ask(url, path, Range=f"bytes={size}-")).status == 416
        head = await ask(url, path, "HEAD")
        assert (head.status, head.headers["content-length"]) == (200, str(size))


async def test_lists_are_paged(images: Images) -> None:
    async with serve(images.store.root) as url:
        names: list[str] = []
        path: str | None = "/v2/_catalog?n=1"
        while path:
            reply = await ask(url, path)
            names += json.loads(reply.body)["repositories"]
            link = reply.headers.get("link")
            path = link.partition("<")[2].partition(">")[0] if link else None
        assert names == ["charts/app", "multi", "team/app", "team/other"]
        tags = json.loads((await ask(url, "/v2/team/app/tags/list?n=1&last=latest")).body)
        assert tags["name"] == "team/app"
        assert len(tags["tags"]) == 1
        assert json.loads((await ask(url, "/v2/_catalog?n=0")).body) == {"repositories": []}
        assert code(await ask(url, "/v2/_catalog?n=x")) == "PAGINATION_NUMBER_INVALID"
        assert code(await ask(url, "/v2/_catalog?n=-1")) == "PAGINATION_NUMBER_INVALID"


@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        ("/v2/no/such/tags/list", 404, "NAME_UNKNOWN"),
        ("/v2/team/app/manifests/nosuch", 404, "MANIFEST_UNKNOWN"),
        ("/v2/no/such/manifests/v1", 404, "MANIFEST_UNKNOWN"),
        ("/v2/team/app/manifests/sha256:" + "0" * 64, 404, "BLOB_UNKNOWN"),
        ("/v2/team/app/blobs/sha256:" + "0" * 64, 404, "BLOB_UNKNOWN"),
        ("/v2/no/such/blobs/sha256:" + "0" * 64, 404, "NAME_UNKNOWN"),
        ("/v2/team/app/blobs/sha256:short", 400, "DIGEST_INVALID"),
        ("/v2/team/app/blobs/..%2f..%2f..%2foci-layout", 400, "DIGEST_INVALID"),
        ("/v2/team/app/blobs/sha256:..%2f..%2foci-layout", 400, "DIGEST_INVALID"),
        ("/v2/..%2f..%2fetc/tags/list", 404, "NOT_FOUND"),
        ("/v2/Team/tags/list", 404, "NOT_FOUND"),
        ("/etc/passwd", 404, "NOT_FOUND"),
        ("/v2", 404, "NOT_FOUND"),
    ],
)
async def test_what_is_not_there(images: Images, path: str, status: int, expected: str) -> None:
    async with serve(images.store.root) as url:
        reply = await ask(url, path)
        assert (reply.status, code(reply)) == (status, expected)


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
async def test_writes_are_refused(images: Images, method: str) -> None:
    async with serve(images.store.root) as url:
        for path in ("/v2/", "/v2/team/app/manifests/v1", "/v2/_catalog"):
            reply = await ask(url, path, method)
            assert (reply.status, code(reply)) == (405, "UNSUPPORTED")


async def test_links_out_of_the_directory_are_not_followed(images: Images, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("private")
    blob = images.store.root / "blobs" / "sha256" / images.app.layers[0].partition(":")[2]
    blob.unlink()
    blob.symlink_to(secret)
    async with serve(images.store.root) as url:
        assert (await ask(url, f"/v2/team/app/blobs/{images.app.layers[0]}")).status == 404


async def test_a_damaged_manifest_is_not_served(images: Images) -> None:
    images.store.corrupt(images.app.digest, b"{}")
    async with serve(images.store.root) as url:
        reply = await ask(url, "/v2/team/app/manifests/v1")
        assert (reply.status, code(reply)) == (500, "UNKNOWN")


async def test_a_large_blob_is_no_manifest(images: Images) -> None:
    large = images.store.blob(b" " * (4 * 1024 * 1024 + 1))
    async with serve(images.store.root) as url:
        assert (await ask(url, f"/v2/team/app/manifests/{large}")).status == 404


async def test_a_changed_layout_is_noticed(images: Images) -> None:
    async with serve(images.store.root) as url:
        assert (await ask(url, "/v2/new/tags/list")).status == 404
        images.store.image("new", "v1", [layer(file("x"))])
        assert (await ask(url, "/v2/new/tags/list")).status == 200
        (images.store.root / "index.json").unlink()
        assert (await ask(url, "/v2/new/tags/list")).status == 404


async def test_bare_tags_go_to_the_default_repository(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "My Images!")
    built = store.manifest([layer(file("x"))])
    store.tag(built, "", "v1", annotation=REF_NAME)
    async with serve(store.root) as url:
        assert json.loads((await ask(url, "/v2/_catalog")).body) == {"repositories": ["my-images"]}
    async with serve(store.root, repository_default="chosen") as url:
        assert json.loads((await ask(url, "/v2/chosen/tags/list")).body)["tags"] == ["v1"]


def test_what_is_no_layout_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(NotARegistry):
        make_app(tmp_path / "oci")
    store = ImageStore(tmp_path / "broken")
    (store.root / "index.json").write_text("{")
    with pytest.raises(DataError):
        make_app(store.root)
