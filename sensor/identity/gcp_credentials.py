"""From a JSON file or the machine to one of google-auth's credentials. Synchronous, and imported lazily by `gcp` in a thread.

The order is that of Application Default Credentials (GOOGLE_APPLICATION_CREDENTIALS, gcloud's own file, the metadata service), but each
kind of file is loaded by the class that it is for. google.auth.default() would on the way ask Resource Manager for a project's name, and
run gcloud.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.auth import aws, compute_engine, identity_pool, impersonated_credentials
from google.auth.exceptions import RefreshError, TransportError
from google.oauth2 import credentials as user_credentials
from google.oauth2 import service_account

from sensor.errors import SecretError
from sensor.identity.gcp_pipe import Pipe, metadata_address
from sensor.identity.sdk import AWS, importing
from sensor.route import Route

SCOPE = "https://www.googleapis.com/auth/cloud-platform.read-only"
"""All that a sensor needs. A machine's metadata service has scopes of its own."""
_AWS_TOKEN = "urn:ietf:params:aws:token-type:aws4_request"  # noqa: S105 - a type, no token
_PATIENCE_SECONDS = 12.0
"""A pod on GKE cannot reach its metadata service in its first seconds."""
_PROBE_SECONDS = 3.0
_PAUSE_SECONDS = 0.25
_MOST_BYTES = 256 * 1024
_PROJECT = re.compile(r"[a-z0-9.:-]{1,100}")
_PRODUCT_NAME = "/sys/class/dmi/id/product_name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Credentials of google-auth, and what is known of them without asking."""

    credentials: Any
    way: str
    """For people: `service account key`."""
    project: str = ""
    name: str = ""
    """Whom they stand for, where the credentials themselves do not tell."""


def load(text: str, impersonate: str, pipe: Pipe, route: Route, *, required: bool) -> Loaded | None:
    """The credentials: of a JSON text, or else the machine's; None when the machine has none and none is required.

    Raises:
        SecretError: the text or a file is not usable, or a required identity is not there.
        ValueError, google.auth.exceptions.GoogleAuthError: google-auth refuses the content.
    """
    found = from_text(text, "gcp.credentials", route) if text else _from_machine(pipe, route, patient=required)
    if found is None and required:
        raise SecretError(
            "no Google identity was found: neither gcp.credentials, nor GOOGLE_APPLICATION_CREDENTIALS, gcloud's own file, or a metadata service",
            "the metadata service is there on Google Cloud only: elsewhere put a service account's key or the configuration of a workload "
            "identity federation into gcp.credentials",
        )
    if found is None or not impersonate:
        return found
    acting = impersonated_credentials.Credentials(
        source_credentials=found.credentials, target_principal=impersonate, target_scopes=[SCOPE]
    )
    return replace(found, credentials=acting, way=f"{found.way}, impersonating", name=impersonate)


def from_text(text: str, where: str, route: Route) -> Loaded:
    """The credentials of a JSON text; `where` names it in messages.

    Raises:
        SecretError: not JSON, or of a type that is not taken.
        ValueError, google.auth.exceptions.GoogleAuthError: google-auth refuses the content.
    """
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):
        info = None
    if not isinstance(info, dict):
        message = f"{where} is not the JSON of Google credentials"
        raise SecretError(message, "paste the downloaded file as it is, from its first brace to its last")
    return _from_info(info, where, route)


def _from_info(info: Mapping[str, Any], where: str, route: Route) -> Loaded:
    match info.get("type"):
        case "service_account":
            made = service_account.Credentials.from_service_account_info(info, scopes=[SCOPE])
            return Loaded(
                credentials=made,
                way="service account key",
                project=_project(info),
                name=str(made.service_account_email),
            )
        case "external_account":
            return _federated(info, where, route)
        case "impersonated_service_account":
            return _impersonating(info, where, route)
        case "authorized_user":
            # no scope: a refresh token gives those that the user has agreed to, and refuses to give any other
            made = user_credentials.Credentials.from_authorized_user_info(info)
            name = str(info.get("account") or "a user, by gcloud")
            project = str(info.get("quota_project_id") or "")
            return Loaded(credentials=made, way="user credentials of gcloud", name=name, project=project)
        case other:
            message = f"{where} holds credentials of the type {str(other)[:40]!r}"
            raise SecretError(
                message, "known are service_account, external_account, impersonated_service_account, authorized_user"
            )


