from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError

from tests.cli.conftest import Run


class MemoryKeyring(KeyringBackend):
    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if self.entries.pop((service, username), None) is None:
            raise PasswordDeleteError("no such entry")


@pytest.fixture
def memory_keyring() -> Iterator[MemoryKeyring]:
    before, memory = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(memory)
    yield memory
    keyring.set_keyring(before)


def test_a_secret_is_stored_used_and_deleted_without_being_shown(
    run: Run, memory_keyring: MemoryKeyring, tmp_path: Path
) -> None:
    stored = run("secret", "set", "prod", typed="s3cret\n")
    assert stored.status == 0
    assert memory_keyring.entries == {("harborguard-sensor", "prod"): "s3cret"}
    path = tmp_path / "c.yaml"
    path.write_text("registries:\n- {name: a, url: a.example, username: ci, password: {keyring: prod}}\n")
    listed = run("secret", "list", "-c", str(path))
    assert "registries[a].password: keyring entry 'prod': readable" in listed.stdout
    assert run("secret", "delete", "prod").status == 0
    again = run("secret", "list", "-c", str(path), "-o", "json")
    assert again.status == 3
    assert again.json()[0]["problem"]
    assert run("secret", "delete", "prod").status == 3
    assert "s3cret" not in stored.stdout + stored.stderr + listed.stdout + listed.stderr


def test_an_empty_secret_is_refused(run: Run, memory_keyring: MemoryKeyring) -> None:
    assert run("secret", "set", "prod", typed="\n").status == 2
    assert memory_keyring.entries == {}


def test_all_places_of_secrets_are_listed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "control_plane: {url: https://hg.example, api_key: {env: HG_TEST_KEY}}\n"
        "registries:\n"
        "- {name: a, url: a.example, token: {env: HG_TEST_KEY}, control_plane: {api_key: {env: HG_TEST_KEY}}}\n"
    )
    listed = run("secret", "list", "-c", str(path), "-o", "json", HG_TEST_KEY="x")
    assert listed.status == 0
    assert [row["key"] for row in listed.json()] == [
        "control_plane.api_key", "registries[a].token", "registries[a].control_plane.api_key",
    ]  # fmt: skip


def test_a_configuration_without_secrets_says_so(run: Run, config: Path) -> None:
    assert "uses no secrets" in run("secret", "list", "-c", str(config)).stdout
