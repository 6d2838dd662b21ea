from pathlib import Path

import pytest

from sensor.config.schema import Config, ControlPlane, Http, RegistryControlPlane
from sensor.config.schema import Registry as Settings
from sensor.daemon.sites import ConfiguredSites, changes_between
from sensor.errors import ConfigError
from sensor.limits import DEFAULT_LIMITS
from sensor.model.reference import parse_reference
from sensor.secret import FromEnv
from sensor.version import VERSION

PLANE = ControlPlane(url="https://cp.example", api_key=FromEnv("KEY"), name="edge")
OPEN = PLANE.model_copy(update={"allow_hosts": ("*",)})
ONE = Settings(name="one", url="https://one.example")
TWO = Settings(name="two", url="https://two.example", control_plane=RegistryControlPlane(api_key=FromEnv("OTHER_KEY")))


def sites(*registries: Settings, control_plane: ControlPlane | None = PLANE, **more: object) -> ConfiguredSites:
    config = Config(control_plane=control_plane, registries=registries, **more)
    return ConfiguredSites(config=config, limits=DEFAULT_LIMITS)


def names(found: ConfiguredSites) -> tuple[str, str]:
    """The default link and the one of `two`."""
    default, own = found.links
    assert default.is_default
    return default.name, own.name


async def test_a_client_is_opened_once_and_closed_at_the_end() -> None:
    found = sites(ONE)
    assert found.names() == ("one",)
    settings, client = found.registry("one")
    assert (settings, client.host) == (ONE, "one.example")
    assert found.registry("one")[1] is client
    with pytest.raises(ConfigError, match="no registry 'gone'"):
        found.registry("gone")
    await found.close()
    assert found.registry("one")[1] is not client


async def test_platforms_are_the_registrys_own_or_those_of_all() -> None:
    found = sites(ONE, Settings(name="arm", url="arm.example", platforms=("linux/arm64/v8",)))
    assert [str(each) for each in found.platforms(ONE)] == ["linux/amd64"]
    assert [str(each) for each in found.platforms(found.config.registries[1])] == ["linux/arm64/v8"]


async def test_who_the_sensor_is_on_a_link() -> None:
    found = sites(ONE, TWO)
    default, own = names(found)
    found.agents = {default: "agent-1"}
    assert (found.identity(default).id, found.identity(default).name) == ("agent-1", "edge")
    assert found.identity(own).id == ""
    assert found.identity("unknown").name == ""
    assert found.identity(default).scanner_versions["harborguard-sensor"] == found.identity(default).version


async def test_a_registry_reports_over_its_own_link_or_the_default_one() -> None:
    found = sites(ONE, TWO)
    default, own = names(found)
    assert [found.link_for(name).name for name in ("one", "two")] == [default, own]  # type: ignore[union-attr]
    assert sites(ONE, control_plane=None).link_for("one") is None


async def test_a_job_is_served_by_the_registry_of_that_host() -> None:
    found = sites(ONE, TWO)
    default, own = names(found)
    settings, client = await found.registry_for(parse_reference("ONE.example/team/app:1"), default)
    assert (settings.name, client) == ("one", found.registry("one")[1])
    assert (await found.registry_for(parse_reference("two.example/team/app:1"), own))[0].name == "two"
    await found.close()


async def test_no_link_reaches_a_registry_of_another_link() -> None:
    found = sites(ONE, TWO)
    default, own = names(found)
    for host, link in (("one.example", own), ("two.example", default), ("elsewhere.example", own)):
        with pytest.raises(ConfigError, match=f"{host}[a-z/]* is not one of this link's registries"):
            await found.registry_for(parse_reference(f"{host}/team/app:1"), link)
    with pytest.raises(ConfigError, match="it has none"):
        await found.registry_for(parse_reference("elsewhere.example/team/app:1"), "a link that is no more")
    await found.close()


