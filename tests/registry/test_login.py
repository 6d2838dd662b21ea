"""The token dance, fed by hand: no network, no clock."""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qs, urlsplit

import pytest

from sensor.errors import RegistryError
from sensor.registry.errors import RegistryForbidden, RegistryRateLimited, RegistryUnauthorized, UnexpectedAnswer
from sensor.registry.login import (
    Answer,
    Ask,
    Basic,
    Credential,
    Flow,
    Login,
    NeedCredential,
    Send,
    StaticToken,
    Step,
)
from sensor.secret import Secret

ORIGIN = "https://registry.example:5000"
ALICE = Basic(username="alice", password=Secret("pass:word"))
BOB = Basic(username="bob", password=Secret("x"))
SCOPE = "repository:team/app:pull"
BEARER = 'Bearer realm="https://registry.example/token?x=1",service="svc"'


def header(credential: Basic) -> str:
    return "Basic " + base64.b64encode(f"{credential.username}:{credential.password.reveal()}".encode()).decode()


def unauthorized(*challenges: str, body: bytes = b"") -> Answer:
    return Answer(status=401, header_lists={"www-authenticate": challenges}, body=body)


def token(text: str = "t1", **more: object) -> Answer:
    return Answer(status=200, body=json.dumps({"token": text, "expires_in": 300, **more}).encode())


OK = Answer(status=200)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Dance:
    """One login and one credential; `run` plays a flow against a list of answers and returns what was yielded."""

    def __init__(
        self, credential: Credential | None, *, after_renewal: Credential | None = None, **options: object
    ) -> None:
        self.clock = Clock()
        self.login = Login(ORIGIN, clock=self.clock, **options)  # type: ignore[arg-type]
        self.credential = credential
        self.after_renewal = after_renewal
        self.renewals = 0

    def run(self, *answers: Answer | None, scope: str = SCOPE) -> list[Step]:
        left = list(answers)
        flow: Flow = self.login.flow(scope)
        steps: list[Step] = []
        step = next(flow)
        while True:
            if isinstance(step, NeedCredential):
                if step.renew:
                    self.renewals += 1
                    self.credential = self.after_renewal or self.credential
                sent: Answer | Credential | None = self.credential
            else:
                steps.append(step)
                sent = left.pop(0)
            try:
                step = flow.send(sent)
            except StopIteration:
                assert not left, "the flow ended early"
                return steps


def test_an_open_registry_is_sent_no_credential() -> None:
    assert Dance(ALICE).run(OK) == [Send()]


def test_basic_is_sent_after_the_challenge_and_from_then_on_at_once() -> None:
    dance = Dance(ALICE)
    assert dance.run(unauthorized('Basic realm="r"'), OK) == [Send(), Send(authorization=header(ALICE))]
    assert dance.run(OK) == [Send(authorization=header(ALICE))]
    assert dance.run(OK, scope="") == [Send(authorization=header(ALICE))]


def test_a_password_with_a_colon_and_letters_beyond_ascii_is_sent_as_utf8() -> None:
    credential = Basic(username="jürgen", password=Secret("ä:ö"))
    assert base64.b64decode(credential.header.removeprefix("Basic ")).decode() == "jürgen:ä:ö"


def test_a_bearer_token_is_asked_for_with_basic_service_and_scope() -> None:
    dance = Dance(ALICE)
    first, ask, again = dance.run(unauthorized(BEARER + f',scope="{SCOPE}"'), token("t1"), OK)
    assert first == Send()
    assert isinstance(ask, Ask)
    assert ask.authorization == header(ALICE)
    assert ask.url.startswith("https://registry.example/token?x=1&")
    assert parse_qs(urlsplit(ask.url).query) == {"x": ["1"], "service": ["svc"], "scope": [SCOPE]}
    assert again == Send(authorization="Bearer t1")
    assert dance.run(OK) == [Send(authorization="Bearer t1")]


