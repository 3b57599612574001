"""An API server that is slow, away, wrong or indiscreet: what is asked, believed and said then."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from base64 import b64encode
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from http_servers import Received, json_response, reset, response, serve, unused_port
from kube_clients import calls_to
from prometheus_client import CollectorRegistry, generate_latest
from waiting import eventually

from stepwell.adapters.http.guard import AddressPolicy
from stepwell.adapters.kube.access import KubeAccess
from stepwell.adapters.kube.allowances import KubeAllowances
from stepwell.adapters.kube.calls import MAX_BYTES, KubeCalls
from stepwell.adapters.kube.secrets import KubeSecrets
from stepwell.domain.access import Identity, UnauthenticatedError
from stepwell.domain.errors import UnavailableError
from stepwell.domain.secrets import Secret, SecretError
from stepwell.metrics.kube import KubeMetrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

CANARY = "Kp7wTq2zXv9mRb4Jd6sYh3nLc8"
OURS = "Zt5gBx1qWm4kHf9rDv3cPj7u"  # the process's own token
THEIRS = "Qw8eRt5yUi3oLk2jHg9fDs4a"  # somebody's


def secret(value: str = CANARY, name: str = "api") -> bytes:
    about = {"name": name, "namespace": "growth", "labels": {"stepwell.dev/use": "true"}}
    data = {"token": b64encode(value.encode()).decode()}
    return json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": about, "data": data}).encode()


def status(code: int) -> bytes:
    """As an indiscreet server or proxy might answer."""
    body = json.dumps({"kind": "Status", "code": code, "message": f"{CANARY} {OURS} {THEIRS}"})
    return json_response(body, f"{code} {CANARY}")


class Fake:
    """Answers with ``answer`` after ``gate`` is open; None: hang up."""

    def __init__(self, answer: bytes | Callable[[Received], bytes] | None) -> None:
        self.answer = answer
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[Received] = []

    async def __call__(self, request: Received, writer: asyncio.StreamWriter) -> None:
        self.asked.append(request)
        await self.gate.wait()
        if self.answer is None:
            reset(writer)
            return
        writer.write(self.answer(request) if callable(self.answer) else self.answer)


@asynccontextmanager
async def faked(fake: Fake, **options: Any) -> AsyncIterator[KubeCalls]:
    async with serve(fake) as server, calls_to(server.url, OURS, **options) as calls:
        yield calls


async def reason(secrets: KubeSecrets, name: str = "api") -> str:
    with pytest.raises(SecretError) as caught:
        await secrets.get("growth", name)
    return caught.value.reason


WRONG = {
    "500": status(500),
    "503": status(503),
    "429": status(429),
    "401": status(401),
    "302": response(b"", f"Location: http://127.0.0.1:1/{CANARY}", status="302 Found"),
    "no-json": json_response(f"<html>{CANARY}"),
    "no-object": json_response(f'["{CANARY}"]'),
    "half": response(secret()[:-9], "Content-Type: application/json"),
    "another": json_response(secret(name="other")),
    "a-list": json_response(json.dumps({"kind": "SecretList", "metadata": {"name": "api"}, "items": [CANARY]})),
    "no-http": f"HTTP/1.1 {CANARY}\r\n\r\n".encode(),
    "bad-header": f"HTTP/1.1 200 OK\r\nX {CANARY}: 1\r\n\r\n".encode(),
    "bad-encoding": response(CANARY.encode(), "Content-Encoding: gzip"),
    "endless": response(b"x" * (MAX_BYTES + 1)),
    "hung-up": None,
}


@pytest.mark.parametrize("how", WRONG)
async def test_an_answer_of_no_use_may_pass(how: str) -> None:
    async with faked(Fake(WRONG[how])) as calls:
        secrets = KubeSecrets(calls, fresh_refusal=0.0)
        with pytest.raises(SecretError) as caught:
            await secrets.get("growth", "api")
        assert (caught.value.reason, caught.value.passing) == ("SecretsUnavailable", True)
        access = KubeAccess(calls, fresh_failure=0.0)
        with pytest.raises(UnavailableError):
            await access.identify(THEIRS)
        with pytest.raises(UnavailableError):
            await access.allowed(Identity("alice"), "get", "runs", "growth", "x")
        if how not in {"another", "a-list"}:  # JSON objects, without an annotation
            with pytest.raises(UnavailableError):
                await KubeAllowances(calls, AddressPolicy()).policy("growth")


async def test_what_is_not_base64_is_invalid_and_not_repeated() -> None:
    document = json.loads(secret())
    document["data"]["token"] = f"{CANARY}!"
    async with faked(Fake(json_response(json.dumps(document)))) as calls:
        with pytest.raises(SecretError) as caught:
            await KubeSecrets(calls).get("growth", "api")
    assert caught.value.reason == "SecretInvalid"
    assert CANARY not in str(caught.value)


async def test_what_has_no_data_is_a_secret() -> None:
    document = {"kind": "Secret", "metadata": {"name": "api", "labels": None, "annotations": 1}, "data": None}
    async with faked(Fake(json_response(json.dumps(document)))) as calls:
        assert await KubeSecrets(calls).get("growth", "api") == Secret("growth", "api", {})


async def test_a_silent_server_costs_no_more_than_the_deadline() -> None:
    fake = Fake(json_response(secret()))
    fake.gate.clear()
    async with faked(fake, seconds=0.1) as calls:
        began = asyncio.get_running_loop().time()
        assert await reason(KubeSecrets(calls)) == "SecretsUnavailable"
        assert 0.1 <= asyncio.get_running_loop().time() - began < 5


async def test_nobody_listens() -> None:
    async with calls_to(f"http://127.0.0.1:{unused_port()}") as calls:
        assert await reason(KubeSecrets(calls)) == "SecretsUnavailable"


async def test_a_connection_that_was_cut_meanwhile_is_opened_again() -> None:
    """An API server or a balancer closes idle connections; reviews are POSTs, which the client itself does not repeat."""
    fake = Fake(None)

    def second(request: Received) -> bytes:
        return json_response(json.dumps({"status": {"authenticated": True, "user": {"username": "alice"}}}), "201 Created")  # fmt: skip

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        fake.answer = second if fake.asked else None
        await fake(request, writer)

    async with serve(answer) as server, calls_to(server.url) as calls:
        assert (await KubeAccess(calls).identify(THEIRS)).user == "alice"
    assert len(fake.asked) == 2


# Caches


async def test_concurrent_gets_share_a_call_and_later_ones_its_answer() -> None:
    fake = Fake(json_response(secret()))
    fake.gate.clear()
    async with faked(fake) as calls:
        secrets = KubeSecrets(calls)
        asking = [asyncio.ensure_future(secrets.get("growth", "api")) for _ in range(20)]
        await eventually(lambda: fake.asked)
        for task in asking[:10]:  # also the one that asked first
            task.cancel()
        fake.gate.set()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(item, asyncio.CancelledError) for item in found[:10])
        assert all(isinstance(item, Secret) for item in found[10:])
        await secrets.get("growth", "api")
    assert len(fake.asked) == 1


async def test_the_last_one_to_give_up_ends_the_call() -> None:
    fake = Fake(json_response(secret()))
    fake.gate.clear()
    async with faked(fake) as calls:
        secrets = KubeSecrets(calls)
        asking = asyncio.ensure_future(secrets.get("growth", "api"))
        await eventually(lambda: fake.asked)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert not secrets._answers._flights
        fake.gate.set()
        assert (await secrets.get("growth", "api")).value("token").reveal() == CANARY.encode()


async def test_each_answer_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(status(404))
    now = 0.0
    async with faked(fake) as calls:
        secrets = KubeSecrets(calls)
        secrets._answers._monotonic = lambda: now
        for at, answer, wanted in (
            (0.0, status(404), "SecretMissing"),
            (0.9, json_response(secret()), "SecretMissing"),  # a refusal is believed for a second
            (1.1, json_response(secret()), None),
            (4.0, status(403), None),  # a Secret for three
            (4.2, status(403), "SecretForbidden"),
            (5.3, status(500), "SecretsUnavailable"),
        ):
            now, fake.answer = at, answer
            if wanted is None:
                await secrets.get("growth", "api")
            else:
                assert await reason(secrets) == wanted
    assert len(fake.asked) == 4


async def test_caches_are_bounded_and_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell.adapters.kube.answers.SWEEP", 0.01)
    large = "x" * (5 << 20)
    fake = Fake(lambda request: json_response(secret(large if "large" in request.target else "v", request.target.rpartition("/")[2])))  # fmt: skip
    async with faked(fake) as calls:
        secrets = KubeSecrets(calls, fresh=30.0)
        for at in range(5):
            await secrets.get("growth", f"large-{at}")
        answers = secrets._answers
        assert len(answers) == 3  # of five MiB each, within sixteen
        answers._monotonic = lambda: 1e12
        await eventually(lambda: not len(answers))
        assert (answers._weight, answers._sweeping) == (0, False)


async def test_a_flood_of_tokens_is_turned_away_and_leaves_connections_to_others() -> None:
    fake = Fake(lambda request: json_response(secret()) if "secrets" in request.target else status(500))
    fake.gate.clear()
    async with faked(fake) as calls:
        access = KubeAccess(calls)
        asking = [asyncio.ensure_future(access.identify(f"token-{at}")) for at in range(400)]
        await eventually(lambda: sum(task.done() for task in asking) == 400 - 256 - 16)
        reading = asyncio.ensure_future(KubeSecrets(calls).get("growth", "api"))
        await eventually(lambda: any("secrets" in request.target for request in fake.asked))
        assert len(fake.asked) == 17
        fake.gate.set()
        assert isinstance(await reading, Secret)
        found = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(item, UnavailableError) for item in found)


def review(request: Received) -> bytes:
    spec = json.loads(request.body)["spec"]
    if "token" in spec:
        user = {"username": "alice", "groups": ["people"]}
        found: dict[str, Any] = {"authenticated": spec["token"] == THEIRS, "user": user}
    else:
        found = {"allowed": spec["resourceAttributes"]["verb"] == "get"}
    return json_response(json.dumps({"status": found}), "201 Created")


async def test_reviews_are_believed_for_their_time() -> None:
    fake = Fake(review)
    now = 0.0
    async with faked(fake) as calls:
        access = KubeAccess(calls)
        access._identities._monotonic = access._verdicts._monotonic = lambda: now
        for at, calls_made in ((0.0, 4), (1.9, 4), (2.1, 6), (9.9, 8), (10.1, 10)):  # noes for 2 s, yeses for 10
            now = at
            alice = await access.identify(THEIRS)
            with pytest.raises(UnauthenticatedError):
                await access.identify("unknown")
            assert await access.allowed(alice, "get", "runs", "growth", "x")
            assert not await access.allowed(alice, "create", "runs", "growth", "x")
            assert len(fake.asked) == calls_made, at
        fake.answer, now = status(500), 30.0
        for at in (30.0, 31.9):
            now = at
            with pytest.raises(UnavailableError):
                await access.identify(THEIRS)
    assert len(fake.asked) == 11


@pytest.mark.parametrize(
    "found",
    [
        {}, {"authenticated": False, "user": {"username": "alice"}}, {"authenticated": "yes", "user": {"username": "a"}},
        {"authenticated": True}, {"authenticated": True, "user": {}}, {"authenticated": True, "user": {"username": ""}},
        {"authenticated": True, "user": {"username": "alice"}}, {"authenticated": True, "user": {"username": "alice"}, "audiences": ["other"]},
    ],
)  # fmt: skip
async def test_whoever_is_not_clearly_known_is_nobody(found: dict[str, Any]) -> None:
    async with faked(Fake(json_response(json.dumps({"status": found}), "201 Created"))) as calls:
        with pytest.raises(UnauthenticatedError):
            await KubeAccess(calls, ("stepwell",)).identify(THEIRS)


@pytest.mark.parametrize("token", ["", " ", "a b", "a\nb", "ü", "x" * 16_385, "a\x00"])
async def test_what_is_no_token_is_not_asked_about(token: str) -> None:
    fake = Fake(review)
    async with faked(fake) as calls:
        with pytest.raises(UnauthenticatedError):
            await KubeAccess(calls).identify(token)
    assert not fake.asked


async def test_a_right_of_one_group_is_not_believed_of_the_next_caller_of_that_name() -> None:
    """Two clusters' tokens, or one whose groups were changed: the answer belongs to the whole identity."""

    def by_identity(request: Received) -> bytes:
        spec = json.loads(request.body)["spec"]
        allowed = spec.get("groups") == ["people"] and spec.get("uid") == "1" and "extra" not in spec
        return json_response(json.dumps({"status": {"allowed": allowed}}), "201 Created")

    known = Identity("x", "1", ("people",))
    others = [
        Identity("x", "1", ("others",)), Identity("x", "1"), Identity("x", "2", ("people",)),
        Identity("x", "1", ("people",), (("scopes", ("a",)),)),
    ]  # fmt: skip
    async with faked(fake := Fake(by_identity)) as calls:
        access = KubeAccess(calls)
        found = [await access.allowed(who, "get", "runs", "growth", "x") for who in (known, *others, known, *others)]
    assert found == [True, False, False, False, False] * 2
    assert len(fake.asked) == 5


