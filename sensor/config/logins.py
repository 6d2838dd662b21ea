"""Ways to log in to a registry, as the configuration describes them. What they mean to a provider is in `registry/kinds`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sensor.config.fields import Duration, SecretField, Section


class AwsRole(Section):
    """A role that is assumed on the way to the registry."""

    arn: str
    external_id: str = ""
    session_name: str = "harborguard-sensor"


class Aws(Section):
    """For ECR. Empty: the machine's own identity (environment, web identity of EKS, container of ECS or EKS, instance metadata)."""

    region: str = ""
    """Only where the registry's host does not name it."""
    account: str = ""
    """Twelve digits; only where the registry's host does not name it."""
    access_key_id: str = ""
    secret_access_key: SecretField = None
    session_token: SecretField = None
    """Goes with temporary access keys."""
    profile: str = ""
    """A profile of the AWS configuration files."""
    assume_roles: tuple[AwsRole, ...] = ()
    """Assumed one after the other, each with the identity before it."""


class Gcp(Section):
    """For Google Artifact Registry. Empty: Application Default Credentials, which include Workload Identity."""

    credentials: SecretField = None
    """A service account's key or the configuration of a workload identity federation: the JSON file, verbatim."""
    impersonate: str = ""
    """E-mail address of a service account to act as."""


class Azure(Section):
    """For Azure ACR. Empty: the machine's managed identity, or the workload identity of AKS."""

    tenant_id: str = ""
    client_id: str = ""
    """Of the service principal, or of a user-assigned identity where the machine has several."""
    client_secret: SecretField = None
    certificate: SecretField = None
    """The service principal's certificate and private key, PEM."""
    identity: Literal["auto", "managed", "workload"] = "auto"
    """Which identity of the machine: auto takes workload identity where its variables are set."""
    authority: str = ""
    """Host of the token service; empty: that of the cloud to which the registry's host belongs."""


class GithubApp(Section):
    """A GitHub App; installation tokens are made from its private key. They list packages, but pull public ones only."""

    app_id: str
    private_key: SecretField
    """PEM, as downloaded."""
    installation_id: int = Field(default=0, ge=0)
    """0: that of the first namespace."""


class DockerConfig(Section):
    """Credentials of a docker `config.json`: `auths`, and the credential helpers that are allowed."""

    path: str = ""
    """Empty: $DOCKER_CONFIG/config.json, else ~/.docker/config.json."""
    helpers: tuple[str, ...] = ()
    """Credential helpers that may be run, for example ecr-login; the file alone cannot make the sensor run programs."""


class CredentialPlugin(Section):
    """A kubelet credential provider plug-in (kubelet's `exec` protocol, credentialprovider.kubelet.k8s.io/v1)."""

    command: str
    """Absolute path."""
    args: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)
    timeout: Duration = 30.0


class Api(Section):
    """The provider's own API, where it is elsewhere or wants another credential than the registry."""

    url: str = ""
    """Base URL; empty: what the provider or the registry itself tells."""
    username: str = ""
    password: SecretField = None
    token: SecretField = None
    """Sent as the provider's API wants a token: GitLab PRIVATE-TOKEN, elsewhere Bearer."""
