"""The models refuse what the contract refuses, in words that say what to do."""

from typing import Any

import pytest
from pydantic import ValidationError

from stepwell.domain.model_problems import problems_of
from stepwell.domain.spec import WorkflowRunSpec, WorkflowSpec

FAIL = {"fail": {"message": "no"}}


def refusals(spec: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        WorkflowSpec.model_validate(spec)
    return [str(problem) for problem in problems_of(caught.value, WorkflowSpec, "spec")]


def step(**fields: Any) -> dict[str, Any]:
    return {"steps": [{"name": "a", **fields}]}


def hmac(**fields: Any) -> dict[str, Any]:
    auth = {"hmac": {"secretRefs": [{"name": "s", "key": "k"}], **fields}}
    return {"steps": [{"name": "a", **FAIL}], "triggers": [{"name": "t", "webhook": {"auth": auth}}]}


def cron(**fields: Any) -> dict[str, Any]:
    return {"steps": [{"name": "a", **FAIL}], "triggers": [{"name": "t", "cron": {"schedule": "0 3 * * *", **fields}}]}


ACTIONS = "transform, httpCall, wait, approval, workflow, fail, action"
AUTH = {"bearer": {"secretRef": {"name": "api", "key": "token"}}}


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (step(), f"spec.steps[0]: exactly one of {ACTIONS} must be set; found none"),
        (
            step(**FAIL, wait={"duration": "1s"}),
            f"spec.steps[0]: exactly one of {ACTIONS} must be set; found wait and fail",
        ),
        (step(**FAIL, onErr="Continue"), "spec.steps[0].onErr: unknown field 'onErr'; did you mean onError?"),
        (step(**FAIL, on_error="Continue"), "spec.steps[0].on_error: unknown field 'on_error'; did you mean onError?"),
        (step(httpCall={"uri": "x", "url": "https://x"}), "spec.steps[0].httpCall.uri: unknown field 'uri'; did you mean url?"),
        (step(**FAIL, timeout="1s"), "spec.steps[0]: timeout is for httpCall and action only, not for fail; take it away"),
        (step(**FAIL, name="in"), "spec.steps[0].name: 'in' is a word of the expression language; choose another name"),
        (step(**FAIL, name="A-b"), "spec.steps[0].name: 'A-b' does not match ^[a-z][a-z0-9_]{0,62}$"),
        (step(**FAIL, onError="continue"), "spec.steps[0].onError: must be one of Fail, Continue, not 'continue'; did you mean Continue?"),
        (step(fail={"message": 3}), "spec.steps[0].fail.message: must be text, not the number 3; put it in quotes"),
        (step(fail={}), "spec.steps[0].fail.message: is required, but not set"),
        (step(fail=[]), "spec.steps[0].fail: must be a map, not a list"),
        (step(**FAIL, needs="b"), "spec.steps[0].needs: must be a list, not 'b'"),
        (step(**FAIL, needs=["b"] * 17), "spec.steps[0].needs: has 17 entries; at most 16 are allowed"),
        (step(**FAIL, retry={"limit": True}), "spec.steps[0].retry.limit: must be a whole number, not the boolean true"),
        (step(**FAIL, retry={"limit": 101}), "spec.steps[0].retry.limit: must be at most 100, not 101"),
        (
            step(**FAIL, retry={"retryOn": ["x"]}),
            "spec.steps[0].retry.retryOn[0]: 'x' is none of Timeout, Network, Error, an HTTP status such as 429 or a class such as 5xx",
        ),
        (step(**FAIL, forEach={"items": [], "maxParallel": 51}), "spec.steps[0].forEach.maxParallel: must be at most 50, not 51"),
        (step(wait={"duration": "1 day"}), "spec.steps[0].wait.duration: '1 day' is no duration: write whole numbers with h, m, s or ms, as in 10s, 250ms or 1h30m"),
        (step(wait={}), "spec.steps[0].wait: exactly one of duration, until must be set; found none"),
        (step(transform={}), "spec.steps[0].transform: one of select, drop, set or value must be set"),
        (
            step(transform={"value": 1, "set": {}}),
            "spec.steps[0].transform: value stands alone; take set away, or write set instead of value",
        ),
        (step(httpCall={}), "spec.steps[0].httpCall: exactly one of url, urlFrom must be set; found none"),
        (
            step(httpCall={"url": "https://x", "body": {}, "text": ""}),
            "spec.steps[0].httpCall: body and text exclude each other; keep the one that is to be sent",
        ),
        (
            step(httpCall={"url": "https://{{ host }}/", "auth": AUTH}),
            "spec.steps[0].httpCall: a request with auth needs a url that begins with https:// and a literal host, without {{ }}",
        ),
        (
            step(httpCall={"url": "http://x{{ path }}", "auth": AUTH}),
            "spec.steps[0].httpCall: a request with auth needs a url that begins with https:// and a literal host, without {{ }}",
        ),
        (
            step(httpCall={"url": "https://x@evil/", "auth": AUTH}),
            "spec.steps[0].httpCall: a request with auth needs a url that begins with https:// and a literal host, without {{ }}",
        ),
        (step(httpCall={"url": "https://x", "headers": {"a": True}}), "spec.steps[0].httpCall.headers.a: must be text, not the boolean true; YAML reads on, off, yes, no, y and n so: put the word in quotes"),
        ({"steps": []}, "spec.steps: needs at least 1 entries"),
        ({}, "spec.steps: is required, but not set"),
        (hmac(), "spec.triggers[0].webhook.auth.hmac: exactly one of preset, header must be set; found none"),
        (hmac(preset="Github"), "spec.triggers[0].webhook.auth.hmac.preset: must be one of GitHub, Stripe, Slack, StandardWebhooks, not 'Github'; did you mean GitHub?"),
        (hmac(header="a b"), "spec.triggers[0].webhook.auth.hmac.header: 'a b' does not match ^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"),
        (cron(schedule="0 0 3 * * *"), "spec.triggers[0].cron.schedule: '0 0 3 * * *' is no cron schedule: write minute, hour, day, month and weekday, as in '0 3 * * *'"),
        (cron(schedule="@hourly"), "spec.triggers[0].cron.schedule: '@hourly' is no cron schedule: write minute, hour, day, month and weekday, as in '0 3 * * *'"),
        (cron(schedule="0 0 31 2 *"), "spec.triggers[0].cron.schedule: '0 0 31 2 *' is no cron schedule: its day of month is not valid, or never comes"),
        (cron(schedule="0 0 */30 * SUN#2"), "spec.triggers[0].cron.schedule: '0 0 */30 * SUN#2' is no cron schedule: it is never due in UTC"),
        (cron(schedule="30 2 * 3 SUN#2", timeZone="America/New_York"), "spec.triggers[0].cron: '30 2 * 3 SUN#2' is no cron schedule: it is never due in America/New_York"),
        (cron(timeZone="Europe/Berlim"), "spec.triggers[0].cron.timeZone: there is no time zone 'Europe/Berlim': write an IANA name such as Europe/Berlin or UTC"),
        (cron(timeZone="Europe"), "spec.triggers[0].cron.timeZone: there is no time zone 'Europe': write an IANA name such as Europe/Berlin or UTC"),
    ],
)  # fmt: skip
def test_refusal(spec: dict[str, Any], problem: str) -> None:
    assert refusals(spec) == [problem]