def _impersonating(info: Mapping[str, Any], where: str, route: Route) -> Loaded:
    source = info.get("source_credentials")
    url = str(info.get("service_account_impersonation_url") or "")
    target = re.search(r"/([^/]+):generateAccessToken$", url)
    if not isinstance(source, dict) or target is None or source.get("type") == "impersonated_service_account":
        message = (
            f"{where}: an impersonated_service_account without source_credentials or service_account_impersonation_url"
        )
        raise SecretError(
            message, "make the file again: gcloud auth application-default login --impersonate-service-account=..."
        )
    found = _from_info(source, where, route)
    acting = impersonated_credentials.Credentials(
        source_credentials=found.credentials,
        target_principal=target[1],
        target_scopes=[SCOPE],
        delegates=info.get("delegates"),
        iam_endpoint_override=url,
    )
    return replace(found, credentials=acting, way=f"{found.way}, impersonating", name=target[1])


def _federated(info: Mapping[str, Any], where: str, route: Route) -> Loaded:
    """Workload identity federation: a token of another provider is exchanged for one of Google's."""
    source = info.get("credential_source")
    if not isinstance(source, dict) and info.get("subject_token_type") != _AWS_TOKEN:
        message = f"{where}: the external_account has no credential_source"
        raise SecretError(message, "make the file again: gcloud iam workload-identity-pools create-cred-config ...")
    source = source if isinstance(source, dict) else {}
    for unwanted, instead in (("executable", "a file"), ("certificate", "a file or a URL")):
        if unwanted in source:
            message = f"{where}: a credential_source of the kind {unwanted!r} is not supported"
            raise SecretError(message, f"let {instead} hold the subject token, and name it in credential_source")
    if info.get("subject_token_type") == _AWS_TOKEN:
        made, way = _of_aws(info, route)
    else:
        made = identity_pool.Credentials.from_info(info, scopes=[SCOPE])
        way = f"workload identity federation ({'url' if 'url' in source else 'file'})"
    email = made.service_account_email
    return Loaded(credentials=made, way=way, name=str(email or _pool(str(info.get("audience") or ""))))


def _pool(audience: str) -> str:
    """The pool and provider of an audience, for people."""
    found = re.search(r"projects/([^/]+)/.*workloadIdentityPools/([^/]+)/providers/([^/]+)", audience)
    return f"workload identity pool {found[2]}, provider {found[3]} of project {found[1]}" if found else audience[:200]


def _of_aws(info: Mapping[str, Any], route: Route) -> tuple[Any, str]:
    """Federation with AWS. google-auth itself knows keys of the environment and the instance's role, but neither IRSA nor containers."""
    names = (
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    )
    if os.environ.get("AWS_ACCESS_KEY_ID") or not any(os.environ.get(name) for name in names):
        return aws.Credentials.from_info(info, scopes=[SCOPE]), "workload identity federation (AWS)"
    own = {**info, "credential_source": None, "aws_security_credentials_supplier": AwsSupplier(route)}
    return aws.Credentials.from_info(
        own, scopes=[SCOPE]
    ), "workload identity federation (AWS web identity or container)"


