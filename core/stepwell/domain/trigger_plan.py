"""A trigger, compiled: whether it starts a run, with which input and under which idempotency key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepwell.domain.action import Compiler
from stepwell.domain.errors import EvaluationError
from stepwell.domain.scope import TRIGGER_VARIABLES, Scope

if TYPE_CHECKING:
    from stepwell.domain.documents import JsonObject, JsonValue
    from stepwell.domain.errors import Problem
    from stepwell.domain.expressions import Context, Expression
    from stepwell.domain.template import Template, TextTemplate
    from stepwell.domain.triggers import Trigger

MAX_KEY_BYTES = 256  # as the table of keys has it

_CRON = frozenset({"trigger"})


@dataclass(frozen=True, slots=True)
class TriggerPlan:
    """A compiled trigger; ``spec`` is what it was compiled from. Part of a Revision, so compiled once a revision.

    The methods raise EvaluationError. ``variables`` are those of TRIGGER_VARIABLES that its expressions read.
    """

    spec: Trigger
    condition: Expression | None
    input: Template | None
    key: TextTemplate | None
    variables: frozenset[str]

    @property
    def name(self) -> str:
        """The trigger's name: the door that its runs come through."""
        return self.spec.name

    def admits(self, context: Context) -> bool:
        """Whether ``if`` lets it start a run; without one it always does."""
        return self.condition is None or self.condition.test(context)

    def input_of(self, context: Context, default: JsonValue) -> JsonObject:
        """The run's input, not yet held against the schema; ``default`` where the trigger has no template."""
        value = default if self.input is None else self.input.render(context)
        if not isinstance(value, dict):
            message = "the input of a run is an object; the trigger's input made something else"
            raise EvaluationError(message)
        return value

    def key_of(self, context: Context) -> str | None:
        """The idempotency key, None where the trigger states none."""
        if self.key is None:
            return None
        key = self.key.render(context)
        if not key or len(key.encode()) > MAX_KEY_BYTES or "\0" in key:
            message = (
                f"idempotencyKey: a key has 1 to {MAX_KEY_BYTES} bytes without NUL; use sha256(…) for a longer one"
            )
            raise EvaluationError(message)
        return key


def compile_trigger(trigger: Trigger, path: str, problems: list[Problem]) -> TriggerPlan:
    """Compile the trigger at ``path``; with problems the plan is not to be used."""
    compiler = Compiler(Scope(_CRON if trigger.cron else TRIGGER_VARIABLES), path, problems)
    condition = template = key = None
    if trigger.if_ is not None:
        condition = compiler.at(".if").expression(trigger.if_)
    if trigger.input is not None:
        if not isinstance(trigger.input, dict | str):
            compiler.refuse("the input of a run is an object: write a map of templates, or '{{ … }}'", ".input")
        template = compiler.at(".input").template(trigger.input)
    if trigger.idempotency_key is not None:
        key = compiler.at(".idempotencyKey").text(trigger.idempotency_key)
    return TriggerPlan(trigger, condition, template, key, frozenset(compiler.variables))
