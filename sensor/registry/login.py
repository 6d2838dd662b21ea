"""The token dance (CNCF distribution, "Token Authentication"; Basic per RFC 7617) as a generator that never does I/O.

`Login.flow` yields what to do next and is sent what came of it:

    NeedCredential  ->  a Credential, or None for an anonymous client
    Ask             ->  the answer of the token endpoint, or None when another flow has fetched that token meanwhile
    Send            ->  the answer to the caller's own request, sent with the Authorization value given

It returns when the last answer is for the caller to judge, and raises when logging in is hopeless. One login is one registry and one
credential. Every secret it gives out is for the registry's own origin or for a realm that `refuse_realm` lets pass.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from sensor.errors import RegistryError
from sensor.registry.challenge import Challenge, parse_challenges
from sensor.registry.errors import (
    AUTHENTICATION_FAILED,
    UNAUTHENTICATED,
    RegistryForbidden,
    RegistryUnauthorized,
    answer_error,
    error_detail,
    shown_url,
)
from sensor.registry.tokens import Token, TokenCache, TokenKey, covers_scope, parse_token, refuse_realm
from sensor.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Basic:
    """User name and password: sent as they are, or exchanged for tokens, as the registry wants it."""

    username: str
    password: Secret

    @property
    def header(self) -> str:
        """The Authorization value."""
        pair = f"{self.username}:{self.password.reveal()}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticToken:
    """A bearer token that is sent as it is."""

    token: Secret

    @property
    def header(self) -> str:
        """The Authorization value."""
        return f"Bearer {self.token.reveal()}"


Credential: TypeAlias = Basic | StaticToken


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, as far as logging in is concerned."""

    status: int
    header_lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    body: bytes = b""
    retry_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedCredential:
    """Fetch the credential; `renew` asks for another than `refused`, with a look at its source if there is no other yet."""

    renew: bool = False
    refused: Credential | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """GET a token from a realm that has been checked. Show `url` without its query."""

    url: str
    authorization: str | None = field(repr=False)
    key: TokenKey
    issued: int
    """How many tokens this key had seen when the request was made; see `Login.superseded`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send the caller's request, with this Authorization value or without one."""

    authorization: str | None = field(default=None, repr=False)


Step: TypeAlias = NeedCredential | Ask | Send
Sent: TypeAlias = Answer | Credential | None
Flow: TypeAlias = Generator[Step, Sent, None]


@dataclass(frozen=True, slots=True)
class _Presented:
    """An Authorization value, and what it was made of."""

    value: str | None = field(default=None, repr=False)
    key: TokenKey | None = None
    fresh: bool = False
    """Made during this flow: a refusal is final, not a matter of age."""
    credential: Credential | None = None
    """Sent as it is; another flow may have got a newer one since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What the registry let pass last, for Test Connection: an anonymous token that was let pass proves no login."""

    way: Literal["nothing", "basic", "static", "token"]
    token: Token | None = None


_ERROR_CODE = re.compile(r"[a-z_]{1,40}")
_NO_BEARER = "the registry asks for user name and password, not for a bearer token: set username and password"
_MOST_RESENT = 2
"""Once with a new token or the credential, once more when the scope was wrong or the credential has been rotated."""


