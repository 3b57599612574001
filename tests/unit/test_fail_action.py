"""fail: ends its step with a message."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from stepwell.actions.registry import default_actions
from stepwell.domain.action import Compiler
from stepwell.domain.errors import EvaluationError
from stepwell.domain.expressions import STEP_VARIABLES, Context, Scope
from stepwell.domain.retry import NEVER, RetryPolicy, StepFailure
from stepwell.domain.steps import Fail

ACTION = default_actions()["fail"]


def compiled(message: str) -> tuple[Any, list[str]]:
    problems: list[Any] = []
    scope = Scope(STEP_VARIABLES, bare=True)
    return ACTION.compile(Fail(message=message), Compiler(scope, "fail", problems)), [
        str(problem) for problem in problems
    ]


def context(value: Any) -> Context:
    return Context({"input": value, "run": {}, "steps": {}}, now=datetime.now(UTC))


def test_it_fails_with_the_rendered_message() -> None:
    action, problems = compiled("no user {{ id }} in {{ input.list }}")
    assert not problems
    value = {"id": 7, "list": ["a"]}
    with pytest.raises(StepFailure) as caught:
        action.run(value, context(value))
    assert caught.value.document() == {"reason": "Failed", "message": 'no user 7 in ["a"]'}


def test_it_is_final_whatever_the_policy() -> None:
    action, _ = compiled("x")
    with pytest.raises(StepFailure) as caught:
        action.run(None, context(None))
    assert not RetryPolicy(limit=9).allows(caught.value, 1)
    assert ACTION.retry(Fail(message="x")) is NEVER
    assert ACTION.shape(Fail(message="x"), frozenset({"a"})) is None


def test_a_message_that_cannot_be_rendered() -> None:
    action, _ = compiled("{{ input.absent }}")
    with pytest.raises(EvaluationError, match="absent"):
        action.run({}, context({}))


def test_a_message_that_does_not_compile() -> None:
    _, problems = compiled("{{ 1 + }}")
    assert len(problems) == 1
    assert problems[0].startswith("fail.message: ")
