"""An ``httpCall`` compiled and performed without an engine, with Secrets from memory."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from stepwell.actions.registry import default_actions
from stepwell.adapters.http.client import AiohttpClient
from stepwell.adapters.http.guard import AddressPolicy
from stepwell.domain.action import Call, Compiler, Outcome
from stepwell.domain.expressions import STEP_VARIABLES, Context, Scope
from stepwell.domain.http_spec import HttpCall
from stepwell.domain.retry import StepFailure
from stepwell.domain.secrets import HOSTS_ANNOTATION, USE_LABEL, Secret, SecretError, SecretValue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LOCAL = AddressPolicy(allow_loopback=True)
RUN = "018f3a5c-1111-7222-8333-944444444444"
NAMESPACE = "growth"


class Secrets:
    """A SecretResolver over a dictionary; ``asked`` counts."""

    def __init__(self, *secrets: Secret, fails: SecretError | None = None) -> None:
        self.found = {(secret.namespace, secret.name): secret for secret in secrets}
        self.fails = fails
        self.asked: list[tuple[str, str]] = []

    async def get(self, namespace: str, name: str) -> Secret:
        self.asked.append((namespace, name))
        if self.fails is not None:
            raise self.fails
        if (namespace, name) not in self.found:
            raise SecretError("SecretMissing", f"there is no Secret {name}")
        return self.found[namespace, name]


def secret(name: str, *, hosts: str | None = None, label: str | None = "true", **data: str | bytes) -> Secret:
    values = {
        key.replace("_", "."): SecretValue(value.encode() if isinstance(value, str) else value)
        for key, value in data.items()
    }
    labels = {} if label is None else {USE_LABEL: label}
    return Secret(NAMESPACE, name, values, labels, {} if hosts is None else {HOSTS_ANNOTATION: hosts})


def ref(name: str, key: str) -> dict[str, Any]:
    return {"secretRef": {"name": name, "key": key}}


def call_of(seconds: float = 10.0, attempt: int = 1) -> Call:
    return Call(NAMESPACE, "welcome", RUN, "notify", attempt, seconds, f"{RUN}/notify")


def context_of(value: Any = None) -> Context:
    return Context({"input": value, "run": {"id": RUN}, "steps": {}}, now=datetime.now(UTC))


def compile_call(spec: dict[str, Any], client: Any = None, secrets: Any = None) -> tuple[Any, list[str]]:
    problems: list[Any] = []
    scope = Scope(STEP_VARIABLES, bare=True)
    model = HttpCall.model_validate(spec)
    compiler = Compiler(scope, "httpCall", problems, step="notify")
    action = default_actions(client, secrets)["httpCall"].compile(model, compiler)
    return action, [str(problem) for problem in problems]


def render(spec: dict[str, Any], value: Any = None) -> Any:
    action, problems = compile_call(spec)
    assert not problems
    return action.render(value, context_of(value))


@asynccontextmanager
async def client(policy: AddressPolicy = LOCAL, **options: Any) -> AsyncIterator[AiohttpClient]:
    async with AiohttpClient(policy, **options) as opened:
        yield opened


async def perform(
    spec: dict[str, Any],
    value: Any = None,
    *,
    call: Call | None = None,
    policy: AddressPolicy = LOCAL,
    secrets: Any = None,
    through: Any = None,
    **options: Any,
) -> Outcome:
    """One attempt; ``through`` is a client that is open already."""
    async with client(policy, **options) as opened:
        action, problems = compile_call(spec, through or opened, secrets)
        assert not problems
        context = context_of(value)
        outcome: Outcome = await action.perform(action.render(value, context), call or call_of(), context)
        return outcome


async def failure(spec: dict[str, Any], value: Any = None, **options: Any) -> StepFailure:
    with pytest.raises(StepFailure) as caught:
        await perform(spec, value, **options)
    return caught.value