def test_each_scope_has_its_own_token_fetched_before_the_request() -> None:
    dance = Dance(ALICE)
    dance.login.learn(unauthorized(BEARER))
    ask, send = dance.run(token("t1"), OK)
    assert isinstance(ask, Ask)
    assert send == Send(authorization="Bearer t1")
    other, send = dance.run(token("t2"), OK, scope="repository:other:pull")
    assert isinstance(other, Ask)
    assert "repository:other:pull" in other.url
    assert send == Send(authorization="Bearer t2")


def test_anonymous_tokens_are_asked_for_without_a_credential() -> None:
    dance = Dance(None)
    dance.login.learn(unauthorized('Bearer realm="https://auth.elsewhere.example/token",service="s"'))
    ask, send = dance.run(token(), OK)
    assert isinstance(ask, Ask)
    assert ask.authorization is None
    assert send == Send(authorization="Bearer t1")


@pytest.mark.parametrize(
    ("body", "life"),
    [
        ({"expires_in": 300}, 270),
        ({"expires_in": 3600}, 3540),
        ({}, 54),
        ({"expires_in": None}, 54),
        ({"expires_in": 0}, 54),
        ({"expires_in": -5}, 54),
        ({"expires_in": "1200"}, 1140),
        ({"expires_in": 1e12}, 86340),
    ],
)
def test_a_token_is_renewed_before_it_expires(body: dict[str, object], life: float) -> None:
    dance = Dance(ALICE)
    dance.login.learn(unauthorized(BEARER))
    dance.run(Answer(status=200, body=json.dumps({"access_token": "t1", **body}).encode()), OK)
    dance.clock.now += life - 0.01
    assert dance.run(OK) == [Send(authorization="Bearer t1")]
    dance.clock.now += 0.02
    assert dance.run(token("t2"), OK)[-1] == Send(authorization="Bearer t2")


def test_a_refused_token_is_renewed_once_and_never_in_a_loop() -> None:
    dance = Dance(ALICE)
    dance.login.learn(unauthorized(BEARER))
    dance.run(token("old"), OK)
    steps = dance.run(unauthorized(BEARER + ',error="invalid_token"'), token("new"), OK)
    assert [type(step) for step in steps] == [Send, Ask, Send]
    assert steps[-1] == Send(authorization="Bearer new")
    with pytest.raises(RegistryUnauthorized, match="although the token is new"):
        dance.run(
            unauthorized(BEARER + ',error="invalid_token"'),
            token("newer"),
            unauthorized(BEARER + ',error="invalid_token"'),
        )


def test_a_challenge_corrects_the_scope_and_is_remembered() -> None:
    dance = Dance(ALICE)
    dance.login.learn(unauthorized(BEARER))
    wider = BEARER + ',scope="repository:key/team/app:pull",error="insufficient_scope"'
    steps = dance.run(token("t1"), unauthorized(wider), token("t2"), OK)
    assert isinstance(steps[2], Ask)
    assert "repository:key/team/app:pull" in steps[2].url
    assert dance.run(OK) == [Send(authorization="Bearer t2")]


def test_a_challenge_that_names_one_of_several_actions_renews_the_token_for_all() -> None:
    both, one = "repository:team/app:pull,metadata_read", BEARER + ',scope="repository:team/app:metadata_read"'
    dance = Dance(ALICE)
    dance.login.learn(unauthorized(BEARER))
    dance.run(token("t1"), OK, scope=both)
    _, ask, again = dance.run(unauthorized(one), token("t2"), OK, scope=both)
    assert isinstance(ask, Ask)
    assert parse_qs(urlsplit(ask.url).query)["scope"] == [both]
    assert again == Send(authorization="Bearer t2")
    assert dance.run(OK, scope=both) == [Send(authorization="Bearer t2")]


