import re
import tomllib
from importlib import metadata
from pathlib import Path

from sensor.version import VERSION


def test_the_version_is_that_of_the_installed_distribution_and_stands_in_one_place() -> None:
    assert metadata.version("harborguard-sensor") == VERSION
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|[ab]\d+|rc\d+)?", VERSION)
