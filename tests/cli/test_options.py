from pathlib import Path

import pytest

from sensor.cli.options import load, state_directory
from sensor.errors import ConfigError


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load(tmp_path / "typo.yaml", required=False)


def test_without_a_file_one_shot_commands_have_the_defaults() -> None:
    assert load(None, required=False).config.platforms == ("linux/amd64",)


def test_the_state_is_where_it_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("state: {directory: /srv/sensor}\n")
    loaded = load(path, required=False)
    assert state_directory(loaded, tmp_path) == tmp_path
    assert state_directory(loaded, None) == Path("/srv/sensor")
    # a user without a configuration needs no right to the daemon's directory
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert state_directory(load(None, required=False), None) == tmp_path / "harborguard-sensor"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert state_directory(load(None, required=False), None) == Path.home() / ".cache/harborguard-sensor"