def test_a_fresh_token_that_does_not_reach_is_a_missing_right() -> None:
    dance = Dance(ALICE)
    dance.login.learn(unauthorized(BEARER))
    body = b'{"errors":[{"code":"UNAUTHORIZED","message":"not yours"}]}'
    with pytest.raises(RegistryForbidden, match=r"repository:team/app:pull.*not yours") as raised:
        dance.run(token(), unauthorized(BEARER + f',scope="{SCOPE}",error="insufficient_scope"', body=body))
    assert "does not exist" in raised.value.advice


def test_the_scope_is_corrected_at_most_twice() -> None:
    dance = Dance(ALICE)
    dance.login.learn(unauthorized(BEARER))
    answers = []
    for n in range(3):
        answers += [token(f"t{n}"), unauthorized(f'{BEARER},scope="repository:{n}:pull",error="insufficient_scope"')]
    with pytest.raises(RegistryForbidden):
        dance.run(*answers)


def test_no_credential_and_a_401_is_reachable_but_unauthenticated() -> None:
    for answers in (
        [unauthorized('Basic realm="r"')],
        [unauthorized()],
        [unauthorized(BEARER), Answer(status=401)],
        [unauthorized(BEARER), token(), unauthorized(BEARER)],
    ):
        with pytest.raises(RegistryUnauthorized, match=r"^reachable but unauthenticated"):
            Dance(None).run(*answers)


def test_a_wrong_password_is_authentication_failed_wherever_it_shows() -> None:
    for answers in (
        [unauthorized('Basic realm="r"'), unauthorized('Basic realm="r"')],
        [unauthorized(BEARER), Answer(status=401, body=b"bad password")],
        [unauthorized(), unauthorized()],
    ):
        with pytest.raises(RegistryUnauthorized, match=r"^authentication failed"):
            Dance(ALICE).run(*answers)
    with pytest.raises(RegistryUnauthorized, match=r"^authentication failed"):
        Dance(ALICE).run(unauthorized(BEARER), token(), unauthorized(BEARER), scope="")


def test_a_rotated_secret_is_read_again_after_a_refusal() -> None:
    dance = Dance(ALICE, after_renewal=BOB)
    steps = dance.run(unauthorized('Basic realm="r"'), unauthorized('Basic realm="r"'), OK)
    assert steps == [Send(), Send(authorization=header(ALICE)), Send(authorization=header(BOB))]
    dance = Dance(ALICE, after_renewal=BOB)
    steps = dance.run(unauthorized(BEARER), Answer(status=401), token(), OK)
    assert [step.authorization for step in steps] == [None, header(ALICE), header(BOB), "Bearer t1"]  # type: ignore[union-attr]


def test_tokens_of_an_old_credential_are_forgotten() -> None:
    dance = Dance(ALICE)
    dance.login.learn(unauthorized(BEARER))
    dance.run(token("of-alice"), OK)
    dance.credential = BOB
    assert dance.run(token("of-bob"), OK)[-1] == Send(authorization="Bearer of-bob")


def test_a_static_token_is_sent_as_it_is() -> None:
    dance = Dance(StaticToken(token=Secret("static")))
    assert dance.run(OK) == [Send(authorization="Bearer static")]
    with pytest.raises(RegistryUnauthorized, match=r"^authentication failed"):
        dance.run(unauthorized(BEARER))
    with pytest.raises(RegistryForbidden):
        dance.run(unauthorized(BEARER + ',error="insufficient_scope"'))
    dance.after_renewal = StaticToken(token=Secret("rotated"))
    assert dance.run(unauthorized(BEARER), OK)[-1] == Send(authorization="Bearer rotated")


def test_a_403_with_a_providers_words_for_expired_renews_the_login() -> None:
    words = Answer(status=403, body=b"denied: Your authorization token has expired.")
    dance = Dance(ALICE, after_renewal=BOB, expired=lambda answer: b"has expired" in answer.body)
    dance.login.learn(unauthorized('Basic realm="r"'))
    assert dance.run(words, OK)[-1] == Send(authorization=header(BOB))
    assert Dance(ALICE).run(words) == [Send()]


