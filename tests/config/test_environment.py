from pathlib import Path

import pytest

from sensor.config.environment import ENVIRONMENT, complete
from sensor.config.load import Loaded, load_config
from sensor.errors import ConfigError
from sensor.secret import FromEnv


def from_environment(**environ: str) -> Loaded:
    return load_config(None, environ)


def test_the_environment_alone_is_a_configuration() -> None:
    loaded = from_environment(
        HARBORGUARD_URL="https://harborguard.example.com",
        HARBORGUARD_API_KEY="hg_ak_0",
        SENSOR_NAME="rack-7",
        REGISTRY_URL="registry.example.net:5000",
        REGISTRY_USERNAME="bob",
        REGISTRY_PASSWORD="hunter2",
        HG_POLL_INTERVAL_MS="12500",
        LOG_LEVEL="WARN",
        HG_WORK_DIR="/workspace",
    )
    config = loaded.config
    assert config.control_plane is not None
    assert (config.control_plane.url, config.control_plane.name) == ("https://harborguard.example.com", "rack-7")
    assert config.control_plane.api_key == FromEnv("HARBORGUARD_API_KEY")
    assert config.control_plane.poll == 12.5
    (registry,) = config.registries
    assert (registry.name, registry.url, registry.username) == (
        "registry.example.net-5000",
        "registry.example.net:5000",
        "bob",
    )
    assert registry.password == FromEnv("REGISTRY_PASSWORD")
    assert config.logging.level == "warning"
    assert config.state.directory == "/workspace"
    assert loaded.warnings == ()
    assert "control_plane.api_key from HARBORGUARD_API_KEY" in loaded.sources
    assert "hunter2" not in repr(loaded)
    assert "hg_ak_0" not in repr(loaded)


@pytest.mark.parametrize("name", [name for names in ENVIRONMENT.values() for name in names])
def test_every_name_is_honoured_and_told(name: str) -> None:
    values = {
        "HG_POLL_INTERVAL_MS": "5000", "HG_LOG_LEVEL": "debug", "LOG_LEVEL": "debug", "HG_REGISTRY_INSECURE": "yes",
        "REGISTRY_INSECURE": "on", "HG_WORK_DIR": "/w", "SCANNER_WORKDIR": "/w", "NO_PROXY": "a,.b", "no_proxy": "a b",
    }  # fmt: skip
    urls = {"HARBORGUARD_URL", "HG_DASHBOARD_URL"}
    environ = {
        name: values.get(name, "http://proxy.example.net" if "PROXY" in name.upper() else "https://h.example.com")
    }
    if name.startswith(("REGISTRY", "HG_REGISTRY")):
        if name not in {"REGISTRY_URL", "HG_REGISTRY_URL"}:
            environ["REGISTRY_URL"] = "http://r.example.net" if "INSECURE" in name else "r.example.net"
        if name.endswith(("USER", "USERNAME")):
            environ["REGISTRY_PASSWORD"] = "x"
        if name.endswith(("PASSWORD", "PASS")):
            environ["REGISTRY_USERNAME"] = "x"
    elif name in {"HARBORGUARD_API_KEY", "HG_API_KEY", "SENSOR_NAME", "HG_AGENT_NAME", "HG_POLL_INTERVAL_MS"}:
        environ |= {"HARBORGUARD_URL": "https://h.example.com", "HG_API_KEY": "k"}
        if name == "HARBORGUARD_API_KEY":
            del environ["HG_API_KEY"]
    if name in urls:
        environ["HG_API_KEY"] = "k"
    if "S3_" in name:
        environ |= {"HG_S3_ACCESS_KEY": "AKIA", "HG_S3_SECRET_KEY": "s"}
        environ |= {} if name == "S3_BUCKET" else {"HG_S3_BUCKET": "reports"}
        environ |= {"S3_BUCKET": "reports"} if name == "S3_BUCKET" else {}
    loaded = load_config(None, environ)
    assert any(source.endswith(f" from {name}") for source in loaded.sources)


