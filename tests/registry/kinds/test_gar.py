"""Google's registry as a kind: addresses, recognition, pace, and a whole conversation on a gcr.io host."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor.config.schema import Http, Registry
from sensor.model.manifest import Manifest
from sensor.registry.kinds import open_registry
from sensor.registry.kinds.gar import GAR, detect, recognise
from sensor.registry.kinds.kind import Opening
from sensor.transport import Reply
from tests.fakes.gcp import CLEAN
from tests.fakes.registries.gar import GarFake


@pytest.mark.parametrize("name", ["us-docker.pkg.dev", "https://gcr.io/proj", "docker.europe-west3.rep.pkg.dev:443"])
def test_detection_says_why_and_where(name: str) -> None:
    found = detect(name)
    assert found is not None
    assert "Artifact Registry in " in found.reason
    assert found.facts["location"]


def test_a_path_that_is_no_place_tells_no_project() -> None:
    found = detect("us-docker.pkg.dev/NOT")
    assert found is not None
    assert "project" not in found.facts


@pytest.mark.parametrize(
    ("headers", "challenge", "expected"),
    [
        ({"x-gcr-using-artifact-registry": "true"}, "", "Artifact Registry"),
        ({}, 'Bearer realm="https://europe-docker.pkg.dev/v2/token",service="europe-docker.pkg.dev"', "token service"),
        ({}, 'Bearer realm="https://auth.example.com/token"', None),
        ({}, "", None),
    ],
)
def test_an_answer_may_show_that_google_is_behind_it(
    headers: dict[str, str], challenge: str, expected: str | None
) -> None:
    lists = {"www-authenticate": (challenge,)} if challenge else {}
    found = recognise(Reply(status=401, url="https://x/v2/", headers=headers, body=b"", header_lists=lists))
    assert (found is None) if expected is None else (expected in (found or ""))


def test_half_of_the_quota_is_left_to_others() -> None:
    settings = Registry.model_validate({"name": "x", "url": "gcr.io"})
    assert GAR.rates(settings)[""].per_second * 60 == 30_000


def test_a_path_in_the_url_is_what_the_credential_is_for() -> None:
    settings = Registry.model_validate({"name": "x", "url": "https://europe-docker.pkg.dev/example.com/proj/apps"})
    address = GAR.address(Opening(settings=settings, http=Http()))
    assert (address.path, address.namespace) == ("", "example.com/proj/apps")
    assert address.covers("example.com/proj/apps/app")
    assert not address.covers("example.com/other/apps/app")


async def test_blobs_are_read_on_the_same_host_with_the_login_and_each_download_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CLEAN.items():
        monkeypatch.setenv(name, value)
    async with GarFake(tmp_path) as fake:
        registry = open_registry(fake.settings(), Http())
        manifest = (await registry.manifest(fake.names[0], "v1")).document
        assert isinstance(manifest, Manifest)
        for _ in range(2):
            assert (await registry.config(fake.names[0], manifest.config)).os == "linux"
        await registry.close()
        downloads = [one for one in fake.seen if one.path.startswith("/artifacts-downloads/")]
        assert len({one.path for one in downloads}) == 2
        assert all(one.authorization.startswith("Bearer ya29.") for one in downloads)
        assert fake.count("registry", "/v2/token") == 0
