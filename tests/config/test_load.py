import traceback
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.config.load import load_config
from sensor.config.problems import InvalidConfig, Problem, show_path
from sensor.config.schema import Cron, Every, Registry
from sensor.errors import ConfigError
from sensor.secret import FromEnv, FromFile, FromKeyring

PLANE = "control_plane: {url: https://harborguard.example.com, api_key: {env: KEY}}\n"
SECRET = "hunter2-hunter2"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def write(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def refused(path: Path, text: str | bytes, mode: int = 0o600) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(path, text, mode), {})
    assert caught.value.advice
    assert not caught.value.retryable
    return caught.value.message


def test_a_file_with_everything_loads(config: Path) -> None:
    loaded = load_config(
        write(
            config,
            PLANE
            + """
registries:
  - {name: a, url: "registry.example.net:5000", username: bob, password: {keyring: a}, schedule: {every: 6h}}
  - {name: b, url: "https://other.example.net", token: {file: /run/secrets/b}, schedule: {cron: "30 2 * * 1-5"}}
state: {retain_gone: 2w}
limits: {layer_bytes: 10GiB}
health: {listen: off}
""",
        ),
        {},
    ).config
    assert [registry.password for registry in loaded.registries] == [FromKeyring("a"), None]
    assert loaded.registries[1].token == FromFile("/run/secrets/b")
    assert [registry.schedule for registry in loaded.registries] == [Every(every="6h"), Cron(cron="30 2 * * 1-5")]
    assert loaded.state.retain_gone == 14 * 86400
    assert loaded.limits.layer_bytes == 10 * 2**30
    assert loaded.health.listen == "off"  # in YAML 1.1 this would be a boolean
    assert loaded.control_plane is not None
    assert loaded.control_plane.api_key == FromEnv("KEY")


def test_all_problems_come_at_once_with_path_and_line(config: Path) -> None:
    message = refused(
        config,
        """\
control_plane:
  url: https://harborguard.example.com/api
  hearbeat: 30s
registries:
  - name: Prod
    url: registry.example.net
    tags:
      include: ["[a"]
  - name: ok
    url: http://registry.example.net:5000
    tagz: {}
    schedule: {evry: 5m}
    platforms: [linux/amd64, 5]
concurrency: {images: 0}
nonsense: 1
""",
    )
    assert message.startswith("11 problems in ")
    for expected in (
        "control_plane.url (line 2): leave out /api",
        "control_plane.hearbeat (line 3): unknown key; did you mean heartbeat?",
        "control_plane.api_key (line 1): is missing",
        "registries[0].name (line 5): expected lower-case",
        "registries[0].tags.include[0] (line 8): not a pattern: a [ is not closed",
        "registries[1].url (line 10): http://",
        "registries[1].tagz (line 11): unknown key; did you mean tags?",
        "registries[1].schedule (line 12): expected daily, weekly, manual, {every: 6h} or {cron: '30 2 * * *'}",
        "registries[1].platforms[1] (line 13): should be text; put it in quotes",
        "concurrency.images (line 14): should be greater than or equal to 1",
        "nonsense (line 15): unknown key; known here: control_plane, registries",
    ):
        assert expected in message, expected


def test_rules_are_checked_beside_type_errors(config: Path) -> None:
    message = refused(
        config,
        """\
registries:
  - {name: a, url: "a.example.net", insecure: maybe}
  - name: b
    url: b.example.net
    tags: {include: ["[a"], exclude: {a: b}}
    schedule: {cron: "61 * * * *"}
""",
    )
    assert "registries[0].insecure (line 2)" in message
    assert "registries[1].tags.exclude (line 5): should be a list" in message
    assert "registries[1].tags.include[0] (line 5): not a pattern: a [ is not closed" in message
    assert "registries[1].schedule.cron (line 6): not a cron expression: minute" in message


def test_broken_registries_do_not_shift_the_places_of_others(config: Path) -> None:
    message = refused(config, "registries:\n  - {url: a.example.net}\n  - {name: b, url: b.example.net, username: x}\n")
    assert "registries[0].name (line 2): is missing" in message
    assert "registries[1].password (line 3): is missing: there is a username" in message


def test_a_registry_that_is_no_mapping_hides_nothing_else(config: Path) -> None:
    message = refused(
        config, "registries:\n  - words\n  - {name: b, url: b.example.net, username: x}\nplatforms: {a: 1}\n"
    )
    assert "registries[0] (line 2): should hold keys of its own" in message
    assert "registries[1].password (line 3): is missing: there is a username" in message
    assert "platforms (line 4): should be a list" in message


