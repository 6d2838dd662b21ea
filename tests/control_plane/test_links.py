from typing import Any

import pytest

from sensor.config.schema import S3, Config
from sensor.control_plane.links import Link, link_of, links_of, normal_url
from sensor.errors import ConfigError
from sensor.secret import FromEnv

URL = "https://harborguard.example.com"


def registry(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "url": f"https://{name}.example.com", **more}


def config(*registries: dict[str, Any], **control_plane: Any) -> Config:
    top = {"control_plane": {"url": URL, "api_key": {"env": "KEY"}, **control_plane}} if control_plane else {}
    return Config.model_validate({**top, "registries": list(registries)})


def test_no_control_plane_no_links() -> None:
    links = links_of(config(registry("a")))
    assert links == ()
    assert link_of(links, "a") is None


def test_registries_report_over_the_top_level_link() -> None:
    (link,) = links_of(config(registry("a"), registry("b"), name="rack-7"))
    assert (link.url, link.api_key, link.registries, link.is_default) == (URL, FromEnv("KEY"), ("a", "b"), True)
    assert (link.sensor_name, link.heartbeat, link.poll) == ("rack-7", 30.0, 15.0)


def test_a_registry_with_its_own_key_has_a_link_of_its_own() -> None:
    own = registry("a", control_plane={"api_key": {"file": "/run/a"}})
    links = links_of(config(own, registry("b"), poll="20s"))
    assert [link.registries for link in links] == [("b",), ("a",)]
    found = link_of(links, "a")
    assert found is not None
    assert found.url == URL
    assert found.poll == 20.0
    assert not found.is_default
    assert links[0].name != links[1].name
    assert link_of(links, "nowhere") == links[0]


def test_equal_pairs_are_one_link() -> None:
    same = {"url": f"{URL}/", "api_key": {"env": "KEY"}}
    links = links_of(config(registry("a", control_plane=same), registry("b", control_plane=same), poll="5s"))
    assert [link.registries for link in links] == [("a", "b")]
    assert links[0].is_default


def test_a_registry_may_bring_the_only_control_plane() -> None:
    own = registry("a", control_plane={"url": "http://plane:3000/", "api_key": {"env": "A"}})
    (link,) = links_of(config(own, registry("b")))
    assert (link.url, link.registries, link.is_plain_http) == ("http://plane:3000", ("a",), True)
    assert link_of((link,), "b") is None


def test_a_key_without_any_url_is_refused() -> None:
    with pytest.raises(ConfigError, match="no url"):
        links_of(config(registry("a", control_plane={"api_key": {"env": "A"}})))


def test_the_bucket_is_the_top_level_control_planes() -> None:
    elsewhere = registry("b", control_plane={"url": "https://other.example", "api_key": {"env": "B"}})
    own = registry("c", control_plane={"api_key": {"env": "C"}})
    with_bucket = config(registry("a"), elsewhere, own, name="x").model_copy(update={"s3": S3(bucket="reports")})
    assert [link.has_bucket for link in links_of(with_bucket)] == [True, False, True]
    assert not any(link.has_bucket for link in links_of(config(registry("a"), elsewhere, own, name="x")))


def test_an_offline_control_plane_needs_no_key() -> None:
    elsewhere = registry("b", control_plane={"url": "https://other.example", "api_key": {"env": "B"}})
    offline, online = links_of(config(registry("a"), elsewhere, offline=True, api_key=None))
    assert (offline.is_offline, offline.api_key, offline.registries) == (True, None, ("a",))
    assert (online.is_offline, online.registries) == (False, ("b",))


def test_names_are_stable_and_tell_nothing_of_the_key() -> None:
    def names(key: str, other: str) -> list[str]:
        own = registry("a", control_plane={"api_key": other})
        return [link.name for link in links_of(config(own, api_key=key))]

    first = names("hg_ak_one", "hg_ak_two")
    assert first == names("hg_ak_three", "hg_ak_four"), "a rotated literal key keeps the link's name"
    assert len(set(first)) == 2
    assert all(name.startswith("harborguard.example.com-") for name in first)
    assert "hg_ak" not in repr(links_of(config(registry("a"), api_key="hg_ak_one")))


def test_the_default_registry_of_a_link() -> None:
    own = {"control_plane": {"api_key": {"env": "A"}}}
    links = links_of(
        config(
            {"name": "a", "url": "https://a.example.com:5000/v2", **own},
            {"name": "b", "url": "b.example.com", "control_plane": {"api_key": {"env": "B"}}},
            {"name": "c", "url": "oci:/srv/images", "control_plane": {"api_key": {"env": "C"}}},
            {"name": "e", "url": "archive:/srv/images", "control_plane": {"api_key": {"env": "E"}}},
            registry("d"),
            default_registry="hub.example.com",
        )
    )
    names = [link.default_registry for link in links]
    assert names == ["hub.example.com", "a.example.com:5000", "b.example.com", "", ""]


def test_a_link_shared_by_two_registries_has_no_default_registry() -> None:
    own = {"control_plane": {"api_key": {"env": "A"}}}
    links = links_of(config(registry("a", **own), registry("b", **own), poll="5s"))
    assert [link.default_registry for link in links if link.registries] == [""]


def test_the_route_is_that_of_the_address() -> None:
    own = {"url": "https://other.example.com", "api_key": {"env": "A"}}
    top = {"url": URL, "api_key": {"env": "KEY"}, "ca_file": "/plane.pem", "proxy": "http://p:1"}
    document = {
        "control_plane": top,
        "http": {"ca_file": "/all.pem", "no_proxy": ["x"]},
        "registries": [registry("a", control_plane=own)],
    }
    default, other = links_of(Config.model_validate(document))
    assert (default.route.ca_file, default.route.proxy, default.route.no_proxy) == ("/plane.pem", "http://p:1", ("x",))
    assert (other.route.ca_file, other.route.proxy) == ("/all.pem", "")


def test_further_addresses_and_certificates_belong_to_the_same_control_plane() -> None:
    more = {"fallback": ["https://spare.example/"], "client_certificate": "/c.pem", "client_key": "/k.pem"}
    own = registry("b", control_plane={"api_key": {"env": "B"}})
    elsewhere = registry("c", control_plane={"url": "https://other.example", "api_key": {"env": "C"}})
    first, second, third = links_of(config(registry("a"), own, elsewhere, **more))
    for link in (first, second):
        assert link.fallback == ("https://spare.example",)
        assert (link.route.client_certificate, link.route.client_key) == ("/c.pem", "/k.pem")
        assert link.route.client_hosts == ("harborguard.example.com", "spare.example")
    assert (third.fallback, third.route.client_certificate) == ((), "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://h.example.com/", "https://h.example.com"),
        ("https://H.example.com//", "https://h.example.com"),
        (" http://dashboard:3000 ", "http://dashboard:3000"),
        ("https://h.example.com/base/", "https://h.example.com/base"),
        ("http://[::1]:3000/", "http://[::1]:3000"),
    ],
)
def test_base_urls_are_normalised(text: str, expected: str) -> None:
    assert normal_url(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h.example.com",
        "ftp://h",
        "https://",
        "https://u:secret@h",
        "https://h?x=1",
        "https://h#x",
        "https://h:99999",
        "https://h:0",
        "https://[",
        "https://a b",
    ],
)
def test_other_urls_are_refused_without_repeating_them(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        normal_url(text)
    assert "secret" not in str(caught.value)


def test_a_link_can_be_made_by_hand() -> None:
    assert Link(name="x", url=URL, api_key=FromEnv("KEY")).route.proxy == ""
