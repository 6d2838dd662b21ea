from pathlib import Path

from tests.cli.conftest import Run


def test_a_valid_configuration_is_confirmed(run: Run, config: Path) -> None:
    shown = run("check", "--config", str(config))
    assert shown.status == 0
    assert "registry demo" in shown.stdout
    assert "the configuration is valid" in shown.stdout


def test_schedules_are_shown_in_words(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "registries:\n- {name: a, url: a.example, schedule: {every: 15m}}\n- {name: b, url: b.example, schedule: {cron: 1 2 * * *}}\n"
    )
    shown = run("check", "-c", str(path)).stdout
    assert "every 15m" in shown
    assert "cron 1 2 * * *" in shown


def test_every_problem_is_shown_with_status_2(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "registries:\n- {name: a, url: https://a.example, insecure: true, tagz: {}}\n- {name: a, url: b.example}\n"
    )
    shown = run("check", "-c", str(path))
    assert shown.status == 2
    assert all(word in shown.stderr for word in ("tagz", "insecure", "line"))


def test_json_holds_the_verdict(run: Run, config: Path, tmp_path: Path) -> None:
    good = run("check", "-c", str(config), "-o", "json")
    assert (good.json()["valid"], good.json()["registries"]) == (True, ["demo"])
    bad = run("check", "-c", str(tmp_path / "missing.yaml"), "-o", "json")
    assert bad.status == 2
    assert bad.json()["valid"] is False


def test_the_environment_alone_may_configure_it(run: Run) -> None:
    shown = run(
        "check", REGISTRY_URL="reg.example:5000", HARBORGUARD_URL="https://hg.example", HARBORGUARD_API_KEY="hg_ak_1"
    )
    assert shown.status == 0
    assert "REGISTRY_URL" in shown.stdout
    assert "hg_ak_1" not in shown.stdout + shown.stderr


def test_a_secret_that_cannot_be_read_here_is_warned_about(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("registries:\n- {name: a, url: a.example, username: ci, password: {env: HG_TEST_UNSET}}\n")
    shown = run("check", "-c", str(path))
    assert shown.status == 0
    assert "registries[a].password: no secret in environment variable HG_TEST_UNSET" in shown.stderr
    assert run("check", "-c", str(path), "-o", "json").json()["warnings"]


def test_json_tells_problems_one_by_one(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("registries:\n- name: a\n  url: a.example\n  tagz: {}\n  rules: [{semver: banana}]\n")
    shown = run("check", "-c", str(path), "-o", "json")
    assert shown.status == 2
    places = [(problem["path"], problem["line"]) for problem in shown.json()["problems"]]
    assert places == [("registries[0].tagz", 4), ("registries[0].rules[0].semver", 5)]
    assert shown.json()["problems"][0]["text"].startswith("unknown key; did you mean tags?")
    missing = run("check", "-c", str(tmp_path / "missing.yaml"), "-o", "json").json()["problems"]
    assert [(problem["path"], problem["line"]) for problem in missing] == [("", None)]
    assert "there is no configuration file" in missing[0]["text"]
    told = run("check", "-o", "json", REGISTRY_URL="ftp://a.example").json()["problems"]
    assert told[0]["variable"] == "REGISTRY_URL"


def test_keys_that_the_provider_would_pass_over_are_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "registries:\n"
        "- {name: a, url: a.example, auth: azure, tagz: {}}\n"
        "- {name: b, url: b.example, api: {url: 'https://b.example'}}\n"
        "- {name: c, url: c.example/team}\n"
        "- {name: d, url: https://hub.docker.com/r/library/nginx}\n"
    )
    shown = run("check", "-c", str(path))
    assert shown.status == 2
    assert "5 problems" in shown.stderr
    for expected in (
        "registries[0].auth (line 2): azure is for provider acr, and this is taken for distribution; set provider: acr",
        "registries[0].tagz (line 2): unknown key",
        "registries[1].api (line 3): has no use here: this is taken for distribution; set provider: to the one it is",
        "registries[2].url (line 4): this is taken for distribution, whose URL has no path; choose repositories with",
        'repositories.include: ["team/**"], or set provider:',
        "registries[3].url (line 5): this is the web site of Docker Hub; write docker.io, its registry",
    ):
        assert expected in shown.stderr


def test_rules_that_never_decide_are_pointed_out(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text('registries:\n- {name: a, url: a.example, rules: [{tags: "*"}, {tags: latest}]}\n')
    shown = run("check", "-c", str(path))
    assert shown.status == 0
    assert "registries[0].rules[1]: never decides: rule 1 already speaks about every tag" in shown.stderr
