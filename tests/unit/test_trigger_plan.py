"""Compiled triggers: what their condition, input and key make of a cause."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from stepwell.actions.registry import default_actions
from stepwell.domain.compile import compile_revision
from stepwell.domain.errors import EvaluationError
from stepwell.domain.expressions import Context
from stepwell.domain.spec import WorkflowSpec
from stepwell.domain.trigger_plan import TriggerPlan

HOOK = {"webhook": {"auth": {"public": {}}}}


def plan(**fields: Any) -> TriggerPlan:
    spec = {"triggers": [{"name": "t", **HOOK, **fields}], "steps": [{"name": "a", "transform": {"value": 1}}]}
    return compile_revision(WorkflowSpec.model_validate(spec), default_actions()).triggers[0]


def context(body: Any) -> Context:
    return Context({"body": body}, now=datetime(2026, 1, 1, tzinfo=UTC))


def test_a_condition_admits_or_not() -> None:
    found = plan(**{"if": "body.a == 1"})
    assert found.admits(context({"a": 1}))
    assert not found.admits(context({"a": 2}))
    with pytest.raises(EvaluationError, match="a"):
        found.admits(context({}))
    assert plan().admits(context({}))


def test_the_input_is_an_object() -> None:
    assert plan(input={"x": "{{ body.a }}"}).input_of(context({"a": 1}), {}) == {"x": 1}
    assert plan().input_of(context({"a": 1}), {"a": 1}) == {"a": 1}
    with pytest.raises(EvaluationError, match="is an object"):
        plan(input="{{ body }}").input_of(context([1]), {})
    with pytest.raises(EvaluationError, match="is an object"):
        plan().input_of(context([1]), [1])


def test_a_key_is_short_text_or_absent() -> None:
    assert plan().key_of(context({})) is None
    assert plan(idempotencyKey="k-{{ body.id }}").key_of(context({"id": 7})) == "k-7"
    for value in ("", "x" * 257, "a\0b"):
        with pytest.raises(EvaluationError, match="idempotencyKey"):
            plan(idempotencyKey="{{ body.id }}").key_of(context({"id": value}))


def test_a_plan_tells_what_it_reads() -> None:
    found = plan(**{"if": "headers.a == 'x'"}, input={"x": "{{ body.a }}"}, idempotencyKey="{{ query.k }}")
    assert found.variables == {"headers", "body", "query"}
    assert found.name == "t"