def test_an_untrusted_realm_gets_no_secret_and_basic_stays_at_home() -> None:
    evil = 'Bearer realm="https://evil.example/token",service="s"'
    dance = Dance(ALICE)
    assert dance.run(unauthorized(evil), OK) == [Send(), Send(authorization=header(ALICE))]
    with pytest.raises(RegistryUnauthorized, match="not in trusted_realms") as raised:
        Dance(ALICE).run(unauthorized(evil), unauthorized(evil))
    assert "trusted_realms" in raised.value.advice


def test_a_trusted_realm_gets_the_secret() -> None:
    dance = Dance(ALICE, trusted_realms=("auth.example",))
    steps = dance.run(unauthorized('Bearer realm="https://auth.example/token",service="s"'), token(), OK)
    assert isinstance(steps[1], Ask)
    assert steps[1].authorization == header(ALICE)


def test_a_malformed_realm_falls_back_to_basic_or_is_told() -> None:
    broken = 'Bearer realm="https://registry.example:5002:5002/token"'
    assert Dance(ALICE).run(unauthorized(broken), OK)[-1] == Send(authorization=header(ALICE))
    with pytest.raises(RegistryUnauthorized, match="malformed"):
        Dance(None).run(unauthorized(broken))


def test_bearer_is_preferred_when_both_are_offered() -> None:
    steps = Dance(ALICE).run(unauthorized('Basic realm="r", ' + BEARER), token(), OK)
    assert isinstance(steps[1], Ask)


def test_a_registry_that_takes_only_basic_for_its_catalogue_gets_it() -> None:
    """Harbor: Bearer on /v2/, Basic on _catalog."""
    dance = Dance(ALICE)
    dance.login.learn(unauthorized(BEARER))
    steps = dance.run(token(), unauthorized('Basic realm="harbor"'), OK, scope="registry:catalog:*")
    assert steps[-1] == Send(authorization=header(ALICE))
    assert isinstance(dance.run(token("t2"), OK)[0], Ask)


def test_an_empty_challenge_uses_what_was_learned_before() -> None:
    dance = Dance(ALICE)
    dance.login.learn(unauthorized(BEARER))
    with pytest.raises(RegistryForbidden):
        dance.run(token(), unauthorized(""))


def test_a_scope_that_the_issuer_does_not_know_is_left_out() -> None:
    """Quay answers 400 to registry:catalog:*."""
    dance = Dance(ALICE)
    dance.login.learn(unauthorized(BEARER))
    steps = dance.run(Answer(status=400), token("plain"), OK, scope="registry:catalog:*")
    assert isinstance(steps[1], Ask)
    assert "scope" not in steps[1].url
    assert dance.run(OK, scope="registry:catalog:*") == [Send(authorization="Bearer plain")]
    with pytest.raises(UnexpectedAnswer, match="400"):
        dance.run(Answer(status=400))


def test_troubles_of_the_token_service_are_not_bad_credentials() -> None:
    for status, kind in ((429, RegistryRateLimited), (503, RegistryError), (404, RegistryError)):
        dance = Dance(ALICE)
        dance.login.learn(unauthorized(BEARER))
        with pytest.raises(kind, match=f"/token: status {status}") as raised:
            dance.run(Answer(status=status, retry_after=9.0))
        assert not isinstance(raised.value, RegistryUnauthorized)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{}", b'{"token": ""}', b'{"token": "a b"}', b'{"token": 5}', b"[" * 50_000]
)
def test_an_answer_without_a_token_is_unexpected(body: bytes) -> None:
    dance = Dance(ALICE)
    dance.login.learn(unauthorized(BEARER))
    with pytest.raises(UnexpectedAnswer, match="token"):
        dance.run(Answer(status=200, body=body))