def test_the_first_name_wins_and_the_other_is_told() -> None:
    loaded = from_environment(HARBORGUARD_URL="https://a.example", HG_DASHBOARD_URL="https://b.example", HG_API_KEY="k")
    assert loaded.config.control_plane is not None
    assert loaded.config.control_plane.url == "https://a.example"
    assert "HARBORGUARD_URL is used; HG_DASHBOARD_URL, set to something else, is not" in loaded.warnings


def test_equal_values_under_two_names_are_no_matter() -> None:
    loaded = from_environment(HARBORGUARD_URL="https://a.example", HG_DASHBOARD_URL="https://a.example", HG_API_KEY="k")
    assert loaded.warnings == ()


def test_the_file_ranks_first(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "control_plane: {url: https://file.example, name: filed}\n"
        "registries: [{name: a, url: a.example.net}]\nlogging: {level: error}\nhttp: {proxy: ''}\n"
    )
    loaded = load_config(
        file,
        {
            "HARBORGUARD_URL": "https://env.example",
            "HARBORGUARD_API_KEY": "k",
            "SENSOR_NAME": "x",
            "LOG_LEVEL": "debug",
            "REGISTRY_URL": "b.example.net",
            "REGISTRY_PASSWORD": "p",
            "HTTPS_PROXY": "http://p.example.net",
        },
    )
    config = loaded.config
    assert config.control_plane is not None
    assert (config.control_plane.url, config.control_plane.name) == ("https://file.example", "filed")
    assert config.control_plane.api_key == FromEnv("HARBORGUARD_API_KEY")
    assert [registry.name for registry in config.registries] == ["a"]
    assert config.logging.level == "error"
    assert config.http.proxy == ""
    assert loaded.sources == ("control_plane.api_key from HARBORGUARD_API_KEY",)
    assert "not used, because the file lists registries: REGISTRY_URL, REGISTRY_PASSWORD" in loaded.warnings


def test_a_variable_that_the_file_names_itself_is_used(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("registries:\n- {name: a, url: a.example, username: ci, password: {env: REGISTRY_PASSWORD}}\n")
    assert not [warning for warning in load_config(path, {"REGISTRY_PASSWORD": "x"}).warnings if "not used" in warning]


def test_a_key_without_a_url_is_not_a_control_plane() -> None:
    loaded = from_environment(HG_API_KEY="k", REGISTRY_URL="r.example.net")
    assert loaded.config.control_plane is None
    assert "HG_API_KEY is not used, because there is no HARBORGUARD_URL or HG_DASHBOARD_URL" in loaded.warnings


def test_a_url_without_a_key_is_a_problem() -> None:
    with pytest.raises(ConfigError, match=r"1 problem in the environment:\n  control_plane.api_key: is missing"):
        from_environment(HARBORGUARD_URL="https://h.example")


def test_registry_credentials_without_a_registry_are_told() -> None:
    loaded = load_config(None, {"REGISTRY_USERNAME": "u", "REGISTRY_TOKEN": "t"}, required=False)
    assert "not used, because there is no REGISTRY_URL: REGISTRY_USERNAME, REGISTRY_TOKEN" in loaded.warnings


@pytest.mark.parametrize(
    ("environ", "key", "name"),
    [
        ({"REGISTRY_TOKEN": "t"}, "token", "REGISTRY_TOKEN"),
        ({"REGISTRY_USER": "u", "HG_REGISTRY_TOKEN": "t"}, "password", "HG_REGISTRY_TOKEN"),
        ({"REGISTRY_USER": "u", "REGISTRY_TOKEN": "t", "REGISTRY_PASSWORD": "p"}, "password", "REGISTRY_PASSWORD"),
    ],
)
def test_a_token_with_a_user_is_a_password(environ: dict[str, str], key: str, name: str) -> None:
    (registry,) = load_config(None, {"REGISTRY_URL": "r.example.net", **environ}).config.registries
    assert {"token": registry.token, "password": registry.password}[key] == FromEnv(name)
    assert {"token": registry.password, "password": registry.token}[key] is None


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://r.example.net/", "r.example.net"),
        ("r.example.net:5000", "r.example.net-5000"),
        ("[::1]:5000", "1-5000"),
        ("oci:/srv/images", "images"),
        ("archive:/srv/app.tar", "app.tar"),
        ("docker-archive:/srv/drop/", "drop"),
        ("http://LOCALHOST", "localhost"),
    ],
)
def test_the_registry_is_named_after_its_host(url: str, name: str) -> None:
    assert complete({}, {"REGISTRY_URL": url}).raw["registries"][0]["name"] == name


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL: expected debug, info, warn or error"),
        (
            {"HG_POLL_INTERVAL_MS": "10s", "HARBORGUARD_URL": "https://h.example", "HG_API_KEY": "k"},
            "HG_POLL_INTERVAL_MS: expected a number",
        ),
        (
            {"HG_POLL_INTERVAL_MS": "10", "HARBORGUARD_URL": "https://h.example", "HG_API_KEY": "k"},
            "control_plane.poll (from HG_POLL_INTERVAL_MS): expected 1s to 10m",
        ),
        ({"REGISTRY_URL": "r.example.net", "REGISTRY_INSECURE": "maybe"}, "REGISTRY_INSECURE: expected 1, true"),
        (
            {"REGISTRY_URL": "https://r.example.net", "REGISTRY_INSECURE": "1"},
            "registries[0].insecure (from REGISTRY_INSECURE): contradicts https://",
        ),
        ({"REGISTRY_URL": "r.example.net", "REGISTRY_PASSWORD": "p"}, "registries[0].username: is missing"),
    ],
)
def test_wrong_values_are_told_by_the_name_of_the_variable(environ: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, environ)
    assert expected in caught.value.message