class AwsSupplier(aws.AwsSecurityCredentialsSupplier):
    """AWS credentials from botocore's chain: IRSA, ECS, EKS Pod Identity. botocore renews them when they are due."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._credentials: Any = None

    def get_aws_security_credentials(self, _context: Any, _request: Any) -> Any:
        """Keys and session token as they are now."""
        with importing(AWS):
            from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - only who federates AWS pays for it

        try:
            found = self._find().get_frozen_credentials()
        except (BotoCoreError, ClientError, OSError, ValueError) as error:
            message = f"AWS gives no credentials to be exchanged: {error}"
            raise RefreshError(message) from error
        return aws.AwsSecurityCredentials(found.access_key, found.secret_key, found.token)

    def get_aws_region(self, _context: Any, _request: Any) -> str:
        """The region that AWS's webhooks and agents put into the environment."""
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
        if not region:
            raise RefreshError("no AWS region is known: set AWS_REGION")
        return region

    def _find(self) -> Any:
        if self._credentials is None:
            import botocore.session  # noqa: PLC0415
            from botocore.config import Config  # noqa: PLC0415

            session = botocore.session.Session()
            proxy = self._route.proxy_for("sts.amazonaws.com")
            session.set_default_client_config(
                Config(connect_timeout=5, read_timeout=10, proxies={"https": proxy} if proxy else {})
            )
            self._credentials = session.get_credentials()
            if self._credentials is None:
                raise ValueError("neither a web identity nor a container has any")
        return self._credentials


# -- the machine -------------------------------------------------------------------------------------------------------------


def _from_machine(pipe: Pipe, route: Route, *, patient: bool) -> Loaded | None:
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
    if named:
        return _from_file(Path(named), "GOOGLE_APPLICATION_CREDENTIALS", route)
    own = _gcloud_directory() / "application_default_credentials.json"
    if own.is_file():
        return _from_file(own, "gcloud's application default credentials", route)
    if os.environ.get("NO_GCE_CHECK", "").lower() == "true":
        return None
    project = find_metadata(pipe, patient=patient or is_google_machine())
    if project is None:
        return None
    # a universe that is named keeps the library from asking for it with connections of its own
    made = compute_engine.Credentials(universe_domain="googleapis.com")
    return Loaded(credentials=made, way="metadata service (GCE, GKE, Cloud Run)", project=project)


def _gcloud_directory() -> Path:
    if told := os.environ.get("CLOUDSDK_CONFIG"):
        return Path(told)
    home = os.environ.get("HOME")
    return Path(home, ".config", "gcloud") if home else Path(os.devnull)


def _from_file(path: Path, where: str, route: Route) -> Loaded:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        message = f"cannot read {path}, which {where} names: {reason}"
        raise SecretError(message, "check that the file is there and that this user may read it") from error
    found = from_text(text, f"{path}, named by {where},", route)
    return replace(found, way=f"application default credentials: {found.way}")


def find_metadata(pipe: Pipe, *, patient: bool) -> str | None:
    """The machine's project (empty: not told) if there is a metadata service of Google's, else None. Asked directly, by its address."""
    url = f"http://{metadata_address()}/computeMetadata/v1/project/project-id"
    ends = time.monotonic() + (_PATIENCE_SECONDS if patient else 0.0)
    while True:
        try:
            answer = pipe(url, headers={"Metadata-Flavor": "Google"}, timeout=_PROBE_SECONDS)
        except TransportError:
            if time.monotonic() >= ends or pipe.left <= 2 * _PAUSE_SECONDS:
                return None
            time.sleep(_PAUSE_SECONDS)
            continue
        if answer.headers.get("metadata-flavor") != "Google":
            return None
        told = answer.data.decode("ascii", "replace").strip()
        return told if answer.status == 200 and _PROJECT.fullmatch(told) else ""


def is_google_machine(path: str = _PRODUCT_NAME) -> bool:
    """Whether this is a virtual machine of Google's, by its own description."""
    try:
        return Path(path).read_text("utf-8", "replace").startswith("Google")
    except OSError:
        return False


def _project(info: Mapping[str, Any]) -> str:
    told = info.get("project_id")
    return told if isinstance(told, str) and _PROJECT.fullmatch(told) else ""