def test_a_waiting_flow_takes_the_token_that_another_has_fetched() -> None:
    dance = Dance(ALICE)
    dance.login.learn(unauthorized(BEARER))
    first, second = dance.login.flow(SCOPE), dance.login.flow(SCOPE)
    asks = []
    for flow in (first, second):
        next(flow)
        asks.append(flow.send(ALICE))
    assert isinstance(asks[1], Ask)
    assert not dance.login.superseded(asks[1])
    assert first.send(token("shared")) == Send(authorization="Bearer shared")
    assert dance.login.superseded(asks[1])
    assert second.send(None) == Send(authorization="Bearer shared")


def test_a_flow_that_waited_asks_itself_when_the_token_was_forgotten_meanwhile() -> None:
    dance = Dance(ALICE)
    dance.run(unauthorized(BEARER), token("t1"), OK)
    # sent None, but a change of the credential has emptied the cache
    dance.login._tokens.clear()
    first, second, sent = dance.run(None, token("t2"), OK)
    assert isinstance(first, Ask)
    assert isinstance(second, Ask)
    assert sent == Send(authorization="Bearer t2")


def test_a_refusal_of_an_old_token_leaves_the_new_one_alone() -> None:
    dance = Dance(ALICE)
    dance.run(unauthorized(BEARER), token("t1"), OK)
    slow = dance.login.flow(SCOPE)
    next(slow)
    assert slow.send(ALICE) == Send(authorization="Bearer t1")
    dance.run(unauthorized(BEARER), token("t2"), OK)  # another request has had it renewed
    assert slow.send(unauthorized(BEARER)) == Send(authorization="Bearer t2")
    with pytest.raises(StopIteration):
        slow.send(OK)


@pytest.mark.parametrize("shape", ["basic", "static"])
def test_a_refusal_of_an_old_credential_is_answered_with_the_one_that_came_meanwhile(shape: str) -> None:
    old, new = (
        (ALICE, BOB) if shape == "basic" else (StaticToken(token=Secret("first")), StaticToken(token=Secret("second")))
    )
    challenge = unauthorized('Basic realm="r"')
    dance = Dance(old, after_renewal=new)
    dance.login.learn(challenge)
    slow = dance.login.flow(SCOPE)
    next(slow)
    assert slow.send(old) == Send(authorization=old.header)
    assert dance.run(challenge, OK)[-1] == Send(authorization=new.header)
    step = slow.send(challenge)
    assert step == NeedCredential(renew=True, refused=old)
    assert slow.send(new) == Send(authorization=new.header)


def test_a_credential_is_renewed_once_for_one_request() -> None:
    dance = Dance(ALICE, after_renewal=BOB)
    dance.login.learn(unauthorized('Basic realm="r"'))
    with pytest.raises(RegistryUnauthorized):
        dance.run(unauthorized(), unauthorized())
    assert dance.renewals == 1


def test_secrets_do_not_show() -> None:
    dance = Dance(ALICE)
    steps = dance.run(unauthorized(BEARER), token("very-secret-token"), OK)
    shown = repr(steps) + repr(ALICE) + repr(StaticToken(token=Secret("abc-static")))
    for secret in ("very-secret-token", "pass:word", header(ALICE), "abc-static"):
        assert secret not in shown


def test_a_driver_that_sends_nonsense_is_told() -> None:
    flow = Login(ORIGIN).flow()
    next(flow)
    flow.send(None)
    with pytest.raises(TypeError):
        flow.send(ALICE)


def test_a_bearer_token_where_basic_is_wanted_is_told_so() -> None:
    dance = Dance(StaticToken(token=Secret("t")))
    with pytest.raises(RegistryUnauthorized) as refused:
        dance.run(unauthorized('Basic realm="x"'), scope="")
    assert refused.value.advice.startswith("the registry asks for user name and password, not for a bearer token")
    dance = Dance(StaticToken(token=Secret("t")))
    with pytest.raises(RegistryUnauthorized) as refused:
        dance.run(unauthorized(BEARER), scope="")
    assert refused.value.advice == "check the token, and whether it has expired"
