"""``expect.if``: an answer is tested by a condition that sees it as the step's own result."""

from __future__ import annotations

from typing import Any

import pytest
from http_calls import Secrets, failure, perform, ref, secret
from http_servers import json_response, response, serve

from stepwell.actions.registry import default_actions
from stepwell.domain.compile import compile_revision
from stepwell.domain.retry import RetryPolicy
from stepwell.domain.spec import WorkflowSpec

ANSWER = response(b'{"state": "done", "n": 3}', "Content-Type: application/json", "X-Kind: a")


@pytest.mark.parametrize(
    "condition",
    [
        "steps.notify.output.state == 'done'",
        "steps.notify.output.n > want",
        "steps.notify.http.status == 200 && steps.notify.http.headers['x-kind'] == 'a'",
        "steps.notify.output.?error.orValue(null) == null",
        "has(steps.notify.output.n) && !has(steps.notify.output.error)",
        "steps.notify.status == 'Succeeded' && steps.notify.error == null",
        "run.id.startsWith('018f') && input.want == 2",
        "true",
    ],
)
async def test_an_answer_that_is_expected(condition: str) -> None:
    async with serve(ANSWER) as server:
        outcome = await perform({"url": server.url, "expect": {"if": condition}}, {"want": 2})
    assert outcome.output == {"state": "done", "n": 3}


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("steps.notify.output.state == 'open'", "expect.if (steps.notify.output.state == 'open') is false"),
        ("steps.notify.output.missing == 1", "expect.if (steps.notify.output.missing == 1) fails: "),
        ("steps.notify.output.n", "a condition is true or false, but this is"),
        ("steps.notify.output.n / 0 == 1", "fails: "),
    ],
)
async def test_an_answer_that_is_not(condition: str, said: str) -> None:
    async with serve(ANSWER) as server:
        failed = await failure({"url": f"{server.url}/x", "expect": {"if": condition}})
    assert (failed.reason, failed.kind, failed.status, failed.final) == ("ExpectationFailed", "Error", None, False)
    assert failed.message.startswith(f'GET {server.url}/x answered 200 OK: {{"state": "done", "n": 3}}; expect.if (')
    assert said in failed.message
    assert failed.http
    assert failed.http["status"] == 200


async def test_a_step_waits_for_a_state_by_retrying_on_error() -> None:
    async with serve(json_response('{"state": "open"}')) as server:
        failed = await failure({"url": server.url, "expect": {"if": "steps.notify.output.state == 'done'"}})
    assert RetryPolicy(limit=3, retry_on=frozenset({"Error"})).allows(failed, 1)
    assert not default_actions()["httpCall"].retry(type("Spec", (), {"method": "GET"})).allows(failed, 1)


async def test_the_status_comes_first() -> None:
    async with serve(json_response("{}", status="404 Not Found")) as server:
        assert (await failure({"url": server.url, "expect": {"if": "true"}})).reason == "UnexpectedStatus"
        spec = {"url": server.url, "expect": {"status": [404], "if": "steps.notify.http.status == 404"}}
        assert (await perform(spec)).output == {}


async def test_text_and_empty_answers() -> None:
    async with serve(response(b"pong", "Content-Type: text/plain")) as server:
        assert (await perform({"url": server.url, "expect": {"if": "steps.notify.output == 'pong'"}})).output == "pong"
    async with serve(response(b"")) as server:
        assert (await perform({"url": server.url, "expect": {"if": "steps.notify.output == null"}})).output is None


async def test_a_condition_sees_secrets_masked_too() -> None:
    known = Secrets(secret("api", token="tok_7f3a9c1e5b"))
    spec: dict[str, Any] = {"auth": {"bearer": ref("api", "token")}, "expect": {"if": "steps.notify.output == '***'"}}
    async with serve(json_response('"tok_7f3a9c1e5b"')) as server:
        assert (await perform({"url": server.url, **spec}, secrets=known)).output == "***"
        spec["expect"]["if"] = "steps.notify.output.contains('tok_')"
        failed = await failure({"url": server.url, **spec}, secrets=known)
    assert failed.reason == "ExpectationFailed"
    assert "tok_7" not in failed.message


def test_predecessors_are_still_there() -> None:
    call = {"url": "https://a.example/", "expect": {"if": "steps.b.output.n > steps.a.output.n"}}
    steps = [{"name": "a", "transform": {"set": {"n": 1}}}, {"name": "b", "httpCall": call}]
    revision = compile_revision(WorkflowSpec.model_validate({"steps": steps}), default_actions())
    assert "steps" in revision.steps[1].variables