def test_the_bucket_of_other_sensors_is_taken_and_its_secret_stays_where_it_is() -> None:
    loaded = load_config(
        None,
        {
            "HARBORGUARD_URL": "https://h.example", "HG_API_KEY": "k", "S3_BUCKET": "reports",
            "S3_ENDPOINT": "http://minio:9000", "HG_S3_ACCESS_KEY": "AKIA", "HG_S3_SECRET_KEY": "hidden",
        },
    )  # fmt: skip
    s3 = loaded.config.s3
    assert s3 is not None
    assert (s3.bucket, s3.endpoint, s3.access_key_id) == ("reports", "http://minio:9000", "AKIA")
    assert s3.secret_access_key == FromEnv("HG_S3_SECRET_KEY")
    assert "hidden" not in repr(loaded)
    assert load_config(None, {"HARBORGUARD_URL": "https://h.example", "HG_API_KEY": "k"}).config.s3 is None


def test_unknown_variables_of_ours_are_told() -> None:
    loaded = load_config(None, {"HG_AGENT_NAMES": "x", "HG_S4_BUCKET": "b", "OTHER": "1"}, required=False)
    assert any(
        w.startswith("the environment variable HG_AGENT_NAMES means nothing") and "HG_AGENT_NAME?" in w
        for w in loaded.warnings
    )
    assert not any("OTHER" in warning for warning in loaded.warnings)


def test_empty_variables_are_not_set() -> None:
    with pytest.raises(ConfigError, match="no configuration file was named"):
        load_config(None, {"HARBORGUARD_URL": "", "REGISTRY_URL": " "})


def test_proxies_are_the_default_of_http() -> None:
    loaded = load_config(
        None,
        {
            "HTTP_PROXY": "http://a.example:1",
            "https_proxy": "http://u:hunter2@b.example:2",
            "NO_PROXY": "x.example, .y.example,",
        },
        required=False,
    )
    assert loaded.config.http.proxy == "http://u:hunter2@b.example:2"
    assert loaded.config.http.no_proxy == ("x.example", ".y.example")
    assert not any("hunter2" in text for text in (*loaded.warnings, *loaded.sources))


def test_a_section_that_is_no_mapping_is_left_to_the_schema(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("control_plane: nonsense\nlogging: 5\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, {"HARBORGUARD_URL": "https://h.example", "LOG_LEVEL": "info"})
    assert "control_plane (line 1): should hold keys of its own" in caught.value.message
    assert "logging (line 2): should hold keys of its own" in caught.value.message
