"""Rules about the ways to log in to one registry: which exclude each other, which need each other, and how their parts are written.

What a way means to a provider, and whether a user name looks right for it, is in `registry/kinds`. No message holds a value: it may be a
secret that slipped into the wrong key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sensor.config.logins import Api, Aws, Azure, CredentialPlugin, DockerConfig, Gcp, GithubApp
from sensor.config.notation import has_host, is_host_port, split_url
from sensor.config.problems import Findings, KeyPath
from sensor.config.schema import Registry

_PROVIDERS = {"aws": "ecr", "gcp": "gar", "azure": "acr", "github_app": "ghcr"}
"""Sections that only one provider knows."""

_AWS_ACCOUNT = re.compile(r"[0-9]{12}")
_AWS_REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+)+-[0-9]{1,2}")
_AWS_KEY = re.compile(r"[A-Za-z0-9_]{16,128}")
_AWS_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,576}")
_AWS_EXTERNAL_ID = re.compile(r"[A-Za-z0-9+=,.@:/_-]{2,1224}")
_AWS_SESSION_NAME = re.compile(r"[A-Za-z0-9+=,.@_-]{2,64}")
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_APP_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MINUTE = 60.0


def login_of(registry: Registry) -> tuple[object, ...]:
    """What tells two logins at one place apart, besides the user name: a password is rotated, and does not."""
    return (
        registry.auth,
        registry.token,
        registry.aws,
        registry.gcp,
        registry.azure,
        registry.github_app,
        registry.docker_config,
        registry.plugin,
    )


def has_login(registry: Registry) -> bool:
    """Whether any credential is configured."""
    return any(True for _ in _ways(registry))


def check_login(path: KeyPath, registry: Registry, found: Findings) -> None:
    """Everything about the ways to log in to one registry over HTTP."""
    _check_plain(path, registry, found)
    ways = list(_ways(registry))
    for key, _ in ways[1:]:
        found.wrong((*path, *key), f"stands instead of {ways[0][1]}; remove one of the two")
    _check_auth((*path, "auth"), registry, [name for _, name in ways], found)
    for section, provider in _PROVIDERS.items():
        if registry.provider not in {"auto", provider} and _is_set(registry, section):
            found.wrong((*path, section), f"is for provider {provider}, and this one is {registry.provider}")
    _check_aws((*path, "aws"), registry.aws, found)
    _check_gcp((*path, "gcp"), registry.gcp, found)
    _check_azure((*path, "azure"), registry.azure, found)
    if registry.github_app is not None:
        _check_github_app((*path, "github_app"), registry.github_app, found)
    if registry.docker_config is not None:
        _check_docker_config((*path, "docker_config"), registry.docker_config, found)
    if registry.plugin is not None:
        _check_plugin((*path, "plugin"), registry.plugin, found)
    _check_api((*path, "api"), registry.api, found, insecure=registry.insecure)


def _ways(registry: Registry) -> Iterator[tuple[KeyPath, str]]:
    """The credentials that are given, each with its key and its name. There may be one."""
    aws, azure = registry.aws, registry.azure
    given: tuple[tuple[object, KeyPath, str], ...] = (
        (registry.username or registry.password, ("password",), "username and password"),
        (registry.token, ("token",), "token"),
        (registry.docker_config, ("docker_config",), "docker_config"),
        (registry.plugin, ("plugin",), "plugin"),
        (registry.github_app, ("github_app",), "github_app"),
        (aws.access_key_id or aws.secret_access_key, ("aws", "access_key_id"), "aws.access_key_id"),
        (aws.profile, ("aws", "profile"), "aws.profile"),
        (registry.gcp.credentials, ("gcp", "credentials"), "gcp.credentials"),
        (azure.client_secret, ("azure", "client_secret"), "azure.client_secret"),
        (azure.certificate, ("azure", "certificate"), "azure.certificate"),
    )
    yield from ((path, name) for value, path, name in given if value)


def _is_set(registry: Registry, section: str) -> bool:
    return bool(getattr(registry, section) != Registry.model_fields[section].default)


def _check_plain(path: KeyPath, registry: Registry, found: Findings) -> None:
    if registry.token is not None:
        return
    others = (registry.docker_config, registry.plugin, registry.github_app)
    if registry.username and registry.password is None and all(other is None for other in others):
        found.wrong((*path, "password"), "is missing: there is a username")
    elif registry.password is not None and not registry.username:
        found.wrong(
            (*path, "username"), "is missing: there is a password (a token without a user name goes into token)"
        )


def _check_auth(path: KeyPath, registry: Registry, ways: list[str], found: Findings) -> None:
    auth = registry.auth
    if auth == "auto":
        return
    if auth == "anonymous":
        if ways:
            found.wrong(path, f"anonymous contradicts {ways[0]}; remove one of the two")
        return
    provider = _PROVIDERS[auth]
    if registry.provider not in {"auto", provider}:
        found.wrong(path, f"{auth} is for provider {provider}, and this one is {registry.provider}")
        return
    # access keys of AWS may stand as user name and password
    own = [way for way in ways if way.startswith(f"{auth}.") or (auth == "aws" and way == "username and password")]
    if len(own) < len(ways):
        other = next(way for way in ways if way not in own)
        found.wrong(path, f"{auth} takes that cloud's identity and not {other}; remove one of the two")


# --- the clouds -------------------------------------------------------------------------------------------------------------------


def _check_aws(path: KeyPath, aws: Aws, found: Findings) -> None:
    if aws.account and not _AWS_ACCOUNT.fullmatch(aws.account):
        found.wrong((*path, "account"), "expected the twelve digits of an account, in quotes")
    if aws.region and not _AWS_REGION.fullmatch(aws.region):
        found.wrong((*path, "region"), "expected a region such as eu-central-1")
    if aws.access_key_id and not _AWS_KEY.fullmatch(aws.access_key_id):
        found.wrong((*path, "access_key_id"), "expected 16 or more letters and digits, such as AKIA...")
    if aws.access_key_id and aws.secret_access_key is None:
        found.wrong((*path, "secret_access_key"), "is missing: there is an access_key_id")
    if aws.secret_access_key is not None and not aws.access_key_id:
        found.wrong((*path, "access_key_id"), "is missing: there is a secret_access_key")
    if aws.session_token is not None and not aws.access_key_id:
        found.wrong((*path, "session_token"), "goes with access_key_id and secret_access_key")
    for index, role in enumerate(aws.assume_roles):
        here = (*path, "assume_roles", index)
        if not _AWS_ROLE.fullmatch(role.arn):
            found.wrong((*here, "arn"), "expected a role such as arn:aws:iam::123456789012:role/registry-reader")
        if role.external_id and not _AWS_EXTERNAL_ID.fullmatch(role.external_id):
            found.wrong((*here, "external_id"), "expected 2 to 1224 letters, digits and +=,.@:/-")
        if not _AWS_SESSION_NAME.fullmatch(role.session_name):
            found.wrong((*here, "session_name"), "expected 2 to 64 letters, digits and +=,.@-")


def _check_gcp(path: KeyPath, gcp: Gcp, found: Findings) -> None:
    if gcp.impersonate and not _EMAIL.fullmatch(gcp.impersonate):
        found.wrong(
            (*path, "impersonate"), "expected an e-mail address such as reader@my-project.iam.gserviceaccount.com"
        )


def _check_azure(path: KeyPath, azure: Azure, found: Findings) -> None:
    secret = "client_secret" if azure.client_secret is not None else "certificate" if azure.certificate else ""
    if secret:
        for key in ("tenant_id", "client_id"):
            if not getattr(azure, key):
                found.wrong((*path, key), f"is missing: there is a {secret}")
        if azure.identity != "auto":
            found.wrong((*path, "identity"), f"is the machine's, and {secret} a service principal's; remove one")
    if azure.client_id and not _UUID.fullmatch(azure.client_id):
        found.wrong((*path, "client_id"), "expected an application's id such as 00000000-0000-0000-0000-000000000000")
    if azure.tenant_id and not (_UUID.fullmatch(azure.tenant_id) or _is_domain(azure.tenant_id)):
        found.wrong((*path, "tenant_id"), "expected a tenant's id, or one of its domains")
    if azure.authority and not is_host_port(azure.authority):
        found.wrong((*path, "authority"), "expected a host such as login.microsoftonline.us, without a scheme or path")


def _is_domain(text: str) -> bool:
    return "." in text and ":" not in text and is_host_port(text)


# --- others -----------------------------------------------------------------------------------------------------------------------


def _check_github_app(path: KeyPath, app: GithubApp, found: Findings) -> None:
    if not _APP_ID.fullmatch(app.app_id):
        found.wrong((*path, "app_id"), "expected the App's id, or its client id")


def _check_docker_config(path: KeyPath, docker: DockerConfig, found: Findings) -> None:
    if docker.path and not docker.path.startswith("/"):
        found.wrong((*path, "path"), "expected an absolute path")
    elif docker.path and not Path(docker.path).exists():
        found.warn((*path, "path"), "there is no such file now")
    for index, helper in enumerate(docker.helpers):
        here = (*path, "helpers", index)
        if helper.startswith("docker-credential-"):
            found.wrong(here, "leave out docker-credential-: ecr-login means docker-credential-ecr-login")
        elif not _HELPER.fullmatch(helper):
            found.wrong(here, "expected the name of a credential helper such as ecr-login")


def _check_plugin(path: KeyPath, plugin: CredentialPlugin, found: Findings) -> None:
    if not plugin.command.startswith("/"):
        found.wrong((*path, "command"), "expected an absolute path")
    elif not Path(plugin.command).is_file():
        found.warn((*path, "command"), "there is no such program now")
    for name in plugin.env:
        if not _VARIABLE.fullmatch(name):
            found.wrong((*path, "env"), "names of variables are letters, digits and underscores")
    found.between((*path, "timeout"), plugin.timeout, 1.0, 10 * _MINUTE)


def _check_api(path: KeyPath, api: Api, found: Findings, *, insecure: bool) -> None:
    if api.url:
        url = split_url(api.url)
        if url is None or url.scheme not in {"http", "https"} or not has_host(url):
            found.wrong((*path, "url"), "expected a URL such as https://gitlab.example.com/api/v4")
        elif url.username is not None or url.query or url.fragment:
            found.wrong((*path, "url"), "holds no user name, password, query or fragment; use username and password")
        elif url.scheme == "http" and not insecure:
            found.wrong((*path, "url"), "http:// sends credentials unencrypted; say insecure: true if that is meant")
    if api.token is not None and (api.username or api.password is not None):
        found.wrong((*path, "token"), "stands instead of username and password; remove one of the two")
    elif api.username and api.password is None and api.token is None:
        found.wrong((*path, "password"), "is missing: there is a username")
    elif api.password is not None and not api.username:
        found.wrong((*path, "username"), "is missing: there is a password (a token goes into token)")
