"""Amazon ECR: the private registry of an account, and its API. The public one is in `ecr_public`.

Basic with a password of GetAuthorizationToken, 403 in plain words when it has ended, `tags/list` as text/plain with an opaque `last`,
405 for more than 1000 names. The API speaks JSON 1.1 and pages by opaque tokens, which moto does not.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from tests.fakes.aws import ACCOUNT, OTHER_ACCOUNT, Container, Iam, Key, Metadata, Sts, json_error
from tests.fakes.registries.provider import PAGE, Login, Mistake, ProviderFake, problem

REGION = "eu-west-1"
WEB_TOKEN = "web.identity.token"


class EcrApi:
    """The operations that list and log in, of the private API or the public one. Pages hold two entries."""

    def __init__(self, fake: EcrFake | Any) -> None:
        self.fake = fake
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.denied: set[str] = set()
        """Operations that nobody may call."""
        self.failing: list[web.Response] = []
        """What the next calls are answered with instead."""
        self.answers: dict[str, Any] = {}
        """Operation to a whole answer, instead of the true one."""
        self.states: dict[str, str] = {}
        """Tag to ARCHIVED or ACTIVATING, in all repositories."""
        self.knows_states = True
        """Whether DescribeImages takes the filter imageStatus."""
        self.loops = False
        """The second page leads to itself."""

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answer one call."""
        operation = request.headers["X-Amz-Target"].rpartition(".")[2]
        body: dict[str, Any] = json.loads(await request.read())
        self.asked.append((operation, body))
        if self.failing:
            return self.failing.pop(0)
        caller = await self.fake.iam.caller(request)
        if isinstance(caller, tuple):
            return json_error(*caller)
        if operation in self.denied or (operation == "GetAuthorizationToken" and caller.arn.endswith("/powerless")):
            return self.denial(caller, operation, body)
        if operation in self.answers:
            return self.send(self.answers[operation])
        if operation == "GetAuthorizationToken":
            return self.send({"authorizationData": self.fake.authorization(caller)})
        name = body.get("repositoryName")
        if name is not None and name not in self.fake.api_names():
            text = f"The repository with name '{name}' does not exist in the registry with id '{ACCOUNT}'"
            return json_error("RepositoryNotFoundException", text)
        if "imageStatus" in body.get("filter", {}) and not self.knows_states:
            return json_error("InvalidParameterException", "Invalid parameter at 'filter'")
        return self.page(operation, body)

    def denial(self, caller: Key, operation: str, body: Mapping[str, Any]) -> web.Response:
        """As IAM words it."""
        action = f"{self.fake.service}:{operation}"
        place = f"repository/{body.get('repositoryName', '*')}"
        resource = "*" if operation == "GetAuthorizationToken" else f"arn:aws:ecr:{REGION}:{ACCOUNT}:{place}"
        text = f"User: {caller.arn} is not authorized to perform: {action} on resource: {resource}"
        return json_error(
            "AccessDeniedException", f"{text} because no identity-based policy allows the {action} action"
        )

    def page(self, operation: str, body: Mapping[str, Any]) -> web.Response:
        """One page of entries."""
        key, entries = self.fake.entries(operation, body, self)
        start = int(base64.b64decode(body["nextToken"])) if "nextToken" in body else 0
        size = min(PAGE, body.get("maxResults", 100))
        answer: dict[str, Any] = {key: entries[start : start + size]}
        if start + size < len(entries):
            following = start if self.loops and start else start + size
            answer["nextToken"] = base64.b64encode(str(following).encode()).decode()
        return self.send(answer)

    @staticmethod
    def send(answer: Any) -> web.Response:
        """A good answer."""
        return web.Response(text=json.dumps(answer), content_type="application/x-amz-json-1.1")


