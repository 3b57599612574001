"""Which answers an ``httpCall`` takes for a success.

Within ``expect.if``, ``steps.<the step's own name>`` is what the record will be if the answer is accepted: its ``output``
and ``http``. No other expression sees it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Self

from stepwell.actions.http_answer import answered
from stepwell.domain.action import Compiler, Outcome
from stepwell.domain.errors import EvaluationError
from stepwell.domain.expressions import Context, Expression
from stepwell.domain.retry import StepFailure

if TYPE_CHECKING:
    from stepwell.domain.documents import JsonValue
    from stepwell.domain.http import HttpRequest, HttpResponse
    from stepwell.domain.http_spec import Expect
    from stepwell.domain.masking import Mask

_SHOWN = 120  # characters of the expression in a message


class Expectation:
    """The compiled ``expect`` of one step."""

    __slots__ = ("_condition", "_statuses", "_step")

    def __init__(self, statuses: frozenset[int | str], condition: Expression | None, step: str) -> None:
        self._statuses = statuses
        self._condition = condition
        self._step = step

    @classmethod
    def compile(cls, spec: Expect, compiler: Compiler) -> Self:
        """Compile the condition; problems go to the compiler, whose path is that of ``expect``."""
        condition = None
        if spec.if_ is not None:
            own = frozenset({compiler.step} - {""})
            scope = replace(compiler.scope, steps=compiler.scope.steps | own, declared=compiler.scope.declared | own)
            condition = replace(compiler, scope=scope).at(".if").expression(spec.if_)
        return cls(frozenset(spec.status), condition, compiler.step)

    def takes(self, status: int) -> bool:
        """Whether the status is an expected one."""
        return status in self._statuses or f"{status // 100}xx" in self._statuses

    def check(
        self, outcome: Outcome, context: Context, request: HttpRequest, response: HttpResponse, mask: Mask
    ) -> None:
        """Raise StepFailure where the condition is not met; one that reads what is absent is not.

        The failure is retried where ``retryOn`` lists ``Error``: so a step can wait for a state.
        """
        if self._condition is None:
            return
        why = "is false"
        try:
            if self._condition.test(self._context(outcome, context)):
                return
        except EvaluationError as exc:
            why = f"fails: {exc}"
        text = self._condition.text
        shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
        message = f"{answered(request, response, mask)}; expect.if ({shown}) {why}"
        raise StepFailure("ExpectationFailed", message, http=outcome.http)

    def _context(self, outcome: Outcome, context: Context) -> Context:
        own: JsonValue = {"output": outcome.output, "http": outcome.http, "status": "Succeeded", "error": None}
        before = context.variables.get("steps")
        steps: JsonValue = {**(before if isinstance(before, dict) else {}), self._step: own}
        return Context({**context.variables, "steps": steps}, now=context.now)
