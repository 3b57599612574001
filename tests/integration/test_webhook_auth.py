"""Who may call a webhook: the published vectors of vendors, every way to get a signature wrong, and one 401 for all."""

from __future__ import annotations

import base64
import hmac
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from gateways import (
    KEY,
    NAMESPACE,
    STANDARD_KEY,
    ClockAt,
    Secrets,
    at,
    gateway,
    github,
    hmac_of,
    signature,
    slack,
    standard,
    stripe,
    trigger,
)

if TYPE_CHECKING:
    import httpx
    from gateways import Gateway

    from stepwell.domain.secrets import SecretError

SLACK_KEY = b"8f742231b10e8888abcd99yyyzzz85a5"
SLACK_BODY = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar"
    b"&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com"
    b"%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14"
    b"d10d2c447fce8b6703c"
)
FORM = "application/x-www-form-urlencoded"
BODY = b'{"id": "evt_1"}'
EVERYBODY = Secrets(
    hook={"secret": KEY, "next": b"the next key", "standard": STANDARD_KEY, "slack": SLACK_KEY},
    user={"username": b"ada", "password": b"pass:word"},
    token={"token": b"a token"},
)


# -- published vectors -----------------------------------------------------------------------------------------------------

VECTORS: dict[str, tuple[dict[str, Any], float, bytes, dict[str, str]]] = {
    # https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
    "GitHub": (
        hmac_of(preset="GitHub"),
        0,
        b"Hello, World!",
        {
            "content-type": "text/plain",
            "x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        },
    ),
    # https://github.com/standard-webhooks/standard-webhooks, the libraries' own test
    "StandardWebhooks": (
        hmac_of("standard", preset="StandardWebhooks"),
        1614265330,
        b'{"test": 2432232314}',
        {
            "content-type": "application/json",
            "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "webhook-timestamp": "1614265330",
            "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        },
    ),
    # https://docs.slack.dev/authentication/verifying-requests-from-slack
    "Slack": (
        hmac_of("slack", preset="Slack"),
        1531420618,
        SLACK_BODY,
        {
            "content-type": FORM,
            "x-slack-request-timestamp": "1531420618",
            "x-slack-signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
        },
    ),
}


async def test_published_vectors(database: str, redis_url: str) -> None:
    clock = ClockAt(0)
    async with gateway(database, redis_url, EVERYBODY, at(clock)) as running:
        for vendor, (auth, sent, body, headers) in VECTORS.items():
            await running.apply(trigger(auth, input={"n": "{{ 1 }}"}), name=vendor.lower())
            for late in (0, 299, -299, 301, -301):
                clock.seconds = sent + late
                status = 401 if sent and abs(late) > 300 else 202 if late == 0 or vendor == "GitHub" else 200
                answer = await running.post(body, f"{vendor.lower()}/hook", headers=headers)
                assert answer.status_code == status, f"{vendor}, {late} s late: {answer.text}"
                wrong = await running.post(body + b" ", f"{vendor.lower()}/hook", headers=headers)
                assert wrong.status_code == 401


async def test_stripe_as_documented(database: str, redis_url: str) -> None:
    """https://docs.stripe.com/webhooks/signature: any v1 counts, other versions do not."""
    async with gateway(database, redis_url, EVERYBODY) as running:
        await running.apply(trigger(hmac_of(preset="Stripe"), input={}))
        good = stripe(BODY)["stripe-signature"]
        sent, _, signed = good.partition(",")
        for header, status in (
            (good, 202),
            (f"{sent},v1={'0' * 64},{signed},v0=abc", 200),
            (f"{sent},v0={signed[3:]}", 401),
            (stripe(BODY, sent=time.time() - 301)["stripe-signature"], 401),
            (stripe(BODY, sent=time.time() + 310)["stripe-signature"], 401),
        ):
            assert (await running.post(BODY, headers={"stripe-signature": header})).status_code == status, header


# -- one's own scheme, and rotation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["SHA256", "SHA512"])
@pytest.mark.parametrize("encoding", ["Hex", "Base64"])
async def test_a_scheme_of_ones_own(database: str, redis_url: str, algorithm: str, encoding: str) -> None:
    async with gateway(database, redis_url, EVERYBODY) as running:
        scheme = {"header": "X-Sign", "algorithm": algorithm, "encoding": encoding, "prefix": "v1="}
        dated = {**scheme, "timestampHeader": "X-Sent", "tolerance": "10s"}
        await running.apply(trigger(hmac_of(**scheme), name="plain"), trigger(hmac_of(**dated), name="dated"))

        def headers(body: bytes, **more: str) -> dict[str, str]:
            signed = bytes.fromhex(signature(body, KEY, algorithm.lower()))
            text = signed.hex() if encoding == "Hex" else base64.b64encode(signed).decode()
            return {"x-sign": f"v1={text}", **more}

        now = int(time.time())
        assert (await running.post(BODY, "welcome/plain", headers=headers(BODY))).status_code == 202
        signed = headers(f"{now}.".encode() + BODY)
        assert (await running.post(BODY, "welcome/dated", headers=signed | {"x-sent": str(now)})).status_code == 202
        for sent in (str(now + 1), f"{now}x", f"{now}.0", f"-{now}", "", str(now - 60)):
            late = headers(f"{sent}.".encode() + BODY) if sent == str(now - 60) else signed
            assert (await running.post(BODY, "welcome/dated", headers=late | {"x-sent": sent})).status_code == 401, sent
        assert (await running.post(BODY, "welcome/dated", headers=headers(BODY))).status_code == 401


async def test_secrets_rotate(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url, EVERYBODY) as running:
        both = {
            "hmac": {"preset": "GitHub", "secretRefs": [{"name": "hook", "key": key} for key in ("secret", "next")]}
        }
        await running.apply(trigger(both))
        for key, status in ((KEY, 202), (b"the next key", 202), (b"another", 401)):
            assert (await running.post(BODY, headers=github(BODY, key))).status_code == status


async def test_a_key_that_is_missing_leaves_the_others(
    database: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While keys are changed one may not be there yet, or not any more: who signs with another is let in."""
    names = [("hook", "absent"), ("hook", "secret"), ("gone", "secret"), ("hook", "next")]
    refs = [{"name": name, "key": key} for name, key in names]
    met: list[tuple[str, str | None]] = []

    class Notes:
        def met(self, _: str, __: str, name: str, error: SecretError | None) -> None:
            met.append((name, error and error.reason))

    async with gateway(
        database, redis_url, EVERYBODY, lambda context: replace(context, notes=Notes())  # type: ignore[arg-type]
    ) as running:  # fmt: skip
        await running.apply(trigger({"hmac": {"preset": "GitHub", "secretRefs": refs}}))
        for key, status in ((KEY, 202), (b"the next key", 202), (b"another", 401)):
            assert (await running.post(BODY, headers=github(BODY, key))).status_code == status
        assert met == [("hook", "SecretKeyMissing"), ("gone", "SecretMissing")] * 3, "the status tells of them"
        await running.apply(trigger({"hmac": {"preset": "GitHub", "secretRefs": [refs[0], refs[2]]}}))
        assert (await running.post(BODY, headers=github(BODY, KEY))).status_code == 401
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert [text.partition(": ")[0] for text in told] == [
        "a webhook goes without one of its keys"
    ] * 2 + ["a webhook answers 401 because of its Secret"]  # fmt: skip


async def test_standard_keys_rotate_and_lose_their_line_break(database: str, redis_url: str) -> None:
    secrets = Secrets(hook={"old": b"whsec_!", "standard": STANDARD_KEY + b"\r\n"})
    refs = [{"name": "hook", "key": key} for key in ("old", "standard")]
    async with gateway(database, redis_url, secrets) as running:
        await running.apply(trigger({"hmac": {"preset": "StandardWebhooks", "secretRefs": refs}}))
        assert (await running.post(BODY, headers=standard(BODY))).status_code == 202


@pytest.mark.parametrize("preset", ["GitHub", "Stripe", "Slack", "StandardWebhooks"])
async def test_a_vendors_retry_starts_nothing(database: str, redis_url: str, preset: str) -> None:
    key = "standard" if preset == "StandardWebhooks" else "secret"
    body = b'{"id": "evt_1", "event_id": "Ev1"}'
    other = b'{"id": "evt_2", "event_id": "Ev2"}'
    async with gateway(database, redis_url, EVERYBODY) as running:
        await running.apply(trigger(hmac_of(key, preset=preset)))
        senders = {
            "GitHub": lambda content, name: github(content, **{"x-github-delivery": name}),
            "Stripe": lambda content, _: stripe(content),
            "Slack": lambda content, _: slack(content),
            "StandardWebhooks": standard,
        }
        first = await running.post(body, headers=senders[preset](body, "delivery-1"))
        again = await running.post(body, headers=senders[preset](body, "delivery-1"))
        assert (first.status_code, again.status_code) == (202, 200)
        assert first.json()["runId"] == again.json()["runId"]
        assert (await running.post(other, headers=senders[preset](other, "delivery-2"))).status_code == 202


async def test_a_long_name_of_a_delivery_is_a_key_too(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url, EVERYBODY) as running:
        await running.apply(trigger(hmac_of(preset="GitHub")))
        names = ("a" * 257, "a" * 257, "a" * 256 + "b", "a" * 256)
        answers = [await running.post(BODY, headers=github(BODY, **{"x-github-delivery": name})) for name in names]
        assert [answer.status_code for answer in answers] == [202, 200, 202, 202]


async def test_slack_names_commands_otherwise_than_events(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url, EVERYBODY) as running:
        await running.apply(trigger(hmac_of(preset="Slack")))
        bodies = (b'{"event_id": "Ev1"}', b'{"trigger_id": "13345224609.738474920.8088"}', b'{"text": "no name"}')
        for body, again in zip(bodies, (200, 200, 202), strict=True):
            answers = [await running.post(body, headers=slack(body)) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [202, again], body


async def test_handshakes(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url, EVERYBODY) as running:
        await running.apply(
            trigger(hmac_of(preset="GitHub"), name="github"), trigger(hmac_of(preset="Slack"), name="slack")
        )
        ping = github(BODY) | {"x-github-event": "ping"}
        answer = await running.post(BODY, "welcome/github", headers=ping)
        assert (answer.status_code, answer.json()) == (200, {"status": "Pong"})
        assert (await running.post(BODY + b" ", "welcome/github", headers=ping)).status_code == 401
        body = b'{"type": "url_verification", "challenge": "3eZbrw1a"}'
        answer = await running.post(body, "welcome/slack", headers=slack(body))
        assert (answer.status_code, answer.json()) == (200, {"challenge": "3eZbrw1a"})
        assert (await running.post(body, "welcome/slack")).status_code == 401
        assert running.count() == (0, 0, 0)


# -- bearer, basic, public -------------------------------------------------------------------------------------------------


async def test_bearer_and_basic(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url, EVERYBODY) as running:
        await running.apply(
            trigger({"bearer": {"secretRef": {"name": "token", "key": "token"}}}, name="bearer"),
            trigger({"basic": {"secretName": "user"}}, name="basic"),
        )
        pair = base64.b64encode(b"ada:pass:word").decode()
        for path, header, status in (
            ("bearer", "Bearer a token", 202),
            ("bearer", "bEARER a token", 202),
            ("bearer", "Bearer a tokem", 401),
            ("bearer", "Bearer a", 401),
            ("bearer", "Bearer", 401),
            ("bearer", "a token", 401),
            ("bearer", f"Basic {pair}", 401),
            ("basic", f"Basic {pair}", 202),
            ("basic", f"Basic {pair}=", 401),
            ("basic", "Basic !!!", 401),
            ("basic", "Basic " + base64.b64encode(b"ada:password").decode(), 401),
            ("basic", "Basic " + base64.b64encode(b"ada").decode(), 401),
            ("basic", "Bearer a token", 401),
        ):
            answer = await running.post(BODY, f"welcome/{path}", headers={"authorization": header})
            assert answer.status_code == status, header
        twice = [("authorization", "Bearer a token"), ("authorization", "Bearer a token")]
        answer = await running.client.post(f"/hooks/{NAMESPACE}/welcome/bearer", content=BODY, headers=twice)
        assert answer.status_code == 401


async def test_credentials_are_no_variables(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url, EVERYBODY) as running:
        own = hmac_of(header="X-Check")
        await running.apply(trigger(own, input={"all": "{{ headers }}"}))
        confidential = {
            "authorization": "a",
            "cookie": "b",
            "x-hub-signature-256": "c",
            "x-gitlab-token": "d",
            "x-api-key": "e",
        }
        headers = {"x-check": signature(BODY), "X-Plain": "seen", **confidential}
        assert (await running.post(BODY, headers=headers)).status_code == 202
        [stored] = running.inputs()
        assert stored["all"]["x-plain"] == "seen"
        assert not {"x-check", *confidential} & set(stored["all"])


# -- one 401 -----------------------------------------------------------------------------------------------------------------


def _wrong() -> dict[str, list[tuple[str, bytes, dict[str, str]]]]:
    """By hook: what is wrong, the body, and the headers."""
    hexed, now = signature(BODY), int(time.time())
    sent = str(now)
    hub = "x-hub-signature-256"
    s256 = slack(BODY)["x-slack-signature"]
    st = stripe(BODY)["stripe-signature"]
    signed = standard(BODY)["webhook-signature"]
    names = {"webhook-id": "msg_1", "webhook-timestamp": sent}

    def on(header: str, *values: str, **more: str) -> list[tuple[str, bytes, dict[str, str]]]:
        return [(value, BODY, {header: value, **more}) for value in values]

    return {
        "github": [
            ("no header", BODY, {}),
            ("another body", BODY + b"\n", {hub: f"sha256={hexed}"}),
            ("an empty body", b"", {hub: f"sha256={hexed}"}),
            ("the old header", BODY, {"x-hub-signature": f"sha1={signature(BODY, KEY, 'sha1')}"}),
            *on(hub, "", "sha256=", hexed, f"sha256={hexed[:-1]}", f"sha256={hexed}0", f"sha256={hexed[:-2]}zz"),
            *on(hub, f"sha256= {hexed}", f"sha512={hexed}", f"SHA256={hexed}", f"sha256={'0' * 64}", f"sha256={hexed},"),
            *on(hub, f"sha256={hexed},sha256={hexed}", "sha256=" + ("\u0660" * 32).encode().decode("latin-1"), "sha256=\xff"),
            *on(hub, f"sha256={signature(BODY, b'another')}", f"sha256={signature(b'')}", "null", "sha256=" + "f" * 9000),
        ],
        "stripe": [
            ("no header", BODY, {}),
            *on("stripe-signature", "", ",", "=", "t=,v1=", f"t={sent}", st.partition(",")[2], f"t={sent},{st}"),
            *on("stripe-signature", st.replace("v1=", "v2="), st.replace("t=", "t=+"), st.replace("t=", "t= "), f"{st}0"),
            *on("stripe-signature", st.replace(sent, f"{sent}.0"), st.replace(sent, str(now - 1)), f"t={sent}" + ",v1=00" * 99),
            *on("stripe-signature", st + f",v1={'0' * 64}" * 16, st.replace(sent, "9" * 30)),
        ],
        "slack": [
            ("no time", BODY, {"x-slack-signature": s256}),
            ("no signature", BODY, {"x-slack-request-timestamp": sent}),
            *on("x-slack-signature", s256[3:], s256.replace("v0", "v1"), s256[:-1], "v0=", **{"x-slack-request-timestamp": sent}),
            *on("x-slack-request-timestamp", "", "now", f"{sent}, {sent}", str(now - 400), "1e9", **{"x-slack-signature": s256}),
        ],
        "standard": [
            ("no id", BODY, standard(BODY) | {"webhook-id": ""}),
            ("another id", BODY, standard(BODY) | {"webhook-id": "msg_2"}),
            ("too late", BODY, standard(BODY, sent=now - 400)),
            *on("webhook-signature", "", "v1,", "v1", signed[3:], signed.replace("v1", "v1a"), signed + "=", "v1,*", **names),
            *on("webhook-signature", signed.replace(",", " "), "v1,YQ==", f"v2,{signed[3:]}", signed[:-2], **names),
        ],
    }  # fmt: skip


def _shown(answer: httpx.Response) -> tuple[int, bytes, list[tuple[str, str]]]:
    """All that a sender sees, but for the time of day."""
    return answer.status_code, answer.content, sorted(pair for pair in answer.headers.items() if pair[0] != "date")


async def _deny(running: Gateway, path: str, body: bytes, headers: dict[str, str], **more: Any) -> Any:
    raw = {name: value.encode("latin-1") for name, value in headers.items()} | {"x-request-id": b"one"}
    return _shown(await running.post(body, path, headers=raw, **more))


async def test_whatever_is_wrong_the_answer_is_the_same(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url, EVERYBODY) as running:
        await running.apply(
            trigger(hmac_of(preset="GitHub"), name="github"),
            trigger(hmac_of(preset="Stripe"), name="stripe"),
            trigger(hmac_of(preset="Slack"), name="slack"),
            trigger(hmac_of("standard", preset="StandardWebhooks"), name="standard"),
            trigger({"bearer": {"secretRef": {"name": "token", "key": "token"}}}, name="bearer"),
            trigger(name="public"),
            {"name": "clock", "cron": {"schedule": "0 3 * * *"}},
        )
        unknown = await _deny(running, "absent/hook", BODY, {})
        assert unknown[0] == 401
        for path in (
            "welcome/absent",
            "welcome/clock",
            "welcome/%00",
            "UPPER/hook",
            "welcome/bearer",
        ):
            assert await _deny(running, path, BODY, {}) == unknown, path
        for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"):
            for path in ("welcome/github", "welcome/public", "absent/hook"):
                assert await _deny(running, path, BODY, github(BODY), method=method) == unknown, f"{method} {path}"
        head = await _deny(running, "welcome/public", b"", {}, method="HEAD")
        assert (head[0], head[1], head[2]) == (401, b"", unknown[2])
        count = 0
        for hook, cases in _wrong().items():
            for what, body, headers in cases:
                assert await _deny(running, f"welcome/{hook}", body, headers) == unknown, f"{hook}: {what!r}"
                count += 1
        assert count >= 40
        assert running.count() == (0, 0, 0), "a failed check stores nothing"
        assert (await running.post(BODY, "welcome/github", headers=github(BODY))).status_code == 202


async def test_every_comparison_is_made_and_takes_the_same_time(
    database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All keys against all signatures, whichever fits; credentials are compared in constant time as well."""
    compared: list[bytes] = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(b) or compare(a, b))
    refs = [{"name": "hook", "key": key} for key in ("secret", "next", "slack")]
    async with gateway(database, redis_url, EVERYBODY) as running:
        await running.apply(
            trigger({"hmac": {"preset": "Stripe", "secretRefs": refs}}, input={}),
            trigger({"bearer": {"secretRef": {"name": "token", "key": "token"}}}, name="bearer"),
            trigger({"basic": {"secretName": "user"}}, name="basic"),
        )
        good = stripe(BODY)["stripe-signature"]
        for extra in ("", f",v1={'0' * 64}"):
            compared.clear()
            assert (await running.post(BODY, headers={"stripe-signature": good + extra})).status_code in {200, 202}
            assert len(compared) == 3 * (2 if extra else 1)
        pair = base64.b64encode(b"ada:pass:word").decode()
        for path, header, given in (
            ("bearer", "Bearer a token", b"a token"),
            ("basic", f"Basic {pair}", b"ada:pass:word"),
        ):
            compared.clear()
            assert (await running.post(BODY, f"welcome/{path}", headers={"authorization": header})).status_code == 202
            assert compared == [given]


async def test_an_unknown_hook_is_the_same_work(database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each 401 computes a signature over the whole body; the names of neither are asked for twice within a second."""
    from stepwell_gateway.hooks import signatures

    hashed: list[int] = []
    digest = signatures.hmac.digest
    monkeypatch.setattr(
        signatures.hmac, "digest", lambda key, body, how: hashed.append(len(body)) or digest(key, body, how)
    )
    async with gateway(database, redis_url, EVERYBODY) as running:
        await running.apply(
            trigger(hmac_of(preset="GitHub")),
            trigger({"bearer": {"secretRef": {"name": "token", "key": "token"}}}, name="bearer"),
            trigger(hmac_of("absent", preset="GitHub"), name="keyless"),
        )
        body = b"x" * 100_000
        for path in ("welcome/hook", "welcome/bearer", "welcome/keyless", "absent/hook", "welcome/absent", "-/-"):
            for method in ("POST", "GET"):
                hashed.clear()
                assert (await running.post(body, path, method=method)).status_code == 401
                assert hashed == [len(body)], path
        asked = running.context.intake.active
        before = len(asked._absent), len(asked._known)
        await running.post(body, "absent/hook")
        assert (len(asked._absent), len(asked._known)) == before == (1, 1)