class Login:
    """Everything known about logging in to one registry."""

    def __init__(
        self,
        origin: str,
        *,
        trusted_realms: tuple[str, ...] = (),
        expired: Callable[[Answer], bool] = lambda _answer: False,
        prefer_basic: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.origin = origin
        """scheme://host[:port] of the registry."""
        self._trusted = trusted_realms
        self._expired = expired
        self._prefer_basic = prefer_basic
        self._clock = clock
        self._challenge: Challenge | None = None
        self._credential: Credential | None = None
        self._tokens = TokenCache()
        self._scopes: dict[str, str] = {}
        # by scope, where it is not that of `GET /v2/` (Artifactory: one realm a repository)
        self._elsewhere: dict[str, Challenge] = {}
        self.accepted: Accepted | None = None
        """Of the last request that was not refused."""

    def learn(self, answer: Answer) -> None:
        """Remember how the registry wants to be logged in to, from an answer to `GET /v2/`."""
        if (chosen := self._choose(answer)) is not None:
            self._challenge = chosen

    def token_service(self, *, with_secret: bool) -> tuple[str, str]:
        """The realm that the registry names, and why it must not be asked ("" when it may). Two empty texts where it names none.

        `with_secret`: whether something secret would go there. For kinds that find the provider's own API beside its token service.
        """
        if self._challenge is None or self._challenge.scheme != "bearer":
            return "", ""
        realm = self._challenge["realm"]
        return realm, refuse_realm(realm, self.origin, with_secret=with_secret, trusted=self._trusted)

    def superseded(self, ask: Ask) -> bool:
        """Whether another flow has got that token since: then send None instead of asking again."""
        return self._tokens.issued(ask.key) > ask.issued

    def flow(self, scope: str = "") -> Flow:
        """Log in for one request. `scope` is what the request needs, in the token protocol's words; a challenge may correct it.

        Raises:
            RegistryUnauthorized: no credential, or a refused one.
            RegistryForbidden: the credential does not reach that far.
            RegistryError: the token endpoint fails.
        """
        yield from self._fetch_credential()
        shown = yield from self._present(scope)
        answer = yield Send(authorization=shown.value)
        resent = 0
        while self._refused(refusal := _answer(answer)):
            challenge = self._choose(refusal) or self._challenge
            self._challenge = self._challenge or challenge
            again = (yield from self._present_again(scope, shown, challenge)) if resent < _MOST_RESENT else None
            if again is None:
                raise self._hopeless(scope, shown, refusal)
            shown = again
            resent += 1
            answer = yield Send(authorization=shown.value)
        if _answer(answer).status < 400:
            self.accepted = self._accepted(shown)

    def _accepted(self, shown: _Presented) -> Accepted:
        if shown.value is None:
            return Accepted(way="nothing")
        if shown.key is not None:
            return Accepted(way="token", token=self._tokens.get(shown.key, self._clock()))
        return Accepted(way="static" if isinstance(self._credential, StaticToken) else "basic")

    def _fetch_credential(self, refused: Credential | None = None, *, renew: bool = False) -> Flow:
        """Ask for the credential, or for another one than was refused."""
        given = yield NeedCredential(renew=renew, refused=refused)
        before, self._credential = self._credential, None if isinstance(given, Answer) else given
        if before != self._credential:
            self._tokens.clear()

    def _present(self, scope: str) -> Generator[Step, Sent, _Presented]:
        """What to send first, from what is known. Nothing is known before the first challenge, so nothing secret is sent."""
        if isinstance(self._credential, StaticToken):
            return self._bare()
        challenge = self._elsewhere.get(scope, self._challenge)
        if challenge is None:
            return _Presented()
        if challenge.scheme == "basic" or self._takes_basic():
            return self._bare()
        key = self._key(challenge, self._scopes.get(scope, scope))
        return (yield from self._bearer(key, scope)) or self._basic_instead()

    def _present_again(
        self, scope: str, shown: _Presented, challenge: Challenge | None
    ) -> Generator[Step, Sent, _Presented | None]:
        """What to send after a refusal, or None when nothing better is left."""
        bare = isinstance(self._credential, StaticToken) or self._takes_basic()
        if bare or challenge is None or challenge.scheme == "basic":
            if isinstance(self._credential, Basic) and (shown.value is None or shown.key is not None):
                return self._bare()
            if shown.fresh:
                return None
            yield from self._fetch_credential(shown.credential, renew=True)
            same = self._credential is None or self._credential == shown.credential
            return None if same else self._bare(fresh=True)
        asked = self._scopes.get(scope, scope)
        wanted = challenge["scope"] or asked
        if not scope and wanted.startswith("repository:"):
            wanted = ""  # GHCR's challenge for the base names a placeholder, `user/image`, which nobody may pull
        within = covers_scope(asked, wanted)
        if within and not shown.fresh:
            wanted = (
                asked  # the token was old, and the next request may need the rest (Azure names one action at a time)
            )
        key = self._key(challenge, wanted)
        if shown.fresh and shown.key == key:
            return None
        if not within:
            self._scopes[scope] = wanted
        self._elsewhere.pop(scope, None)
        if self._challenge is not None and challenge["realm"] != self._challenge["realm"]:
            self._elsewhere[scope] = challenge
        if shown.key == key:
            self._tokens.drop(key, shown.value)
        presented = yield from self._bearer(key, scope)
        if presented is not None:
            return presented
        fallback = self._basic_instead()
        return fallback if fallback.value is not None and fallback.value != shown.value else None

    def _bearer(self, key: TokenKey, scope: str) -> Generator[Step, Sent, _Presented | None]:
        """A token from the cache or the realm; None when no secret may go to that realm and Basic is the way out."""
        if (kept := self._tokens.get(key, self._clock())) is not None:
            return _Presented(value=kept.header, key=key)
        reason = refuse_realm(key.realm, self.origin, with_secret=self._credential is not None, trusted=self._trusted)
        if reason:
            if self._credential is not None:
                return None
            message = f"the registry sends to {shown_url(key.realm)!r} for a token: {reason}"
            raise RegistryUnauthorized(message, "correct the realm in the registry's own configuration")
        token = yield from self._mint(key, scope)
        return _Presented(value=token.header, key=key, fresh=True)

    def _mint(self, key: TokenKey, scope: str) -> Generator[Step, Sent, Token]:
        renewed = False
        while True:
            used = self._credential
            ask = Ask(
                url=key.url,
                authorization=used.header if used else None,
                key=key,
                issued=self._tokens.issued(key),
            )
            answer = yield ask
            if answer is None:
                if (kept := self._tokens.get(key, self._clock())) is not None:
                    return kept
                continue  # what the other flow has got was for a credential that is not in use any more
            given = _answer(answer)
            if given.status == 200:
                token = parse_token(given.body, self._clock(), shown_url(key.realm))
                self._tokens.put(key, token, self._clock())
                return token
            if given.status in {401, 403} and used is not None and not renewed:
                renewed = True
                yield from self._fetch_credential(used, renew=True)
                if self._credential != used:
                    continue
            if given.status == 400 and key.scope.startswith("registry:"):
                # Quay knows no such scope and wants to be asked without one
                self._scopes[scope] = ""
                key = TokenKey(key.realm, key.service, "")
                continue
            raise self._token_refused(key, given)

    def _basic_instead(self) -> _Presented:
        """An unusable realm: Harbor, Artifactory and Nexus also take Basic on the registry's own origin."""
        return self._bare() if isinstance(self._credential, Basic) else _Presented()

    def _bare(self, *, fresh: bool = False) -> _Presented:
        """The credential as it is."""
        given = self._credential
        return _Presented(value=given.header if given else None, fresh=fresh, credential=given)

    def _takes_basic(self) -> bool:
        return self._prefer_basic and isinstance(self._credential, Basic)

    def _refused(self, answer: Answer) -> bool:
        return answer.status == 401 or (answer.status in {400, 403} and self._expired(answer))

    def _choose(self, answer: Answer) -> Challenge | None:
        """Bearer before Basic, as every client does it; other schemes are not spoken."""
        offered = parse_challenges(answer.header_lists.get("www-authenticate", ()))
        bearer = next((c for c in offered if c.scheme == "bearer" and c["realm"]), None)
        return bearer or next((c for c in offered if c.scheme == "basic"), None)

    def _key(self, challenge: Challenge, scope: str) -> TokenKey:
        return TokenKey(challenge["realm"], challenge["service"], scope)

    def _token_refused(self, key: TokenKey, answer: Answer) -> RegistryError:
        if answer.status not in {401, 403}:
            return answer_error("GET", key.realm, answer.status, answer.body, retry_after=answer.retry_after)
        asked = f"GET {shown_url(key.realm)}: status {answer.status}" + _and(error_detail(answer.body))
        if self._credential is None:
            return RegistryUnauthorized(
                f"{UNAUTHENTICATED}: {asked}", "configure username and password for this registry"
            )
        return RegistryUnauthorized(
            f"{AUTHENTICATION_FAILED}: {asked}",
            "check user name and password, and whether they have expired or were disabled",
        )

    def _hopeless(self, scope: str, shown: _Presented, answer: Answer) -> RegistryError:
        """Which of the many reasons for a last 401 it is."""
        problem = next(
            # one of the protocol's words (RFC 6750, 3.1); what else stands there may be anything, the token itself for example
            (
                c["error"]
                for c in parse_challenges(answer.header_lists.get("www-authenticate", ()))
                if _ERROR_CODE.fullmatch(c["error"])
            ),
            "",
        )
        said = _and(error_detail(answer.body)) or _and(problem)
        what = f"{self.origin}: status {answer.status}{said}"
        if self._credential is None:
            advice = "configure a credential; without one only public repositories can be read"
            return RegistryUnauthorized(f"{UNAUTHENTICATED}: {what}", advice)
        if problem == "invalid_token" and shown.key is not None:
            return RegistryUnauthorized(
                f"{AUTHENTICATION_FAILED}: {what}, although the token is new",
                "registry and token service disagree: compare their clocks, issuer and certificate",
            )
        if self._realm_reason() and isinstance(self._credential, Basic) and shown.key is None:
            return RegistryUnauthorized(
                f"{AUTHENTICATION_FAILED}: {what}; the credential was not sent to the token service: {self._realm_reason()}",
                "if that host may have it, name it in trusted_realms",
            )
        if scope and (shown.key is not None or problem == "insufficient_scope"):
            return RegistryForbidden(
                f"no right for {scope}: {what}",
                "give this credential the right to pull; if it has it, the repository does not exist",
            )
        advice = "check user name and password, and whether they have expired"
        if isinstance(self._credential, StaticToken):
            asked = self._choose(answer) or self._challenge
            advice = _NO_BEARER if asked and asked.scheme == "basic" else "check the token, and whether it has expired"
        return RegistryUnauthorized(f"{AUTHENTICATION_FAILED}: {what}", advice)

    def _realm_reason(self) -> str:
        return self.token_service(with_secret=True)[1]


def _answer(sent: Sent) -> Answer:
    if not isinstance(sent, Answer):
        message = "the login flow was sent something else than an answer"
        raise TypeError(message)
    return sent


def _and(detail: str) -> str:
    return f", {detail}" if detail else ""