class EcrFake(ProviderFake):
    """The private registry of one account, with everything that gives an identity around it."""

    kind = "ecr"
    service = "ecr"
    detected = {
        f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com": {"account": ACCOUNT, "region": "eu-west-1"},
        f"https://{ACCOUNT}.dkr.ecr-fips.us-gov-west-1.amazonaws.com/": {"region": "us-gov-west-1", "fips": "yes"},
        f"{ACCOUNT}.dkr-ecr.eu-central-1.on.aws": {"region": "eu-central-1", "dual_stack": "yes"},
        f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn/team": {"region": "cn-north-1"},
        f"{ACCOUNT}.dkr.ecr.eusc-de-east-1.amazonaws.eu": {"region": "eusc-de-east-1"},
        "public.ecr.aws": {"registry": "public"},
    }
    undetected = (
        f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com.example.com",
        f"x{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com",
        f"https://{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com@example.com",
        "12345678901.dkr.ecr.eu-west-1.amazonaws.com",
        "public.ecr.aws.example.com",
        "notpublic.ecr.aws",
    )
    catalog = True
    login_names = (
        "access keys", "access keys as user name and password", "temporary access keys", "profile", "environment",
        "instance role", "container role", "EKS Pod Identity", "IRSA", "role of another account", "chain of roles",
        "authorization token",
    )  # fmt: skip
    mistake_names = (
        "wrong secret key", "unknown key", "temporary key without its token", "id of a user", "no identity", "wrong external id",
        "no right to log in", "token that has ended", "other user name", "bearer token", "broken pod token", "wrong web identity",
    )  # fmt: skip
    grant = r"permission ecr:BatchGetImage on arn:aws:ecr:eu-west-1:123456789012:repository/team/app"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.iam = Iam()
        self.user = self.iam.user()
        self.powerless = self.iam.user("powerless")
        self.temporary = self.iam.session(f"arn:aws:iam::{ACCOUNT}:role/temporary")
        self.foreign = self.iam.user("foreign", OTHER_ACCOUNT)
        self.iam.role("irsa", web_token=WEB_TOKEN)
        self.iam.role("reader", trusts="user/foreign", external_id="harbor-guard")
        self.iam.role("middle", trusts="user/sensor")
        self.iam.role("last", OTHER_ACCOUNT, trusts="assumed-role/middle")
        self.sts = Sts(iam=self.iam)
        self.metadata = Metadata(iam=self.iam)
        self.container = Container(iam=self.iam)
        self.api = EcrApi(self)
        self.passwords: dict[str, tuple[int, str]] = {}
        """Password to the epoch it was made in, and for whom."""
        self._files = root

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self.listen("sts", self.sts)
        await self.listen("metadata", self.metadata)
        await self.listen("old metadata", Metadata(iam=self.iam, refuse=403))
        await self.listen("container", self.container)
        await self.listen("api", self.api)
        return self

    # -- for the suite ---------------------------------------------------------------------------------------------------

    @property
    def base(self) -> dict[str, Any]:
        """Account and region, which a loopback address does not tell, and where the API is."""
        return {"aws": {"account": ACCOUNT, "region": REGION}, "api": {"url": f"http://{self.address('api')}"}}

    def environment(self, **more: str) -> dict[str, str]:
        """Variables that keep the SDK on loopback."""
        return {
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_ENDPOINT_URL_STS": f"http://{self.address('sts')}",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{self.address('metadata')}",
            **more,
        }

    def file(self, name: str, text: str) -> str:
        """A file with something for the SDK to read."""
        path = self._files / name
        path.write_text(text, "utf-8")
        return str(path)

    @staticmethod
    def keys(key: Key, **more: Any) -> dict[str, Any]:
        """Settings with access keys."""
        given = {"access_key_id": key.id, "secret_access_key": key.secret, **more}
        return {"aws": given | ({"session_token": key.token} if key.token else {})}

    def pod(self, token: str) -> dict[str, str]:
        """The variables of EKS Pod Identity."""
        return self.environment(
            AWS_CONTAINER_CREDENTIALS_FULL_URI=f"http://{self.address('container')}/v1/credentials",
            AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=self.file("eks-pod-identity-token", token),
        )

    def irsa(self, token: str) -> dict[str, str]:
        """The variables of IRSA."""
        return self.environment(
            AWS_ROLE_ARN=f"arn:aws:iam::{ACCOUNT}:role/irsa", AWS_WEB_IDENTITY_TOKEN_FILE=self.file("irsa-token", token)
        )

    @property
    def logins(self) -> tuple[Login, ...]:
        """Every way to be somebody."""
        quiet = self.environment()
        files = self.file(
            "credentials",
            f"[sensor]\naws_access_key_id = {self.user.id}\naws_secret_access_key = {self.user.secret}\n",
        )
        env = {"AWS_ACCESS_KEY_ID": self.user.id, "AWS_SECRET_ACCESS_KEY": self.user.secret}
        container = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{self.address('container')}/task",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": self.container.token,
        }
        reader = [{"arn": f"arn:aws:iam::{ACCOUNT}:role/reader", "external_id": "harbor-guard"}]
        chain = [{"arn": f"arn:aws:iam::{ACCOUNT}:role/middle"}, {"arn": f"arn:aws:iam::{OTHER_ACCOUNT}:role/last"}]
        user = {"identity": ":user/sensor$"}
        made = (
            Login(name="", settings=self.keys(self.user), env=quiet, method="^access key$", **user),
            Login(
                name="",
                settings={"username": self.user.id, "password": self.user.secret},
                env=quiet,
                method="^access key$",
                **user,
            ),
            Login(
                name="", settings=self.keys(self.temporary), env=quiet, identity="assumed-role/temporary", method="key"
            ),
            Login(
                name="",
                settings={"aws": {"profile": "sensor"}},
                env=self.environment(AWS_SHARED_CREDENTIALS_FILE=files),
                method="profile",
                **user,
            ),
            Login(name="", env=self.environment(**env), method="environment", **user),
            Login(name="", env=quiet, identity="assumed-role/instance", method="instance role .*iam-role"),
            Login(name="", env=self.environment(**container), identity="assumed-role/task", method="^container role"),
            Login(name="", env=self.pod(self.container.token), identity="assumed-role/task", method="EKS Pod Identity"),
            Login(name="", env=self.irsa(WEB_TOKEN), identity="assumed-role/irsa", method="IRSA.*assume-role-with-web"),
            Login(
                name="",
                settings=self.keys(self.foreign, assume_roles=reader),
                env=quiet,
                identity="assumed-role/reader/harborguard-sensor",
                method="access key, then the role .*role/reader",
            ),
            Login(
                name="",
                settings=self.keys(self.user, assume_roles=chain),
                env=quiet,
                identity=f":{OTHER_ACCOUNT}:assumed-role/last",
                method="role/middle, then the role .*role/last",
            ),
            Login(
                name="",
                settings={"username": "AWS", "password": self.password(self.user)},
                env=quiet,
                identity="^AWS$",
                method="authorization token",
            ),
        )
        return named(self.login_names, made)

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """What people get wrong."""
        quiet = self.environment()
        wrong = {"access_key_id": self.user.id, "secret_access_key": "wrong"}
        unknown = {"access_key_id": "AKIA0000000000000000", "secret_access_key": "x"}
        half = {"access_key_id": self.temporary.id, "secret_access_key": self.temporary.secret}
        reader = [{"arn": f"arn:aws:iam::{ACCOUNT}:role/reader", "external_id": "someone-else"}]
        old = base64.b64encode(b'{"expiration": 1700000000}').decode()
        self.passwords[old] = (-1, self.user.arn)
        nowhere = self.environment(AWS_EC2_METADATA_SERVICE_ENDPOINT=f"http://{self.address('old metadata')}")
        made = (
            ("authentication failed", {"aws": wrong}, quiet),
            ("authentication failed.*(?s:.*)check aws.access_key_id", {"aws": unknown}, quiet),
            ("set aws.session_token", {"aws": half}, quiet),
            ("id of a user or role", {"aws": {**wrong, "access_key_id": "AIDA0000000000000000"}}, quiet),
            ("reachable but unauthenticated.*(?s:.*)http-put-response-hop-limit 2", {}, nowhere),
            ("external_id", self.keys(self.foreign, assume_roles=reader), quiet),
            (r'ecr:GetAuthorizationToken to .*user/powerless with "Resource": "\*"', self.keys(self.powerless), quiet),
            ("ends? .*12 hours", {"username": "AWS", "password": old}, quiet),
            ("begins with AKIA or ASIA", {"username": "robot", "password": "x"}, quiet),
            ("takes no bearer tokens", {"token": "x"}, quiet),
            ("line break", {}, self.pod("container-token\n")),
            ("OIDC provider", {}, self.irsa("another.token")),
        )
        mistakes = (Mistake(name="", says=says, settings=settings, env=env) for says, settings, env in made)
        return named(self.mistake_names, tuple(mistakes))

    @property
    def skopeo(self) -> tuple[str, str]:
        """As `docker login` is fed by get-login-password."""
        return "AWS", self.password(self.user)

    # -- passwords -------------------------------------------------------------------------------------------------------

    def password(self, key: Key) -> str:
        """A new password for somebody, as opaque as the real ones."""
        body = {"payload": str(len(self.passwords)) * 40, "version": "2", "expiration": int(time.time()) + 43200}
        password = base64.b64encode(json.dumps(body).encode()).decode()
        self.passwords[password] = (self.epoch, key.arn)
        return password

    def authorization(self, key: Key) -> Any:
        """`authorizationData` of GetAuthorizationToken."""
        token = base64.b64encode(f"AWS:{self.password(key)}".encode()).decode()
        return [{"authorizationToken": token, "expiresAt": time.time() + 43200, "proxyEndpoint": "https://other"}]

    # -- the registry ----------------------------------------------------------------------------------------------------

    def login(self, request: web.Request, repository: str, action: str) -> web.StreamResponse | None:
        """Basic, and the words of a password that has ended or of a missing right."""
        given = self.basic(request)
        if given is None or given[0] != "AWS" or given[1] not in self.passwords:
            place = f'Basic realm="https://{request.host}/",service="ecr.amazonaws.com"'
            return web.Response(status=401, text="no basic auth credentials", headers={"WWW-Authenticate": place})
        epoch, arn = self.passwords[given[1]]
        if epoch != self.epoch:
            text = "denied: Your authorization token has expired. Reauthenticate and try again."
            return web.Response(status=403, text=text)
        if repository in self.forbidden:
            resource = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{repository}"
            text = f"User: {arn} is not authorized to perform: ecr:BatchGetImage on resource: {resource}"
            return problem(
                403, "DENIED", f"{text} because no identity-based policy allows the ecr:BatchGetImage action"
            )
        return None

    def throttle(self, request: web.Request) -> web.StreamResponse:
        """No Retry-After."""
        return web.Response(status=429, text="toomanyrequests: Rate exceeded")

    def page(
        self, request: web.Request, names: Sequence[str], key: str, more: Mapping[str, Any], *, size: int = PAGE
    ) -> web.Response:
        """text/plain, an opaque `last`, and 405 for too large an `n`."""
        asked = int(request.query.get("n", 100))
        if asked > 1000:
            return problem(405, "UNSUPPORTED", "Invalid parameter at 'maxResults' failed to satisfy constraint")
        start = int(base64.b64decode(request.query["last"])) if "last" in request.query else 0
        shown = list(names)[start : start + min(size, asked)]
        headers = {}
        if start + len(shown) < len(names):
            last = base64.b64encode(str(start + len(shown)).encode()).decode().replace("=", "%3D")
            headers["Link"] = f'<http://{request.host}{request.path}?n={asked}&last={last}>; rel="next"'
        text = json.dumps({**more, key: shown})
        return web.Response(text=text, content_type="text/plain", headers=headers)

    # -- the API ---------------------------------------------------------------------------------------------------------

    def api_names(self) -> tuple[str, ...]:
        """Repositories as the API calls them."""
        return self.names

    def entries(self, operation: str, body: Mapping[str, Any], api: EcrApi) -> tuple[str, list[Any]]:
        """All entries of an operation, before paging."""
        if operation == "DescribeRepositories":
            return "repositories", [
                {"repositoryName": name, "registryId": body.get("registryId", ACCOUNT)} for name in self.names
            ]
        images = self.images[body["repositoryName"]]
        wanted = body.get("filter", {}).get("imageStatus", "ACTIVE")
        tags = [tag for tag in images if wanted in {"ANY", api.states.get(tag, "ACTIVE")}]
        if operation == "ListImages":
            return "imageIds", [{"imageTag": tag, "imageDigest": images[tag].digest} for tag in tags]
        return "imageDetails", [
            {
                "imageTags": [tag],
                "imageDigest": images[tag].digest,
                "imagePushedAt": self.pushed(tag),
                "imageStatus": api.states.get(tag, "ACTIVE"),
            }
            for tag in tags
        ]


def named(names: Sequence[str], made: Sequence[Any]) -> tuple[Any, ...]:
    """Give logins or mistakes their names, which the suite needs before the fake runs."""
    assert len(names) == len(made)
    kind = type(made[0])
    fields = kind.__dataclass_fields__
    return tuple(
        kind(**{**{field: getattr(one, field) for field in fields}, "name": name})
        for name, one in zip(names, made, strict=True)
    )