@pytest.mark.parametrize("found", [{}, {"allowed": "true"}, {"allowed": True, "denied": True}, {"allowed": 1}])
async def test_what_is_not_clearly_allowed_is_not(found: dict[str, Any]) -> None:
    async with faked(Fake(json_response(json.dumps({"status": found}), "201 Created"))) as calls:
        assert not await KubeAccess(calls).allowed(Identity("alice"), "get", "runs", "growth", "x")


async def test_known_allowances_outlive_the_server_for_a_while() -> None:
    namespace = {"kind": "Namespace", "metadata": {"annotations": {"stepwell.dev/http-allow": "10.0.0.0/8"}}}
    fake = Fake(json_response(json.dumps(namespace)))
    now = 0.0
    async with faked(fake) as calls:
        allowances = KubeAllowances(calls, AddressPolicy(), monotonic=lambda: now)
        known = await allowances.policy("growth")
        assert known.networks
        fake.answer, now = status(503), 11.0
        assert await allowances.policy("growth") == known
        with pytest.raises(UnavailableError):
            await allowances.policy("never-seen")
        now = 1000.0
        with pytest.raises(UnavailableError):
            await allowances.policy("growth")


async def test_calls_are_counted_by_kind_and_answer() -> None:
    registry = CollectorRegistry()
    fake = Fake(status(404))
    async with faked(fake, observe=KubeMetrics(registry).called) as calls:
        await reason(KubeSecrets(calls))
        await KubeAllowances(calls, AddressPolicy()).policy("growth")
        fake.answer = None
        await reason(KubeSecrets(calls))
    shown = generate_latest(registry).decode()
    for line in ('{code="404",kind="Secret"} 1.0', '{code="404",kind="Namespace"} 1.0', '{code="error",kind="Secret"} 1.0'):  # fmt: skip
        assert f"stepwell_kube_requests_total{line}" in shown


