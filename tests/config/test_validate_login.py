"""The ways to log in: which exclude each other, which need each other, and how their parts are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.config.checking import of_registry, warned

SECRET = {"env": "S"}
BASIC = {"username": "u", "password": SECRET}
KEYS = {"access_key_id": "AKIA0123456789ABCDEF", "secret_access_key": SECRET}
UUID = "00000000-1111-2222-3333-444444444444"
APP = {"app_id": "123456", "private_key": SECRET}
PLUGIN = {"command": "/bin/sh"}
PRINCIPAL = {"tenant_id": UUID, "client_id": UUID}
ROLE = "arn:aws:iam::123456789012:role/registry-reader"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"username": "u"}, "password: is missing: there is a username"),
        ({"password": SECRET}, "username: is missing"),
        ({"token": SECRET, "username": "u"}, "token: stands instead of username and password"),
        ({"token": SECRET, **BASIC}, "token: stands instead of username and password; remove one of the two"),
        # one way at a time
        ({"docker_config": {}, **BASIC}, "docker_config: stands instead of username and password"),
        ({"docker_config": {}, "username": "u"}, "docker_config: stands instead of username and password"),
        ({"docker_config": {}, "token": SECRET}, "docker_config: stands instead of token"),
        ({"plugin": PLUGIN, "token": SECRET}, "plugin: stands instead of token"),
        ({"plugin": PLUGIN, "docker_config": {}}, "plugin: stands instead of docker_config"),
        ({"github_app": APP, **BASIC}, "github_app: stands instead of username and password"),
        ({"aws": KEYS, "token": SECRET}, "aws.access_key_id: stands instead of token"),
        ({"aws": {**KEYS, "profile": "p"}}, "aws.profile: stands instead of aws.access_key_id"),
        ({"gcp": {"credentials": SECRET}, **BASIC}, "gcp.credentials: stands instead of username and password"),
        (
            {"azure": {**PRINCIPAL, "client_secret": SECRET, "certificate": SECRET}},
            "azure.certificate: stands instead of azure.client_secret",
        ),
        # auth
        ({"auth": "anonymous", **BASIC}, "auth: anonymous contradicts username and password"),
        ({"auth": "anonymous", "aws": KEYS}, "auth: anonymous contradicts aws.access_key_id"),
        ({"auth": "aws", "provider": "harbor"}, "auth: aws is for provider ecr, and this one is harbor"),
        ({"auth": "gcp", "provider": "ecr"}, "auth: gcp is for provider gar"),
        ({"auth": "azure", "provider": "distribution"}, "auth: azure is for provider acr"),
        ({"auth": "azure", **BASIC}, "auth: azure takes that cloud's identity and not username and password"),
        ({"auth": "aws", "token": SECRET}, "auth: aws takes that cloud's identity and not token"),
        ({"auth": "gcp", "aws": KEYS}, "auth: gcp takes that cloud's identity and not aws.access_key_id"),
        # sections of one provider
        ({"aws": {"region": "eu-central-1"}, "provider": "harbor"}, "aws: is for provider ecr, and this one is harbor"),
        ({"gcp": {"impersonate": "a@b.c"}, "provider": "ecr"}, "gcp: is for provider gar"),
        ({"azure": {"identity": "managed"}, "provider": "ghcr"}, "azure: is for provider acr"),
        ({"github_app": APP, "provider": "gitlab"}, "github_app: is for provider ghcr"),
        # aws
        ({"aws": {"account": "12345678901"}}, "aws.account: expected the twelve digits"),
        ({"aws": {"account": "12345678901x"}}, "aws.account: expected the twelve digits"),
        ({"aws": {"region": "Frankfurt"}}, "aws.region: expected a region such as eu-central-1"),
        ({"aws": {"access_key_id": "AKIA0123456789ABCDEF"}}, "aws.secret_access_key: is missing"),
        ({"aws": {"secret_access_key": SECRET}}, "aws.access_key_id: is missing"),
        ({"aws": {"session_token": SECRET}}, "aws.session_token: goes with access_key_id"),
        ({"aws": {**KEYS, "access_key_id": "two words"}}, "aws.access_key_id: expected 16 or more"),
        ({"aws": {"assume_roles": [{"arn": "registry-reader"}]}}, "aws.assume_roles[0].arn: expected a role such as"),
        (
            {"aws": {"assume_roles": [{"arn": ROLE}, {"arn": ROLE.replace("role", "user")}]}},
            "aws.assume_roles[1].arn: expected a role such as",
        ),
        ({"aws": {"assume_roles": [{"arn": ROLE, "external_id": "x"}]}}, "aws.assume_roles[0].external_id: expected 2"),
        (
            {"aws": {"assume_roles": [{"arn": ROLE, "session_name": ""}]}},
            "aws.assume_roles[0].session_name: expected 2",
        ),
        # gcp
        ({"gcp": {"impersonate": "reader"}}, "gcp.impersonate: expected an e-mail address"),
        ({"gcp": {"impersonate": "a@b"}}, "gcp.impersonate: expected an e-mail address"),
        # azure
        (
            {"azure": {"tenant_id": UUID, "client_secret": SECRET}},
            "azure.client_id: is missing: there is a client_secret",
        ),
        ({"azure": {"client_id": UUID, "certificate": SECRET}}, "azure.tenant_id: is missing: there is a certificate"),
        (
            {"azure": {**PRINCIPAL, "client_secret": SECRET, "identity": "managed"}},
            "azure.identity: is the machine's, and client_secret a service principal's",
        ),
        ({"azure": {"client_id": "my-app"}}, "azure.client_id: expected an application's id"),
        ({"azure": {"tenant_id": "my tenant"}}, "azure.tenant_id: expected a tenant's id"),
        ({"azure": {"tenant_id": "example.com:1"}}, "azure.tenant_id: expected a tenant's id"),
        ({"azure": {"authority": "https://login.example"}}, "azure.authority: expected a host"),
        # others
        ({"github_app": {**APP, "app_id": ""}}, "github_app.app_id: expected the App's id"),
        ({"docker_config": {"path": "config.json"}}, "docker_config.path: expected an absolute path"),
        (
            {"docker_config": {"helpers": ["docker-credential-ecr-login"]}},
            "docker_config.helpers[0]: leave out docker-credential-",
        ),
        ({"docker_config": {"helpers": ["ok", "../x"]}}, "docker_config.helpers[1]: expected the name"),
        ({"plugin": {"command": "provider"}}, "plugin.command: expected an absolute path"),
        ({"plugin": {**PLUGIN, "timeout": "20m"}}, "plugin.timeout: expected 1s to 10m"),
        ({"plugin": {**PLUGIN, "env": {"A B": "x"}}}, "plugin.env: names of variables"),
        # api
        ({"api": {"url": "gitlab.example"}}, "api.url: expected a URL such as"),
        ({"api": {"url": "http://gitlab.example"}}, "api.url: http:// sends credentials unencrypted"),
        ({"api": {"url": "https://u:p@gitlab.example"}}, "api.url: holds no user name"),
        ({"api": {"url": "https://gitlab.example?x=1"}}, "api.url: holds no user name"),
        ({"api": {"token": SECRET, **BASIC}}, "api.token: stands instead of username and password"),
        ({"api": {"username": "u"}}, "api.password: is missing"),
        ({"api": {"password": SECRET}}, "api.username: is missing"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(keys: dict[str, Any], expected: str) -> None:
    (found,) = of_registry(**keys)
    assert found.startswith(expected)


@pytest.mark.parametrize(
    "keys",
    [
        {"token": SECRET},
        BASIC,
        {"auth": "anonymous"},
        {"auth": "aws"},
        {"auth": "aws", "provider": "ecr", "aws": KEYS},
        {"auth": "aws", **BASIC},
        {"auth": "gcp", "gcp": {"credentials": SECRET, "impersonate": "reader@my-project.iam.gserviceaccount.com"}},
        {"auth": "azure", "provider": "acr", "azure": {**PRINCIPAL, "client_secret": SECRET}},
        {"aws": {**KEYS, "session_token": SECRET, "region": "us-gov-west-1", "account": "123456789012"}},
        {"aws": {"profile": "registry", "assume_roles": [{"arn": ROLE, "external_id": "a:b"}]}},
        {"aws": {"assume_roles": [{"arn": "arn:aws-cn:iam::123456789012:role/path/reader"}]}, **BASIC},
        {"azure": {"client_id": UUID}},
        {"azure": {**PRINCIPAL, "certificate": SECRET, "authority": "login.microsoftonline.us"}},
        {"azure": {"tenant_id": "example.onmicrosoft.com"}},
        {"github_app": APP, "provider": "ghcr"},
        {"github_app": {**APP, "app_id": "Iv1.0123456789abcdef"}},
        {"docker_config": {"helpers": ["ecr-login", "gcloud"]}},
        {"plugin": {**PLUGIN, "args": ["-v"], "env": {"HOME": "/root"}}},
        {"api": {"url": "https://gitlab.example/api/v4", "token": SECRET}},
        {"api": {"url": "http://gitlab.example", **BASIC}, "insecure": True},
    ],
)
def test_good_logins(keys: dict[str, Any]) -> None:
    assert of_registry(**keys) == []
    assert warned(**keys) == []


def test_files_that_may_appear_later_are_warned_about(tmp_path: Path) -> None:
    assert warned(docker_config={"path": f"{tmp_path}/config.json"}) == [
        "docker_config.path: there is no such file now"
    ]
    assert warned(plugin={"command": f"{tmp_path}/provider"}) == ["plugin.command: there is no such program now"]
    (tmp_path / "config.json").write_text("{}")
    assert warned(docker_config={"path": f"{tmp_path}/config.json"}) == []


def test_no_message_repeats_what_may_be_a_secret() -> None:
    """A secret in the wrong key is the commonest mistake of all."""
    slipped = "hunter2 hunter2"
    found = of_registry(
        provider="harbor",
        aws={"account": slipped, "region": slipped, "access_key_id": slipped, "assume_roles": [{"arn": slipped}]},
        gcp={"impersonate": slipped},
        azure={"client_id": slipped, "tenant_id": slipped, "authority": slipped},
        github_app={"app_id": slipped, "private_key": SECRET},
        docker_config={"path": slipped, "helpers": [slipped]},
        plugin={"command": slipped, "env": {slipped: slipped}},
        api={"url": f"https://u:{slipped}@a.example", "username": slipped},
    )
    assert len(found) > 15
    assert "hunter2" not in "".join(found)