@pytest.mark.parametrize(
    "text",
    [
        f"control_plane: {{url: 'https://u:{SECRET}@h.example', api_key: {{env: A, file: {SECRET}}}}}",
        f"control_plane: {{url: '{SECRET}', api_key: {SECRET}}}",
        f"registries: [{{name: a, url: 'https://u:{SECRET}@h.example/x', password: [{SECRET}], username: u}}]",
        f"registries: [{{name: a, url: h.example, username: u, password: *{SECRET}}}]",
        f"registries: [{{name: a, url: h.example, username: u, password: !{SECRET} x}}]",
        f"registries: [{{name: a, url: h.example, username: u, password: '{SECRET}\n",
        f"http: {{proxy: 'ftp://u:{SECRET}@h.example'}}",
        f"registries: [{{name: a, url: h.example, token: {SECRET}: b}}]",
        f"logging: {{level: {SECRET}}}",
        f"registries: [{{name: a, url: h.example, schedule: {{every: {SECRET}}}}}]",
    ],
)
def test_no_message_holds_a_value(config: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(config, text), {})
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)
    assert SECRET not in "".join(traceback.format_exception_only(caught.value))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("registries: [a\n", "not YAML"),
        ("tags: [*]\n", "must stand in quotes"),
        ("a: b: c\n", "must stand in quotes"),
        ("a:\n\tb: 1\n", "(line 2)"),
        ("a: 1\na: 2\n", "a (line 2): this key stands twice, first in line 1"),
        ("state: {directory: /a, directory: /b}\n", "state.directory (line 1): this key stands twice"),
        ("a: &x [1]\nb: *y\n", "not YAML"),
        ("- a\n- b\n", "expected keys such as `registries:`"),
        ("just words\n", "expected keys such as `registries:`"),
        ("--- {}\n--- {}\n", "not YAML"),
        ("? [a, b]\n: 1\n", "keys must be plain words"),
        ("state: {<<: {directory: /a}}\n", "merge keys"),
        ("a: !!python/object:os.system x\n", "YAML tags (!...) are not supported"),
        ("a: \x07\n", "not YAML"),
        (b"a: \xff\n", "not UTF-8 text"),
        (b"#" * (2**20 + 1), "larger than 1 MiB"),
        ("[" * 2_000, "nested too deeply"),
        ("a: " + "[" * 40 + "]" * 40, "too deeply nested"),
        ("a: &a [*a]\n", "too deeply nested"),
    ],
)
def test_files_that_are_no_configuration(config: Path, text: str | bytes, expected: str) -> None:
    assert expected in refused(config, text)


def test_an_alias_bomb_is_refused_quickly(config: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "too many" in refused(config, "\n".join(rows))


def test_a_plain_alias_may_be_used(config: Path) -> None:
    text = "platforms: &p [linux/arm64]\nregistries: [{name: a, url: a.example.net, platforms: *p}]\n"
    loaded = load_config(write(config, text), {})
    assert loaded.config.platforms_of(loaded.config.registries[0]) == ("linux/arm64",)


@pytest.mark.parametrize(
    ("scalar", "name"),
    [
        ("yes", "yes"),
        ("off", "off"),
        ("2026-05-01", "2026-05-01"),
        ("'5'", "5"),
        ("1_000", "1_000"),
        ("0x1f", "0x1f"),
        ("1:30", "1:30"),
    ],
)
def test_words_stay_words(config: Path, scalar: str, name: str) -> None:
    loaded = load_config(write(config, PLANE.replace("api_key", f"name: {scalar}, api_key")), {})
    assert loaded.config.control_plane is not None
    assert loaded.config.control_plane.name == name


@pytest.mark.parametrize("text", ["", "# nothing\n", "registries:\nstate:\n", "\ufeff"])
def test_keys_without_a_value_are_not_set(config: Path, text: str) -> None:
    loaded = load_config(write(config, text), {})
    assert loaded.config.registries == ()
    assert loaded.warnings == ("neither registries nor a control plane are configured: there is nothing to do",)


def test_a_literal_secret_needs_a_private_file(config: Path) -> None:
    text = f"control_plane: {{url: https://h.example, api_key: {SECRET}}}\n"
    message = refused(config, text, 0o644)
    assert "control_plane.api_key (line 1): holds a secret, but others can read the file; chmod 600" in message
    loaded = load_config(write(config, text, 0o600), {})
    assert loaded.warnings == (
        "control_plane.api_key: holds a secret in plain text; use {keyring: NAME}, {env: NAME} or {file: PATH}",
    )
    assert SECRET not in repr(loaded)


def test_a_missing_file_without_environment_is_refused_unless_defaults_will_do(config: Path) -> None:
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load_config(config, {})
    with pytest.raises(ConfigError, match="no configuration file was named"):
        load_config(None, {"HOME": "/root"})
    assert load_config(config, {}, required=False).config.registries == ()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path, {})
    with pytest.raises(ConfigError, match="not a path"):
        load_config(Path("a\0b"), {})


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.text(max_size=200), st.text("{}[]&*!|>'\"%@`#:-?, \n\tab<1", max_size=60)))
def test_any_text_is_read_or_refused(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "c.yaml")
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            assert load_config(path, {}).config is not None
        except ConfigError as refusal:
            said = refusal.message
        else:
            said = "no problem"
        assert "problem" in said or "UTF-8" in said