# Nothing of it is left


async def test_no_secret_and_no_token_is_logged_raised_or_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    kept: list[object] = []
    for how, answer in {**WRONG, "right": json_response(secret()), "403": status(403), "404": status(404)}.items():
        async with faked(Fake(answer)) as calls:
            secrets, access, allowances = KubeSecrets(calls), KubeAccess(calls), KubeAllowances(calls, AddressPolicy())
            kept += [secrets, access, allowances]
            for ask in (
                secrets.get("growth", "api"),
                access.identify(THEIRS),
                access.allowed(Identity("alice"), "get", "runs", "growth", how),
                allowances.policy("growth"),
            ):
                try:
                    said.append(repr(await ask))
                except (SecretError, UnavailableError, UnauthenticatedError) as exc:
                    said.append(_everything(exc))
    said += [f"{record.getMessage()} {record.__dict__!r}" for record in caplog.records]
    gc.collect()
    said += [_everything(item) for item in gc.get_objects() if isinstance(item, BaseException)]
    assert sum("***" in text for text in said) == 1
    for text in said:
        for value in (CANARY, OURS, THEIRS, b64encode(CANARY.encode()).decode()):
            assert not any(value[at : at + 8] in text for at in range(len(value) - 7)), text[:300]
    assert THEIRS not in repr([vars(item) for item in kept])


def _everything(exc: BaseException | None) -> str:
    """With what is chained behind it."""
    seen: list[BaseException] = []
    while exc is not None and exc not in seen:
        seen.append(exc)
        exc = exc.__cause__ or exc.__context__
    return " ".join(f"{type(item).__name__} {item} {item.args!r} {getattr(item, '__dict__', '')!r}" for item in seen)
