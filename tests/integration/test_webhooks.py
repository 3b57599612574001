"""Webhooks: each answer, and the order in which they come."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from gateways import KEY, NAMESPACE, Secrets, gateway, github, hmac_of, trigger, vendors_secrets
from waiting import eventually

from stepwell.adapters.secrets.local import LocalSecrets
from stepwell.domain.manifest import load_text
from stepwell.domain.secrets import SecretError
from stepwell.engine.intake import Start

if TYPE_CHECKING:
    from gateways import Gateway

EXAMPLES = Path(__file__).parents[2] / "examples"
SCHEMA = {"type": "object", "required": ["email"], "properties": {"email": {"type": "string"}}}
SIGNED = trigger(hmac_of(preset="GitHub"), input={"email": "{{ body.email }}"}, **{"if": "body.action == 'created'"})
GOOD = b'{"action": "created", "email": "a@example.com"}'


async def test_an_accepted_delivery_is_a_durable_run(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(SIGNED, inputSchema=SCHEMA)
        answer = await running.post(GOOD, headers=github(GOOD))
        assert answer.status_code == 202, answer.text
        body = answer.json()
        assert body == {
            "runId": body["runId"],
            "status": "queued",
            "url": f"/api/v1/namespaces/{NAMESPACE}/runs/{body['runId']}",
        }
        assert answer.headers["location"] == body["url"]
        [row] = running.rows("SELECT id::text, status, trigger, namespace, input_data FROM runs")
        assert row == (body["runId"], "queued", "hook", NAMESPACE, {"email": "a@example.com"})
        assert running.rows("SELECT run_id::text, trigger FROM trigger_events") == [(body["runId"], "hook")]


async def test_the_answers_come_in_the_order_of_the_contract(database: str, redis_url: str) -> None:
    """One delivery that is wrong in every way; what is answered is put right, one thing after another."""
    async with gateway(database, redis_url, quota_queued=1) as running:
        await running.apply(SIGNED, inputSchema=SCHEMA, suspend=True)
        huge, bad = b"[" * ((1 << 20) + 1), b"[" * 100
        headers = {"content-type": "image/png"}
        assert (await running.post(huge, headers=headers)).status_code == 413
        assert (await running.post(bad, headers=headers)).status_code == 401
        headers |= github(bad)
        suspended = await running.post(bad, headers=headers)
        assert (suspended.status_code, suspended.headers["retry-after"]) == (503, "60")
        labels = {"namespace": "growth", "workflow": "welcome"}
        assert running.context.metrics.registry.get_sample_value("stepwell_webhook_suspended_total", labels) == 1
        await running.apply(trigger(), name="other")
        assert (await running.post(b"{}", path="other/hook")).status_code == 202  # fills the quota
        await running.apply(SIGNED, inputSchema=SCHEMA)
        full = await running.post(bad, headers=headers)
        assert (full.status_code, full.json()["quota"]) == (429, "queued")
    async with gateway(database, redis_url) as running:
        assert (await running.post(bad, headers=headers)).status_code == 415
        headers["content-type"] = "application/json"
        assert (await running.post(bad, headers=headers)).status_code == 422
        body = b'{"action": "deleted"}'
        filtered = await running.post(body, headers=github(body))
        assert (filtered.status_code, filtered.json()) == (200, {"status": "Filtered"})
        body = b'{"action": "created", "email": 7}'
        refused = await running.post(body, headers=github(body))
        assert refused.status_code == 400
        assert "email" in refused.json()["detail"]
        accepted = await running.post(GOOD, headers=github(GOOD))
        assert accepted.status_code == 202
        assert running.count()[0] == 2


async def test_errors_are_problems_with_a_request_id(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger(), inputSchema=SCHEMA)
        for method, path, status in (
            ("GET", "/", 404),
            ("POST", "/hooks/a/b", 404),
            ("POST", f"/hooks/{NAMESPACE}/absent/hook", 401),
            ("GET", f"/hooks/{NAMESPACE}/welcome/hook", 401),
            ("POST", f"/hooks/{NAMESPACE}/welcome/hook", 400),
        ):
            answer = await running.client.request(method, path, json={}, headers={"X-Request-Id": "id-1"})
            assert answer.status_code == status, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["x-request-id"] == "id-1"
            assert answer.json()["status"] == status
        answer = await running.client.get("/", headers={"X-Request-Id": "not fit\u00e9".encode("latin-1")})  # type: ignore[dict-item]
        assert len(answer.headers["x-request-id"]) == 24


async def test_a_defect_is_answered_with_its_id_and_no_trace(
    database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("very private")

    monkeypatch.setattr("stepwell_gateway.hooks.hook.variables", broken)
    async with gateway(database, redis_url) as running:
        await running.apply(trigger())
        answer = await running.post(headers={"X-Request-Id": "id-2"})
        assert (answer.status_code, answer.json()["requestId"]) == (500, "id-2")
        assert "private" not in answer.text
        assert "Traceback" not in answer.text
    [record] = [r for r in caplog.records if r.levelname == "ERROR"]
    assert record.request == "id-2"  # type: ignore[attr-defined]
    assert record.exc_info


CONDITIONS = {
    "body.n > 1": True,
    "body.?absent.orValue(1) == 1": True,
    "body.n > 2": False,
    "body.absent == 1": False,
    "headers['x-none'] == ''": False,
    "body.list[3] == 1": False,
    "body.list.all(x, x.y == 1) && body.list.map(x, x + 1)[0] == 2": False,
    "body.n.deep == 1": False,
}


async def test_filters(database: str, redis_url: str) -> None:
    """A condition that is false, or reads what is absent, turns a delivery away, and that is counted."""
    async with gateway(database, redis_url) as running:
        names = {f"t{number}": condition for number, condition in enumerate(CONDITIONS)}
        await running.apply(*(trigger(name=name, **{"if": condition}) for name, condition in names.items()))
        for name, condition in names.items():
            answer = await running.post(b'{"n": 2, "list": []}', path=f"welcome/{name}")
            assert answer.status_code == (202 if CONDITIONS[condition] else 200), f"{condition}: {answer.text}"
        assert running.count()[0] == 2
        [filtered] = [f for f in running.context.metrics.collect() if f.name == "stepwell_webhook_filtered"]
        assert [s.value for s in filtered.samples] == [len(CONDITIONS) - 2]


async def test_a_condition_that_fails_otherwise_says_so(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger(**{"if": "body.n + 1.5 > 2.0"}))
        answer = await running.post(b'{"n": 2}')
        assert answer.status_code == 400
        assert "body.n + 1.5" in answer.json()["detail"]


async def test_an_input_that_cannot_be_made_is_400(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger(input="{{ body.list }}"), trigger(name="other", input={"n": "{{ body.absent }}"}))
        assert (await running.post(b'{"list": []}')).status_code == 400
        assert (await running.post(b'{"list": []}', path="welcome/other")).status_code == 400
        assert running.count() == (0, 0, 0)


async def test_the_example_takes_a_signed_delivery(database: str, redis_url: str) -> None:
    example = EXAMPLES / "github-webhook.yaml"
    documents = load_text(example.read_text("utf-8"), example.name)
    async with gateway(database, redis_url, LocalSecrets(documents)) as running:
        await running.apply(**documents[0].raw["spec"])
        body = b'{"action":"created","user":{"email":"user@example.com","age":20}}'
        headers = github(body, **{"x-github-delivery": "1"})
        answers = [await running.post(body, "welcome/signup", headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 200]
        assert running.inputs() == [{"email": "user@example.com", "age": 20}]


# -- repeats ---------------------------------------------------------------------------------------------------------------


async def test_a_repeat_is_answered_with_the_first_run(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger(idempotencyKey="{{ body.id }}"))
        first = (await running.post(b'{"id": "a", "n": 1}')).json()
        again = await running.post(b'{"n": 1, "id": "a"}')
        assert (again.status_code, again.json()) == (200, first | {"inputDiffers": False})
        other = await running.post(b'{"id": "a", "n": 2}')
        assert other.json() == first | {"inputDiffers": True}
        assert (await running.post(b'{"id": "b"}')).status_code == 202
        assert running.count() == (2, 2, 2)


async def test_a_key_that_is_no_key_is_400(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger(idempotencyKey="{{ body.id }}"))
        for key in ("", "x" * 257, "é" * 129):
            assert (await running.post(f'{{"id": "{key}"}}'.encode())).status_code == 400
        assert (await running.post(b"{}")).status_code == 400
        for key in ("x" * 256, "é" * 128):
            assert (await running.post(f'{{"id": "{key}"}}'.encode())).status_code == 202


async def test_a_key_is_of_its_door(database: str, redis_url: str) -> None:
    """Two triggers, and the API: the same key at each is a run of its own."""
    async with gateway(database, redis_url) as running:
        await running.apply(*(trigger(name=name, idempotencyKey="k") for name in ("one", "two")))
        answers = [await running.post(path=f"welcome/{name}") for name in ("one", "two", "one")]
        start = Start(NAMESPACE, "welcome", {}, key="k")
        over_api = [(await running.context.intake.start(start)).id for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 202, 200]
        runs = [answer.json()["runId"] for answer in answers] + over_api
        assert [runs.index(run) for run in runs] == [0, 1, 0, 3, 3]


# -- waiting for the output --------------------------------------------------------------------------------------------------


async def _end(running: Gateway, status: str, **columns: str) -> None:
    """What a worker would write."""
    sets = "".join(f", {name} = '{value}'" for name, value in columns.items())
    query = f"UPDATE runs SET status = '{status}', finished_at = now(), expires_at = now() + '1 day'{sets} RETURNING 1"
    await eventually(lambda: running.rows(query))


async def test_respond_waits_for_the_output(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger(respond={"wait": "20s"}, idempotencyKey="{{ body.id }}"))
        asked = asyncio.ensure_future(running.post(b'{"id": "a"}'))
        await _end(running, "succeeded", output_data='{"did": 1}')
        answer = await asked
        assert (answer.status_code, answer.json()) == (200, {"did": 1})
        again = await running.post(b'{"id": "a"}')
        assert (again.status_code, again.json()) == (200, {"did": 1})


async def test_respond_tells_of_a_failure_without_its_details(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger(respond={"wait": "20s"}))
        asked = asyncio.ensure_future(running.post())
        await _end(running, "failed", error='{"reason": "StepFailed", "message": "secret sauce"}')
        answer = await asked
        assert (answer.status_code, answer.json()["reason"]) == (502, "StepFailed")
        assert "sauce" not in answer.text


async def test_respond_answers_202_at_its_deadline(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger(respond={"wait": "100ms"}))
        answer = await running.post()
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")


async def test_many_wait_with_one_statement_a_period(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger(respond={"wait": "1s"}))
        before = running.context.reads.statements
        answers = await asyncio.gather(*(running.post() for _ in range(50)))
        assert {answer.status_code for answer in answers} == {202}
        assert running.context.reads.statements - before < 60, "50 waiters for a second at a look every 50 ms"


async def test_who_waits_is_answered_when_the_gateway_stops(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger(respond={"wait": "60s"}))
        asked = asyncio.ensure_future(running.post())
        await eventually(lambda: running.count()[0] == 1)
        running.context.stopping.set()
        assert (await asked).status_code == 202


# -- rates and quotas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("away", [False, True], ids=["redis", "alone"])
async def test_a_rate_limit_says_when_to_come_again(database: str, redis_url: str, away: bool) -> None:
    async with gateway(database, "redis://127.0.0.1:1/0" if away else redis_url) as running:
        limited = trigger(rateLimit={"limit": 3, "per": "1h"}, idempotencyKey="{{ body.id }}")
        await running.apply(limited, trigger(name="free"))
        answers = await asyncio.gather(*(running.post(b'{"id": "%d"}' % n) for n in range(5)))
        assert sorted(answer.status_code for answer in answers) == [202, 202, 202, 429, 429]
        [refused, _] = [answer for answer in answers if answer.status_code == 429]
        assert refused.json()["quota"] == "rateLimit"
        assert 1 <= int(refused.headers["retry-after"]) <= 7200
        assert (await running.post(path="welcome/free")).status_code == 202


async def test_two_gateways_share_a_rate_limit(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as one, gateway(database, redis_url) as other:
        await one.apply(trigger(rateLimit={"limit": 4, "per": "1h"}))
        answers = await asyncio.gather(*(door.post() for door in (one, other) for _ in range(4)))
        assert sorted(answer.status_code for answer in answers) == [202] * 4 + [429] * 4


async def test_a_namespace_may_start_so_many_runs_a_second(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url, quota_starts=2) as running:
        await running.apply(trigger())
        answers = await asyncio.gather(*(running.post() for _ in range(12)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert {answer.json()["quota"] for answer in refused} == {"starts"}
        assert {answer.headers["retry-after"] for answer in refused} <= {"1", "2"}
        assert len(refused) >= 6


async def test_the_queue_of_a_namespace_is_bounded_without_redis_too(database: str, redis_url: str) -> None:
    async with gateway(database, "redis://127.0.0.1:1/0", quota_queued=2) as running:
        await running.apply(trigger())
        statuses = [(await running.post()).status_code for _ in range(4)]
        assert statuses == [202, 202, 429, 429]
    async with gateway(database, "redis://127.0.0.1:1/0", quota_queued=2) as running:
        assert (await running.post()).status_code == 429, "a new process counts what is there"


# -- secrets -----------------------------------------------------------------------------------------------------------------


async def test_an_unusable_secret_answers_401_and_is_logged_once(
    database: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    for secrets in (Secrets(), Secrets(hook={"other": KEY}), Secrets(hook={"secret": b"\n"}), vendors_secrets()):
        if secrets.values.get((NAMESPACE, "hook"), {}).get("secret") == KEY:
            secrets.labels = {}
        caplog.clear()
        async with gateway(database, redis_url, secrets) as running:
            await running.apply(SIGNED)
            for _ in range(2):
                assert (await running.post(GOOD, headers=github(GOOD))).status_code == 401
            assert (await running.post(GOOD, headers=github(GOOD, b""))).status_code == 401, (
                "an empty key signs nothing"
            )
        [warning] = [r for r in caplog.records if r.levelname == "WARNING"]
        assert "hook" in warning.getMessage()


async def test_secrets_out_of_reach_are_503(database: str, redis_url: str) -> None:
    secrets = vendors_secrets()
    secrets.fails = SecretError("SecretsUnavailable", "the API server is away")
    async with gateway(database, redis_url, secrets) as running:
        await running.apply(SIGNED)
        answer = await running.post(GOOD, headers=github(GOOD))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "server" not in answer.text


# -- counting ----------------------------------------------------------------------------------------------------------------


async def test_only_workflows_that_exist_have_series(database: str, redis_url: str) -> None:
    async with gateway(database, redis_url) as running:
        await running.apply(trigger())
        await running.post()
        for name in ("a", "b", "c"):
            await running.post(path=f"{name}/hook")
        [counted] = [f for f in running.context.metrics.collect() if f.name == "stepwell_webhook_requests"]
        assert {tuple(s.labels.values()): s.value for s in counted.samples} == {
            (NAMESPACE, "welcome", "202"): 1,
            ("_unknown", "_unknown", "401"): 3,
        }
