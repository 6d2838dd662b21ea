"""Artifact Registry: `/v2/` with Google's extensions, `/v2/token`, the API, and behind both the identity services of `fakes/gcp`.

The project `acme-prod` has, in one location, two standard repositories, a remote and a virtual one, and one of npm's. Blobs are redirected
to a path on the same host, which wants the Authorization again; a token in it is different each time.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from aiohttp import web

from tests.fakes.certificates import Authority
from tests.fakes.gcp import AWS_TOKEN, CLEAN, KEY_EMAIL, MACHINE_EMAIL, PROJECT, SUBJECT, TARGET_EMAIL, GcpFake
from tests.fakes.proxy import FakeProxy
from tests.fakes.registries.provider import PAGE, TAGS, Login, Mistake, ProviderFake, problem

LOCATION = "europe-west1"
FIXED = ("iamcredentials.googleapis.com", "oauth2.googleapis.com")
"""Hosts that google-auth does not let a file change: reached by a proxy of the site, with its authority."""
REPOSITORIES = {
    "apps": ("DOCKER", "STANDARD_REPOSITORY"),
    "cache": ("DOCKER", "REMOTE_REPOSITORY"),
    "data": ("DOCKER", "STANDARD_REPOSITORY"),
    "everything": ("DOCKER", "VIRTUAL_REPOSITORY"),
    "web": ("NPM", "STANDARD_REPOSITORY"),
}


class GarFake(ProviderFake):
    """One project in one location."""

    kind = "gar"
    detected = {
        "europe-west1-docker.pkg.dev": {"location": "europe-west1"},
        "https://us-docker.pkg.dev/acme-prod/apps": {"location": "us", "project": "acme-prod", "repository": "apps"},
        "docker.europe-west3.rep.pkg.dev/acme-prod": {"location": "europe-west3", "project": "acme-prod"},
        "europe-docker.pkg.dev/example.com/proj/apps": {"project": "example.com:proj", "repository": "apps"},
        "gcr.io/acme-prod": {"location": "us", "project": "acme-prod", "repository": "gcr.io"},
        "US.gcr.io": {"location": "us", "repository": "us.gcr.io"},
        "eu.gcr.io": {"location": "europe", "repository": "eu.gcr.io"},
        "https://asia.gcr.io/v2/": {"location": "asia", "repository": "asia.gcr.io"},
    }
    undetected = (
        "mirror.gcr.io", "k8s.gcr.io", "marketplace.gcr.io", "gcr.io.example.com", "evilgcr.io", "x.us.gcr.io", "gcr.io:x@example.com",
        "europe-docker.pkg.dev.example.com", "docker.pkg.dev", "-docker.pkg.dev", "a.b-docker.pkg.dev", "europe-npm.pkg.dev",
        "docker.rep.pkg.dev", "registry.example.com/europe-docker.pkg.dev",
    )  # fmt: skip
    names = (
        f"{PROJECT}/apps/app", f"{PROJECT}/apps/base", f"{PROJECT}/apps/tools/cli", f"{PROJECT}/cache/library/nginx", f"{PROJECT}/data/db",
    )  # fmt: skip
    public = (f"{PROJECT}/apps/base",)
    grant = r"roles/artifactregistry\.reader"
    login_names = (
        "key by google-auth", "key as password", "key in base64", "metadata service", "application default credentials", "federation by file",
        "federation by url", "federation and impersonation", "federation with AWS keys", "federation with EKS Pod Identity", "impersonation",
        "user of gcloud", "access token as password", "access token", "anonymous",
    )  # fmt: skip
    mistake_names = (
        "no JSON", "base64 as JSON", "escaped twice", "unescaped", "another type", "key without its name", "unknown name", "expired token",
        "ID token", "JSON as token",
    )  # fmt: skip

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.google = GcpFake()
        self.root = root
        self.authority = Authority(names=tuple(FIXED))
        self.proxy = FakeProxy()
        self.api_refuses: tuple[int, str, str] | None = None
        """Status, status word and message with which the API refuses everything."""
        self.repositories = dict(REPOSITORIES)
        self.location = LOCATION
        self.gcr = ""
        """Set to a gcr.io host, of whose repository everything is, and named without it."""
        self.broken_page = ""
        """The token of a page that fails."""
        self.circle = False
        """Whether pages of the API never end."""
        self.denied: set[str] = set()
        """Repositories whose images the API does not list."""
        self.extra: list[dict[str, Any]] = []
        """Further entries of every list of images."""
        self.lists: dict[str, tuple[int, Any, Mapping[str, str]]] = {}
        """Status, JSON and headers of answers of `tags/list`, by path and query."""
        self._downloads = 0

    async def __aenter__(self) -> Self:
        await self.listen("api", self._api)
        await self.google.__aenter__()
        await self.google.serve_metadata()
        tls = await self.google.serve_tls(self.authority.server_context(self.root))
        self.proxy = FakeProxy(hosts={f"{name}:443": tls for name in FIXED})
        await self.proxy.__aenter__()
        return await super().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        await self.proxy.__aexit__(kind, error, trace)
        await self.google.__aexit__(kind, error, trace)

    def expire(self) -> None:
        """Access tokens and the registry's own."""
        super().expire()
        self.google.epoch += 1

    # -- logins ------------------------------------------------------------------------------------------------------------

    @property
    def base(self) -> dict[str, Any]:
        """The API is elsewhere than in the world, and the project cannot be told by every login."""
        return {"api": {"url": f"http://{self.address('api')}"}, "repositories": {"namespaces": [PROJECT]}}

    def file(self, name: str, text: str) -> str:
        """A file of the site's."""
        path = self.root / name
        path.write_text(text)
        return str(path)

    @property
    def logins(self) -> tuple[Login, ...]:
        """Keys, identities of machines, federation, impersonation, tokens."""
        key, google = self.google.key(), self.google
        file = {"file": self.file("subject", SUBJECT)}
        url = {
            "url": f"{google.url}/subject",
            "format": {"type": "json", "subject_token_field_name": "token"},
            "headers": {"X": "1"},
        }
        aws = {
            "environment_id": "aws1",
            "regional_cred_verification_url": "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15",
        }
        amazon = google.federation(aws, subject_token_type=AWS_TOKEN)
        pod = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{google.url}/creds",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": "pod-identity",
        }
        user = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "refresh"}
        region = {**CLEAN, "AWS_REGION": "eu-west-1"}
        adc = {**CLEAN, "GOOGLE_APPLICATION_CREDENTIALS": self.file("adc.json", key)}
        inspected = {"proxy": self.proxy.url, "ca_file": self.authority.write(self.root / "ca.pem")}
        gcloud = self.root / "gcloud"
        gcloud.mkdir(exist_ok=True)
        (gcloud / "application_default_credentials.json").write_text(json.dumps(user))
        settings: Mapping[str, tuple[Mapping[str, Any], Mapping[str, str], str, str]] = {
            "key by google-auth": (_gcp(credentials=key), CLEAN, KEY_EMAIL, "^service account key$"),
            "key as password": (_basic("_json_key", key), CLEAN, KEY_EMAIL, "_json_key"),
            "key in base64": (_basic("_json_key_base64", _b64(key)), CLEAN, KEY_EMAIL, "_json_key_base64"),
            "metadata service": (_gcp(), CLEAN, MACHINE_EMAIL, "metadata service"),
            "application default credentials": (_gcp(), adc, KEY_EMAIL, "application default credentials: service account key"),
            "federation by file": (_gcp(credentials=google.federation(file)), CLEAN, "pool site, provider oidc", "federation .file"),
            "federation by url": (_gcp(credentials=google.federation(url)), CLEAN, "project 123456", "federation .url"),
            "federation and impersonation": (
                _gcp(credentials=google.federation(file, impersonate=True)), CLEAN, TARGET_EMAIL, "federation",
            ),
            "federation with AWS keys": (
                _gcp(credentials=amazon), {**region, "AWS_ACCESS_KEY_ID": "AKIAX", "AWS_SECRET_ACCESS_KEY": "s"}, "pool site", "AWS",
            ),
            "federation with EKS Pod Identity": (_gcp(credentials=amazon), {**region, **pod}, "pool site", "container"),
            "impersonation": (
                {**_gcp(impersonate=TARGET_EMAIL), **inspected},
                CLEAN,
                TARGET_EMAIL,
                "metadata service .*, impersonating",
            ),
            "user of gcloud": (
                {**_gcp(), **inspected},
                {**CLEAN, "CLOUDSDK_CONFIG": str(gcloud)},
                "user",
                "user credentials",
            ),
            "access token as password": (_basic("oauth2accesstoken", google.issue(KEY_EMAIL)), CLEAN, "", "access token"),
            "access token": ({"token": google.issue(KEY_EMAIL)}, CLEAN, "", "access token"),
        }  # fmt: skip
        found = [
            Login(name=name, settings=given, env=env, identity=identity, method=method)
            for name, (given, env, identity, method) in settings.items()
        ]
        return (
            *found,
            Login(name="anonymous", anonymous=True, lists=False, method="anonymous", advice="login|credential"),
        )

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """Keys that were altered on their way, and tokens that are none."""
        key = json.loads(self.google.key())
        broken = self.google.key().replace("\\n", "\n")
        twice = json.dumps({**key, "private_key": key["private_key"].replace("\n", "\\n")})
        told: Mapping[str, tuple[Mapping[str, Any], str]] = {
            "no JSON": (_basic("_json_key", "secret"), "the whole JSON file"),
            "base64 as JSON": (_basic("_json_key", _b64(self.google.key())), "_json_key_base64"),
            "escaped twice": (_basic("_json_key", twice), "escaped twice"),
            "unescaped": (_basic("_json_key", broken), "line breaks of the private key must stay"),
            "another type": (
                _basic("_json_key", self.google.federation({"file": "/x"})),
                "external_account.*gcp.credentials",
            ),
            "key without its name": (_basic("robot", self.google.key()), "the user name for it is _json_key"),
            "unknown name": (_basic("robot", "secret"), "knows the user names"),
            "expired token": (_basic("oauth2accesstoken", f"ya29.{'x' * 80}"), "authentication failed.*(?s:.*)an hour"),
            "ID token": ({"token": self.issue()}, "looks like an ID token"),
            "JSON as token": ({"token": json.dumps(key)}, "the token is a JSON file"),
        }
        return tuple(Mistake(name=name, settings=given, env=CLEAN, says=says) for name, (given, says) in told.items())

    @property
    def skopeo(self) -> tuple[str, str]:
        """The key, verbatim."""
        return "_json_key", json.dumps(json.loads(self.google.key()))

    # -- the registry ------------------------------------------------------------------------------------------------------

    async def own(self, request: web.Request) -> web.StreamResponse | None:
        """The token endpoint, and where blobs really are."""
        if request.path.startswith("/artifacts-downloads/"):
            if self.login(request, "", "base") is not None:
                return web.Response(status=401)
            return self._bytes(request.path.rpartition("/")[2])
        return self._token(request) if request.path == "/v2/token" else None

    def _token(self, request: web.Request) -> web.Response:
        given = self.basic(request)
        if given is not None and not self._knows(*given):
            return problem(401, "UNAUTHORIZED", "authentication failed")
        access = []
        for scope in request.query.getall("scope", []):
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            if given is None and name not in self.public:
                return problem(403, "DENIED", f"Unauthenticated request. {_missing(name)}")
            if name in self.forbidden:
                return problem(403, "DENIED", _denied(name))
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        return web.json_response({"token": self.issue(access), "expires_in": 3600})

    def _knows(self, username: str, password: str) -> bool:
        if username == "oauth2accesstoken":
            return self.google.principal(password) is not None
        if username == "_json_key_base64":
            password = base64.b64decode(password).decode()
        elif username != "_json_key":
            return False
        try:
            return bool(json.loads(password) == json.loads(self.google.key()))
        except ValueError:
            return False

    def login(self, request: web.Request, repository: str, action: str) -> web.StreamResponse | None:
        """401 to strangers, 403 to those without a right or a repository."""
        token = self.bearer(request)
        granted = self.granted(token) if token else None
        if granted is None and self.google.principal(token) is None:
            scope = f',scope="repository:{repository}:pull"' if repository else ""
            value = f'Bearer realm="{self.url}/v2/token",service="{self.address()}"{scope}'
            return problem(401, "UNAUTHORIZED", "authentication required", headers={"WWW-Authenticate": value})
        if not repository:
            return None
        if granted is not None and f"repository:{repository}:pull" not in granted:
            return problem(403, "DENIED", _denied(repository))
        return problem(403, "DENIED", _denied(repository)) if repository in self.forbidden else None

    def blob(self, request: web.Request, digest: str) -> web.StreamResponse:
        """302 to a relative path on the same host."""
        if self.storage:
            return super().blob(request, digest)
        self._downloads += 1
        place = f"/artifacts-downloads/namespaces/{PROJECT}/repositories/apps/downloads/{self._downloads}/{digest}"
        return web.Response(status=302, headers={"Location": place})

    async def serve(self, request: web.Request, path: str) -> web.StreamResponse:
        """`tags/list` is answered for paths on the way to images too."""
        if request.path_qs in self.lists:
            status, body, headers = self.lists[request.path_qs]
            return self.login(request, "", "base") or web.json_response(body, status=status, headers=headers)
        repository = path.removeprefix("/v2/").removesuffix("/tags/list")
        if path.endswith("/tags/list") and any(name.startswith(f"{repository}/") for name in self.images):
            return self.login(request, repository, "tags") or self.tag_list(request, repository)
        return await super().serve(request, path)

    def tag_list(self, request: web.Request, repository: str) -> web.StreamResponse:
        """Everything at once, with `child` and `manifest`."""
        below = f"{repository}/"
        children = {name.removeprefix(below).partition("/")[0] for name in self.images if name.startswith(below)}
        images = self.images.get(repository, {})
        manifest = {
            image.digest: {
                "imageSizeBytes": str(len(image.data)), "layerId": "", "mediaType": image.media_type, "tag": [tag],
                "timeCreatedMs": "0", "timeUploadedMs": str(int(self.pushed(tag) * 1000)),
            }
            for tag, image in images.items()
        }  # fmt: skip
        return web.json_response(
            {"child": sorted(children), "manifest": manifest, "name": repository, "tags": sorted(images)}
        )

    # -- the API -----------------------------------------------------------------------------------------------------------

    async def _api(self, request: web.Request) -> web.StreamResponse:
        if self.throttled > 0:
            self.throttled -= 1
            return _refusal(429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Requests'")
        if self.google.principal(self.bearer(request)) is None:
            return _refusal(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        if self.api_refuses is not None:
            return _refusal(*self.api_refuses)
        path = unquote(request.raw_path.partition("?")[0]).removeprefix(f"/v1/projects/{PROJECT}/locations")
        base, _, rest = path.removeprefix(f"/{self.location}/repositories").partition("/dockerImages")
        name = base.removeprefix("/")
        lists: dict[str, tuple[str, list[Any]]] = {
            "": ("locations", [{"locationId": "europe"}, {"locationId": self.location}]),
            "/europe/repositories": ("repositories", []),
            f"/{self.location}/repositories": ("repositories", [self.repository(name) for name in self.repositories]),
        }
        if path in lists:
            return self._listed(request, *lists[path])
        if name not in self.repositories or (name in self.denied and path.endswith("/dockerImages")):
            return _refusal(403, "PERMISSION_DENIED", f'Permission denied on resource "{path}" (or it may not exist)')
        if path.endswith("/dockerImages"):
            return self._listed(request, "dockerImages", self.docker_images(name))
        return web.json_response(self.repository(name)) if not rest else web.Response(status=404)

    def repository(self, name: str) -> dict[str, Any]:
        """A repository as the API tells it."""
        form, mode = self.repositories[name]
        full = f"projects/{PROJECT}/locations/{self.location}/repositories/{name}"
        return {"name": full, "format": form, "mode": mode, "sizeBytes": "1", "dockerConfig": {"immutableTags": False}}

    def docker_images(self, repository: str) -> list[dict[str, Any]]:
        """Its images, each followed by a child of an index, without tags."""
        found: list[dict[str, Any]] = []
        host = self.gcr or f"{self.location}-docker.pkg.dev"
        for name, images in self.images.items():
            if not name.startswith(f"{PROJECT}/" if self.gcr else f"{PROJECT}/{repository}/"):
                continue
            for tag, image in images.items():
                uploaded = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(self.pushed(tag))) + ".123456789Z"
                shown = {"name": "n", "uri": f"{host}/{name}@{image.digest}", "tags": [tag], "uploadTime": uploaded}
                found.append({**shown, "imageSizeBytes": "1", "mediaType": image.media_type})
            found.append({"name": "n", "uri": f"{host}/{name}@sha256:{'0' * 64}", "uploadTime": "2026-01-01T00:00:00Z"})
        return found + self.extra

    def _listed(self, request: web.Request, key: str, entries: Sequence[Any]) -> web.Response:
        assert request.query["pageSize"] == "1000"
        token = request.query.get("pageToken", "t0")
        if token == self.broken_page:
            return _refusal(500, "INTERNAL", "Internal error encountered.")
        start = int(token.removeprefix("t"))
        page: dict[str, Any] = {key: entries[start : start + PAGE]} if entries else {}
        if start + PAGE < len(entries) or (self.circle and start):
            page["nextPageToken"] = "t2" if self.circle else f"t{start + PAGE}"
        return web.json_response(page)


def _refusal(status: int, word: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": status, "message": message, "status": word}}, status=status)


def _missing(name: str) -> str:
    project, repository = name.split("/")[:2]
    resource = f"projects/{project}/locations/{LOCATION}/repositories/{repository}"
    return (
        'Unauthenticated requests do not have permission "artifactregistry.repositories.downloadArtifacts" on resource '
        f'"{resource}" (or it may not exist)'
    )


def _denied(name: str) -> str:
    project, repository = [*name.split("/"), ""][:2]
    resource = f"projects/{project}/locations/{LOCATION}/repositories/{repository}"
    return f'Permission "artifactregistry.repositories.downloadArtifacts" denied on resource "{resource}" (or it may not exist)'


def _gcp(**more: Any) -> dict[str, Any]:
    return {"auth": "gcp", "gcp": more}


def _basic(username: str, password: str) -> dict[str, Any]:
    return {"username": username, "password": password}


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


assert len(TAGS) > 2 * PAGE
