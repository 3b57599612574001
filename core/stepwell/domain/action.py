"""What a step's action is to the engine: one Protocol for pure actions, one for those with an effect.

A pure action (``transform``, ``fail``) computes its output from its input and may be replayed at will. One that pauses
(``wait``) computes a moment. An action with an effect renders a request first (pure, the same bytes at every attempt) and
then performs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Protocol, TypeAlias

from stepwell.domain.documents import JsonObject, JsonValue
from stepwell.domain.errors import ExpressionError, Problem
from stepwell.domain.expressions import Context, Expression, Scope, compile_expression
from stepwell.domain.retry import NEVER, RetryPolicy
from stepwell.domain.template import Template, TextTemplate, compile_template, compile_text

Shape: TypeAlias = "frozenset[str] | None"
"""The names of an object's fields where they are known at apply, else None."""


@dataclass(slots=True)
class Compiler:
    """Compiles the expressions of one place of a manifest and gathers every problem under its path.

    After a problem the returned object must not be used: who compiles a whole revision raises the problems at the end.
    ``step`` is the name of the step whose field it is, if it is one's.
    """

    scope: Scope
    path: str
    problems: list[Problem]
    variables: set[str] = field(default_factory=set)
    step: str = ""

    def at(self, suffix: str) -> Compiler:
        """The same for a field below this one; ``suffix`` as in ``.url`` or ``[2]``."""
        return Compiler(self.scope, self.path + suffix, self.problems, self.variables, self.step)

    def refuse(self, message: str, suffix: str = "") -> None:
        """Note a problem."""
        self.problems.append(Problem(self.path + suffix, message))

    def expression(self, text: str) -> Expression:
        """Compile a CEL expression."""
        try:
            compiled = compile_expression(text, self.scope)
        except ExpressionError as exc:
            self.refuse(str(exc))
            return Expression.__new__(Expression)
        self.variables |= compiled.variables
        return compiled

    def template(self, value: JsonValue) -> Template:
        """Compile a JSON template."""
        compiled = compile_template(value, self.scope, self._report)
        self.variables |= compiled.variables
        return compiled

    def text(self, text: str) -> TextTemplate:
        """Compile a text template."""
        compiled = compile_text(text, self.scope, self._report)
        self.variables |= compiled.variables
        return compiled

    def _report(self, suffix: str, message: str) -> None:
        self.refuse(message, suffix)


class PureAction(Protocol):
    """A compiled action without an effect."""

    def run(self, value: JsonValue, context: Context) -> JsonValue:
        """The output for the step's input. Raises EvaluationError or StepFailure."""


class PauseAction(Protocol):
    """A compiled action that lets time pass; its output is null."""

    def until(self, value: JsonValue, context: Context) -> datetime:
        """When the step is over; the same at every replay. Raises EvaluationError or StepFailure."""


@dataclass(frozen=True, slots=True)
class Call:
    """What an effect is told about its attempt; ``timeout`` in seconds, for the whole attempt.

    ``now`` is the database's time at its begin, ``since`` the moment from which the step could have begun: the finish of
    the step before. Both in microseconds. ``item`` is the index of the item that it is for, of a step with `forEach`.
    """

    namespace: str
    workflow: str
    run_id: str
    step: str
    attempt: int
    timeout: float
    idempotency_key: str
    now: int = 0
    since: int = 0
    item: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an effect: its output and what stands beside it as ``steps.<name>.http``."""

    output: JsonValue
    http: JsonObject | None = None


class Deferred(Exception):  # noqa: N818 - neither a failure nor an end
    """What an effect raises that waits for something: it is performed again once the run is woken.

    ``due``: and at this time in microseconds (None: it waits for as long as the run may last). Nothing is recorded of it.
    """

    def __init__(self, due: int | None = None) -> None:
        super().__init__(due)
        self.due = due


class EffectAction(Protocol):
    """A compiled action that acts on the world."""

    def render(self, value: JsonValue, context: Context) -> Any:
        """The request; the same for every attempt. Raises EvaluationError or StepFailure."""

    async def perform(self, request: Any, call: Call, context: Context) -> Outcome:
        """Act once. Raises StepFailure, or Deferred; a cancelled task must leave nothing open."""


class ActionType(Protocol):
    """An action by its name in a step, such as ``transform``."""

    name: ClassVar[str]
    effect: ClassVar[bool]

    def compile(self, spec: Any, compiler: Compiler) -> PureAction | PauseAction | EffectAction:
        """Compile the action's part of a step (a model of stepwell.domain.spec); problems go to the compiler."""

    def retry(self, spec: Any) -> RetryPolicy:  # noqa: ARG002 - for those who need it
        """The policy where neither the step nor the workflow sets one."""
        return NEVER

    def shape(self, spec: Any, given: Shape) -> Shape:  # noqa: ARG002 - for those who need it
        """The fields of the output, given those of the input."""
        return None


Actions: TypeAlias = Mapping[str, ActionType]
