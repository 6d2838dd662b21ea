from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError

from sensor.vault import KEY_FILE_VARIABLE, VAULT_VARIABLE, new_key
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


@pytest.fixture
def vault(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "etc").mkdir()
    return {VAULT_VARIABLE: str(tmp_path / "state" / "v"), KEY_FILE_VARIABLE: str(tmp_path / "etc" / "key")}


def test_a_vault_from_its_key_to_its_end(run: Run, tmp_path: Path, vault: dict[str, str]) -> None:
    key = Path(vault[KEY_FILE_VARIABLE])
    assert run("secret", "set", "prod", typed="s3cret\n", **vault).status == 3
    made = run("secret", "new-key", str(key))
    assert made.status == 0
    assert key.read_text().strip() not in made.stdout
    assert run("secret", "new-key", str(key)).status == 3
    for name in ("prod", "spare"):
        assert run("secret", "set", name, typed="s3cret\n", **vault).status == 0
    path = tmp_path / "c.yaml"
    path.write_text(
        "registries:\n- {name: a, url: a.example, username: ci, password: {keyring: prod}}\n"
        f"state: {{directory: {tmp_path / 'state'}}}\n"
    )
    listed = run("secret", "list", "-c", str(path), **vault)
    assert listed.stdout.splitlines() == [
        "registries[a].password: keyring entry 'prod': readable",
        "not used: keyring entry 'spare': readable",
    ]
    assert run("secret", "list", "-c", str(path), "-o", "json", **vault).json()[1] == {
        "key": "", "source": "keyring entry 'spare'", "problem": "",
    }  # fmt: skip
    old = key.read_text()
    key.write_text(new_key() + "\n" + old)
    rekeyed = run("secret", "rekey", **vault)
    assert "2 secrets are under the first key" in rekeyed.stdout
    key.write_text(old)
    lost = run("secret", "list", "-c", str(path), **vault)
    assert lost.status == 3
    assert "cannot be opened with this key" in lost.stdout


def test_rekey_without_a_vault_is_a_mistake(run: Run) -> None:
    ran = run("secret", "rekey")
    assert ran.status == 2
    assert VAULT_VARIABLE in ran.stderr


def test_a_key_in_the_state_directory_is_a_problem_of_the_configuration(
    run: Run, tmp_path: Path, vault: dict[str, str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"registries: [{{name: a, url: a.example}}]\nstate: {{directory: {tmp_path / 'etc'}}}\n")
    assert run("secret", "new-key", vault[KEY_FILE_VARIABLE]).status == 0
    checked = run("check", "-c", str(path), **vault)
    assert checked.status == 2
    assert "state.directory (line 2): the vault's key" in checked.stderr