async def test_other_hosts_are_refused_unless_the_configuration_allows_them() -> None:
    elsewhere = parse_reference("elsewhere.example/team/app:1")
    found = sites(ONE)
    with pytest.raises(ConfigError, match="not one of this link's registries") as raised:
        await found.registry_for(elsewhere, found.links[0].name)
    assert "allow_hosts" in raised.value.advice
    await found.close()
    bound = RegistryControlPlane(api_key=FromEnv("OTHER_KEY"), allow_hosts=("elsewhere.example",))
    found = sites(ONE, TWO.model_copy(update={"control_plane": bound}))
    default, own = names(found)
    assert (await found.registry_for(elsewhere, own))[0].auth == "anonymous"
    with pytest.raises(ConfigError):
        await found.registry_for(elsewhere, default)
    await found.close()


async def test_without_any_registries_every_host_is_allowed_but_this_machine() -> None:
    found = sites()
    link = found.links[0].name
    assert (await found.registry_for(parse_reference("docker.io/library/alpine:3"), link))[1].host
    for host in ("169.254.169.254", "localhost:5000"):
        with pytest.raises(ConfigError):
            await found.registry_for(parse_reference(f"{host}/app:1"), link)
    await found.close()
    strict = sites(control_plane=PLANE.model_copy(update={"allow_hosts": ()}))
    with pytest.raises(ConfigError):
        await strict.registry_for(parse_reference("docker.io/library/alpine:3"), link)
    await strict.close()


async def test_another_links_registry_is_reached_by_name_only_and_without_its_credential() -> None:
    theirs = TWO.model_copy(update={"username": "u", "password": FromEnv("SECRET")})
    reference = parse_reference("two.example/team/app:1")
    found = sites(ONE, theirs, control_plane=OPEN)
    with pytest.raises(ConfigError):
        await found.registry_for(reference, found.links[0].name)
    await found.close()
    named = sites(ONE, theirs, control_plane=PLANE.model_copy(update={"allow_hosts": ("two.example",)}))
    settings, client = await named.registry_for(reference, named.links[0].name)
    assert (settings.name, settings.password) == ("anonymous", None)
    assert client is not named.registry("two")[1]
    await named.close()


async def test_what_is_named_for_references_without_a_host_is_allowed() -> None:
    more = {"default_registry": "first.example", "fallback_registries": ("second.example",)}
    found = sites(ONE, control_plane=PLANE.model_copy(update=more))
    for host in ("first.example", "second.example"):
        await found.registry_for(parse_reference(f"{host}/app:1"), found.links[0].name)
    await found.close()


async def test_a_host_that_is_allowed_is_asked_without_credentials() -> None:
    found = sites(ONE, control_plane=OPEN)
    link = found.links[0].name
    settings, client = await found.registry_for(parse_reference("elsewhere.example/team/app:1"), link)
    assert (settings.password, settings.token, client.host) == (None, None, "elsewhere.example")
    assert (await found.registry_for(parse_reference("elsewhere.example/other:1"), link))[1] is client
    await found.close()