def test_a_section_that_lacks_a_key_does_not_hide_what_else_is_wrong(config: Path) -> None:
    text = (
        "registries:\n"
        "  - name: a\n"
        "    url: a.example\n"
        "    github_app: {private_key: {env: K}}\n"
        "    plugin: {args: [x]}\n"
        "    windows: [never]\n"
        "    rules: [{semver: nonsense}]\n"
    )
    found = refused(config, text)
    assert "registries[0].github_app.app_id (line 4): is missing" in found
    assert "registries[0].plugin.command (line 5): is missing" in found
    assert "registries[0].windows[0] (line 6): expected hours, days or both" in found
    assert "registries[0].rules[0].semver (line 7): not a version: 'nonsense'" in found


def test_what_is_wrong_in_shape_hides_none_of_the_rules(config: Path) -> None:
    text = (
        "control_plane: [words]\n"
        "registries:\n"
        "  - name: a\n"
        "    url: a.example\n"
        "    tagz: {}\n"
        "    password: 5\n"
        "    rules:\n"
        "      - {semver: banana}\n"
        "      - {regex: '(?=x)'}\n"
        "      - {tags: a, regex: b, actoin: include}\n"
        "      - {tags: 5}\n"
        "      - words\n"
        "    windows: [5, never]\n"
        "    aws: {assume_roles: [{external_id: x}, {arn: y}]}\n"
        "    control_plane: {api_key: {env: K}}\n"
        "platforms: [5, linux/x86_64]\n"
    )
    found = refused(config, text)
    assert found.startswith("17 problems in ")
    for expected in (
        "control_plane (line 1): should hold keys of its own",
        "registries[0].tagz (line 5): unknown key",
        "registries[0].password (line 6): expected {keyring: NAME}",
        "registries[0].username (line 3): is missing: there is a password",
        "registries[0].rules[0].semver (line 8): not a version: 'banana'",
        "registries[0].rules[1].regex (line 9): not a regular expression: (?=x",
        "registries[0].rules[2] (line 10): expected exactly one of tags, regex, semver; found tags and regex",
        "registries[0].rules[2].actoin (line 10): unknown key",
        "registries[0].rules[3].tags (line 11): should be text",
        "registries[0].rules[4] (line 12): should hold keys of its own",
        "registries[0].windows[1] (line 13): expected hours, days or both",
        "registries[0].aws.assume_roles[0].arn (line 14): is missing",
        "registries[0].aws.assume_roles[0].external_id (line 14): expected 2 to 1224",
        "platforms[1] (line 16): the architecture is called amd64 here",
    ):
        assert expected in found, expected


def test_problems_are_also_told_one_by_one(config: Path) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load_config(write(config, "registries:\n- {name: a, url: a.example, tagz: 1}\n"), {"LOG_LEVEL": "loud"})
    shown = [(show_path(problem.path), problem.line) for problem in caught.value.problems]
    assert shown == [("LOG_LEVEL", None), ("registries[0].tagz", 2)]
    with pytest.raises(InvalidConfig) as caught:
        load_config(None, {"REGISTRY_URL": "ftp://a.example"})
    (problem,) = caught.value.problems
    assert (show_path(problem.path), problem.variable) == ("registries[0].url", "REGISTRY_URL")
    assert "registries[0].url (from REGISTRY_URL): registries are reached" in caught.value.message


def test_what_somebody_else_knows_about_a_registry_is_told_with_the_rest(config: Path) -> None:
    def examine(registry: Registry) -> list[Problem]:
        return [Problem(("api",), f"no use at {registry.url}"), Problem(("username",), "odd")]

    text = (
        "registries:\n"
        "- {name: a, url: a.example, api: {url: 'https://a.example'}, password: {env: P}}\n"
        "- {name: b, url: b.example, provider: nobody}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(write(config, text), {}, examine=examine)
    assert caught.value.message.startswith("3 problems in ")
    assert "registries[0].api (line 2): no use at a.example" in caught.value.message
    assert "odd" not in caught.value.message  # the rules object to that key already
    assert "registries[1].provider" in caught.value.message
    assert "b.example" not in caught.value.message  # whose it is is not known


def test_a_key_that_stands_twice_does_not_make_the_environment_forgotten(config: Path) -> None:
    text = "control_plane: {url: 'https://a.example', url: 'https://b.example'}\n"
    with pytest.raises(ConfigError) as caught:
        load_config(write(config, text), {"HARBORGUARD_API_KEY": "k"})
    assert "stands twice" in caught.value.message
    assert "is missing" not in caught.value.message
