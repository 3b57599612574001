"""What is allowed and yet worth a word: each kind of advice, at its place, without the value."""

from __future__ import annotations

import time

import pytest

from stepwell.domain import triggers
from stepwell.domain.advice import MOST, advice
from stepwell.domain.manifest import load_text
from stepwell.domain.spec import Workflow

HEAD = "apiVersion: stepwell.dev/v1alpha1\nkind: Workflow\nmetadata: {name: w}\nspec:\n"
CALL = "steps: [{{name: a, httpCall: {{url: 'https://x.example/', method: POST, {}}}}}]"
TOKEN = "ghp_" + "a1B2" * 9


def warned(spec: str) -> list[str]:
    (document,) = load_text(HEAD + "".join(f"  {line}\n" for line in spec.splitlines()), "f.yaml")
    assert isinstance(document.model, Workflow)
    found = advice(document.model.spec)
    assert all("hunter2" not in str(problem) and TOKEN not in str(problem) for problem in found)
    assert all(len(problem.message) <= 100 for problem in found)
    return [problem.path for problem in found]


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (CALL.format("headers: {Authorization: 'Bearer hunter2'}"), "spec.steps[0].httpCall.headers.Authorization"),
        (CALL.format("headers: {x-api-key: hunter2}"), "spec.steps[0].httpCall.headers.x-api-key"),
        (CALL.format(f"headers: {{X-Other: 'token {TOKEN}'}}"), "spec.steps[0].httpCall.headers.X-Other"),
        (CALL.format("query: {api_key: hunter2}"), "spec.steps[0].httpCall.query.api_key"),
        (CALL.format("body: {login: {password: hunter2}}"), "spec.steps[0].httpCall.body.login.password"),
        (CALL.format("body: {list: [{clientSecret: hunter2}]}"), "spec.steps[0].httpCall.body.list[0].clientSecret"),
        (CALL.format(f"body: {{note: '{TOKEN}'}}"), "spec.steps[0].httpCall.body.note"),
        (CALL.format("text: '-----BEGIN RSA PRIVATE KEY-----'"), "spec.steps[0].httpCall.text"),
        ("steps: [{name: a, httpCall: {url: 'https://u:hunter2@x.example/'}}]", "spec.steps[0].httpCall.url"),
        ("steps: [{name: a, httpCall: {url: 'https://x.example/?a=1&token=hunter2'}}]", "spec.steps[0].httpCall.url"),
        (
            "steps: [{name: a, httpCall: {url: 'https://hooks.slack.com/services/T0/B0/hunter2'}}]",
            "spec.steps[0].httpCall.url",
        ),
        (
            "steps: [{name: a, httpCall: {url: 'http://x.example/', auth: {basic: {secretName: s}}}}]",
            "spec.steps[0].httpCall.url",
        ),
        ("steps: [{name: a, transform: {set: {token: hunter2}}}]", "spec.steps[0].transform.set.token"),
        (
            "triggers: [{name: t, webhook: {auth: {public: {}}}}]\nsteps: [{name: a, transform: {value: 1}}]",
            "spec.triggers[0].webhook.auth.public",
        ),
    ],
)
def test_it_is_said_at_its_place(spec: str, path: str) -> None:
    assert warned(spec) == [path]


@pytest.mark.parametrize(
    "spec",
    [
        CALL.format("headers: {Authorization: '{{ input.token }}', Accept: text/plain, Idempotency-Key: fixed}"),
        CALL.format("body: {password: '{{ input.password }}', tokens: 5, token: '', secretary: Anna}"),
        CALL.format("query: {key: '{{ input.key }}', page: 'first'}"),
        CALL.format("auth: {bearer: {secretRef: {name: s, key: k}}}"),
        "steps: [{name: a, httpCall: {url: 'https://x.example/?token={{ input.t }}&monkey=1'}}]",
        "steps: [{name: a, httpCall: {url: 'http://x.example/a:b@c'}}]",
    ],
)
def test_nothing_is_said_of_what_is_sound(spec: str) -> None:
    assert warned(spec) == []


HMAC = "webhook: {{auth: {{hmac: {{{}, secretRefs: [{{name: s, key: k}}]}}}}}}"


def of_trigger(fields: str, name: str = "t") -> str:
    return f"triggers: [{{name: {name}, {fields}}}]\nsteps: [{{name: a, transform: {{value: 1}}}}]"


@pytest.mark.parametrize(
    ("trigger", "places"),
    [
        (HMAC.format("preset: GitHub"), []),
        (HMAC.format("preset: GitHub, tolerance: 1m"), ["webhook.auth.hmac.tolerance"]),
        (HMAC.format("preset: Stripe, tolerance: 1m"), []),
        (HMAC.format("preset: Stripe, algorithm: SHA256, prefix: v1, timestampHeader: X"),
         ["webhook.auth.hmac.algorithm", "webhook.auth.hmac.prefix", "webhook.auth.hmac.timestampHeader"]),
        (HMAC.format("header: X-Sign, tolerance: 1m"), ["webhook.auth.hmac.tolerance"]),
        (HMAC.format("header: X-Sign, timestampHeader: X-Sent, tolerance: 1m, algorithm: SHA512, encoding: Base64"), []),
        ("cron: {schedule: '0 3 * * *', timeZone: Europe/Berlin}", []),
        ("cron: {schedule: '0 3 * * *', timeZone: posix/UTC}", ["cron.timeZone"]),
    ],
)  # fmt: skip
def test_what_does_nothing_or_depends_on_the_machine(
    trigger: str, places: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "ZoneInfo", str)  # not every machine has the odd zone
    monkeypatch.setattr(triggers.schedule, "check", lambda *_: None)
    assert warned(of_trigger(trigger)) == [f"spec.triggers[0].{place}" for place in places]


def test_a_trigger_of_the_apis_name_shares_its_keys() -> None:
    assert warned(of_trigger(HMAC.format("preset: GitHub"), name="api")) == ["spec.triggers[0].name"]


def test_it_is_bounded_in_number_and_time() -> None:
    many = "".join(f"- {{name: s{index}, transform: {{set: {{token: hunter2}}}}}}\n" for index in range(50))
    assert len(warned(f"steps:\n{many}")) == MOST
    began = time.process_time()
    hostile = ["-eyJ" * 30_000, "https://" + "a:" * 4000, "-----BEGIN " * 10_000]
    for text in hostile:
        warned(f"steps: [{{name: a, transform: {{value: '{text}'}}}}]")
        warned(f"steps: [{{name: a, httpCall: {{url: '{text[:8000]}'}}}}]")
    assert time.process_time() - began < 10