@pytest.mark.parametrize(
    "host",
    ["123456789012.dkr.ecr.eu-west-1.amazonaws.com", "acme.azurecr.io", "europe-west1-docker.pkg.dev", "gcr.io"],
)
async def test_a_job_does_not_borrow_the_identity_of_the_machine(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("IDENTITY_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("IDENTITY_HEADER", "secret")
    found = sites(ONE, control_plane=OPEN)
    settings, client = await found.registry_for(parse_reference(f"{host}/team/app:1"), found.links[0].name)
    assert settings.auth == "anonymous"
    assert (await client.method()).name == "anonymous"
    await found.close()


@pytest.mark.parametrize(
    ("plane", "host", "word"),
    [
        ("https://cp.example", "169.254.169.254", "metadata"),
        ("https://cp.example", "metadata.google.internal", "metadata"),
        ("http://10.0.0.1:3000", "169.254.170.2:80", "metadata"),
        ("http://dashboard:3000", "[fd00:ec2::254]:443", "metadata"),
        ("https://cp.example", "localhost:5000", "this machine"),
        ("https://cp.example", "127.0.0.1:9180", "this machine"),
        ("http://10.0.0.1:3000", "[::1]:5000", "this machine"),
        ("http://dashboard:3000", "[::ffff:127.0.0.1]:5000", "this machine"),
        ("https://cp.example", "10.0.0.5", "private address"),
        ("https://cp.example", "registry.corp.internal", "private address"),
        ("https://cp.example", "192.168.1.5:5000", "private address"),
        ("http://10.0.0.1:3000", "10.0.0.5", ""),
        ("http://dashboard:3000", "registry.internal", ""),
        ("http://127.0.0.1:3000", "localhost:5000", ""),
        ("https://cp.example", "registry.example", ""),
    ],
)
async def test_a_control_plane_does_not_send_the_sensor_where_it_has_no_business(
    plane: str, host: str, word: str
) -> None:
    everything = ControlPlane(url=plane, api_key=FromEnv("KEY"), allow_hosts=("*", "*.google.internal"))
    found = sites(ONE, control_plane=everything)
    reference = parse_reference(f"{host}/team/app:1")
    if word:
        with pytest.raises(ConfigError, match=word) as refused:
            await found.registry_for(reference, found.links[0].name)
        assert not refused.value.retryable
        assert "add the registry" in refused.value.advice
    else:
        assert (await found.registry_for(reference, found.links[0].name))[1].host == host
    await found.close()


@pytest.mark.parametrize("host", ["localhost:5000", "10.0.0.5", "registry.corp.internal"])
async def test_whoever_writes_a_host_down_means_it(host: str) -> None:
    found = sites(ONE, control_plane=PLANE.model_copy(update={"allow_hosts": (host,)}))
    assert (await found.registry_for(parse_reference(f"{host}/team/app:1"), found.links[0].name))[1].host == host
    await found.close()


async def test_an_address_inside_may_be_named_once_it_is_configured() -> None:
    found = sites(Settings(name="inside", url="https://10.0.0.5"))
    settings, _ = await found.registry_for(parse_reference("10.0.0.5/team/app:1"), found.links[0].name)
    assert settings.name == "inside"
    await found.close()


async def test_on_a_shared_host_the_narrowest_namespace_has_the_credential() -> None:
    whole = Settings(name="whole", url="quay.io")
    team = Settings(name="team", url="quay.io/team", provider="quay")
    found = sites(whole, team)
    link = found.links[0].name
    assert (await found.registry_for(parse_reference("quay.io/team/app:1"), link))[0].name == "team"
    assert (await found.registry_for(parse_reference("quay.io/teams/app:1"), link))[0].name == "whole"
    await found.close()
    only = sites(team)
    with pytest.raises(ConfigError, match=r"quay\.io/other/app is not one of this link's registries"):
        await only.registry_for(parse_reference("quay.io/other/app:1"), only.links[0].name)
    await only.close()


async def test_docker_hub_has_several_names() -> None:
    found = sites(Settings(name="hub", url="https://registry-1.docker.io"))
    settings, _ = await found.registry_for(parse_reference("docker.io/library/alpine:3"), found.links[0].name)
    assert settings.name == "hub"
    await found.close()


async def test_hosts_that_only_jobs_name_do_not_pile_up() -> None:
    found = sites(ONE, control_plane=OPEN)
    link = found.links[0].name
    first = (await found.registry_for(parse_reference("h0.example/app:1"), link))[1]
    for number in range(1, 64):
        await found.registry_for(parse_reference(f"h{number}.example/app:1"), link)
    assert (await found.registry_for(parse_reference("h0.example/app:1"), link))[
        1
    ] is first  # used again: now the youngest
    await found.registry_for(parse_reference("h64.example/app:1"), link)
    assert len(found._anonymous) == 64
    assert "h1.example" not in found._anonymous
    assert (await found.registry_for(parse_reference("h0.example/app:1"), link))[1] is first
    await found.close()


async def test_a_reload_keeps_the_clients_whose_settings_did_not_change() -> None:
    found = sites(ONE, TWO)
    one, two = found.registry("one")[1], found.registry("two")[1]
    changed = TWO.model_copy(update={"insecure": True})
    found.replace(Config(control_plane=PLANE, registries=(ONE, changed)))
    assert found.registry("one")[1] is one
    assert found.registry("two")[1] is not two
    found.replace(Config(control_plane=PLANE, registries=(ONE,)))
    with pytest.raises(ConfigError):
        found.registry("two")
    await found.close()


async def test_a_changed_proxy_reaches_every_client() -> None:
    found = sites(ONE, control_plane=OPEN)
    one = found.registry("one")[1]
    link = found.links[0].name
    elsewhere = (await found.registry_for(parse_reference("elsewhere.example/app:1"), link))[1]
    found.replace(Config(control_plane=OPEN, registries=(ONE,), http=Http(proxy="http://proxy.example:3128")))
    assert found.registry("one")[1] is not one
    assert (await found.registry_for(parse_reference("elsewhere.example/app:1"), link))[1] is not elsewhere
    await found.close()


async def test_a_replaced_client_still_serves_the_work_that_uses_it(tmp_path: Path) -> None:
    found = sites(Settings(name="one", url=f"oci:{tmp_path}"))
    client = found.registry("one")[1]
    found.replace(Config(control_plane=PLANE))
    assert found._replaced == [client]
    await found.close()
    assert not found._replaced


async def test_a_reload_with_an_unusable_link_changes_nothing() -> None:
    found = sites(ONE)
    before = (found.config, found.links)
    with pytest.raises(ConfigError):
        found.replace(Config(control_plane=ControlPlane(url="ftp://cp", api_key=FromEnv("KEY")), registries=(TWO,)))
    assert (found.config, found.links) == before
    await found.close()


async def test_jobs_of_a_link_that_a_reload_replaced_are_still_served() -> None:
    found = sites(ONE, TWO)
    default, own = names(found)
    found.replace(Config(control_plane=PLANE, registries=(ONE, TWO.model_copy(update={"control_plane": None}))))
    assert [link.name for link in found.links] == [default]
    with pytest.raises(ConfigError, match="not one of this link's registries"):
        await found.registry_for(parse_reference("two.example/app:1"), own)
    found.replace(Config(control_plane=OPEN, registries=(ONE,)))
    moved = ControlPlane(url="https://new.example", api_key=FromEnv("KEY"), name="edge")
    found.replace(Config(control_plane=moved, registries=(ONE,)))
    assert found.identity(default).name == "edge"
    found_there = await found.registry_for(parse_reference("elsewhere.example/app:1"), default)
    assert found_there[1].host == "elsewhere.example"
    await found.close()


def test_what_a_reload_changed_is_said_in_words() -> None:
    before = Config(control_plane=PLANE, registries=(ONE, TWO))
    after = Config(
        registries=(ONE.model_copy(update={"schedule": "weekly"}), Settings(name="three", url="three.example")),
        platforms=("linux/arm64",),
    )
    assert changes_between(before, before) == ()
    assert changes_between(before, after) == (
        "platforms: changed",
        "registry two: removed",
        "registry three: added",
        "registry one: changed",
        "control_plane: changed, but in force only after a restart",
    )
    new_link = Config(
        control_plane=ControlPlane(url="https://new.example", api_key=FromEnv("KEY")), registries=(ONE, TWO)
    )
    assert changes_between(before, new_link)[-1].startswith("there is a new link to a control plane")


def test_a_result_names_the_advisories_in_force() -> None:
    sites = ConfiguredSites(config=Config(), limits=DEFAULT_LIMITS, advisories=lambda: "2026-05-01 082f932b46f7")
    assert sites.identity("none").scanner_versions == {
        "harborguard-sensor": VERSION,
        "advisories": "2026-05-01 082f932b46f7",
    }
