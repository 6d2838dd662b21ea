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
    assert "every 900 s" in shown
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