def test_all_problems_are_found_at_once() -> None:
    spec = {"steps": [{"name": "a"}, {"name": "B", **FAIL}], "priority": "low", "extra": 1}
    assert [problem.partition(": ")[0] for problem in refusals(spec)] == [
        "spec.steps[0]", "spec.steps[1].name", "spec.priority", "spec.extra",
    ]  # fmt: skip


def test_the_whole_language_parses() -> None:
    spec = WorkflowSpec.model_validate(
        {
            "description": "all of it",
            "triggers": [
                {
                    "name": "hook",
                    "webhook": {
                        "auth": {
                            "hmac": {"header": "X-Sig", "prefix": "sha256=", "secretRefs": [{"name": "s", "key": "k"}]}
                        },
                        "respond": {"wait": "10s"},
                        "rateLimit": {"limit": 10, "per": "1m"},
                    },
                    "if": "body.ok",
                    "input": "{{ body }}",
                    "idempotencyKey": "{{ body.id }}",
                },
                {"name": "open", "webhook": {"auth": {"public": {}}}},
                {"name": "night", "cron": {"schedule": "0 3 * * MON-FRI", "missedRuns": "All", "jitter": "5m"}},
            ],
            "steps": [
                {"name": "t", "transform": {"select": ["a.b"], "drop": ["c"], "set": {"d": 1}}},
                {
                    "name": "h",
                    "needs": ["t"],
                    "httpCall": {"urlFrom": {"secretRef": {"name": "s", "key": "k"}}},
                    "timeout": "5s",
                },
                {"name": "w", "wait": {"until": "{{ input.at }}"}},
                {"name": "p", "approval": {"message": "ok?", "onTimeout": "Approve", "link": "Enabled"}},
                {"name": "c", "workflow": {"name": "child", "mode": "Start"}, "forEach": {"items": "{{ input.list }}"}},
                {"name": "x", "action": {"type": "mail", "with": {"to": "a"}}, "timeout": "1h"},
            ],
            "onFailure": [{"name": "f", **FAIL}],
            "finally": [{"name": "g", "onError": "Continue", **FAIL}],
            "output": ["{{ steps.t.output }}"],
            "timeout": "1h",
            "retry": {"retryOn": ["Timeout", 429, "5xx"]},
            "concurrency": {"limit": 1, "key": "{{ input.id }}", "onLimit": "CancelOldest"},
            "priority": "High",
            "suspend": True,
            "retention": {"succeeded": "1h"},
        }
    )
    assert [step.kind for step in spec.steps] == ["transform", "httpCall", "wait", "approval", "workflow", "action"]
    assert spec.finally_[0].on_error == "Continue"
    assert spec.retry is not None
    assert spec.retry.retry_on == ("Timeout", 429, "5xx")
    assert spec.retention.failed == 720 * 3600
    assert spec.timeout == 3600.0


def test_defaults() -> None:
    spec = WorkflowSpec.model_validate(step(httpCall={"url": "https://x"}))
    call = spec.steps[0].http_call
    assert call is not None
    assert (spec.timeout, spec.priority, spec.suspend) == (720 * 3600, "Normal", False)
    assert (call.method, call.expect.status, call.follow_redirects, call.max_response_bytes) == (
        "GET",
        ("2xx",),
        False,
        1 << 20,
    )
    assert spec.steps[0].needs is None, "unset and [] differ: [] starts at once"


def test_models_are_frozen() -> None:
    spec = WorkflowSpec.model_validate(step(**FAIL))
    with pytest.raises(ValidationError, match="frozen"):
        spec.timeout = 1.0


def test_a_run_refers_to_its_own_namespace_only() -> None:
    WorkflowRunSpec.model_validate({"workflowRef": {"name": "a"}, "input": {"x": 1}, "ttlAfterFinished": "1h"})
    with pytest.raises(ValidationError, match="Extra inputs"):
        WorkflowRunSpec.model_validate({"workflowRef": {"name": "a", "namespace": "b"}})
