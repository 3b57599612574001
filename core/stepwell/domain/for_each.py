"""`forEach`: a step that runs once for each item of a list, as it is stated and as it is compiled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stepwell.domain.placeholders import PlaceholderError, split, whole
from stepwell.domain.retry import StepFailure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.domain.action import Compiler
    from stepwell.domain.documents import JsonObject, JsonValue
    from stepwell.domain.expressions import Context
    from stepwell.domain.steps import ForEach as Stated
    from stepwell.domain.steps import Step
    from stepwell.domain.template import Template

ITEM = frozenset({"item", "index"})
"""What the expressions of such a step read beside the variables of every step, but for `if` and `items`."""

ONCE = frozenset({"wait", "approval"})
"""Actions that are not run for each item: the run pauses once, before the step or behind it."""


@dataclass(frozen=True, slots=True)
class ForEach:
    """``parallel`` items at most are under way at once; a list of more than ``most`` fails the step."""

    items: Template
    parallel: int
    most: int

    def values(self, context: Context) -> Sequence[JsonValue]:
        """The items. Raises EvaluationError, and StepFailure for what is no list or too long."""
        found = self.items.render(context)
        if not isinstance(found, list):
            kinds = {bool: "a boolean", int: "a number", float: "a number", str: "text", dict: "an object"}
            kind = "null" if found is None else kinds[type(found)]
            message = f"forEach.items is to be a list, and it is {kind}"
            raise StepFailure("InvalidItems", message, final=True)
        if len(found) > self.most:
            message = f"forEach.items has {len(found):,} items; maxItems allows {self.most:,}"
            raise StepFailure("TooManyItems", message, final=True)
        return found


def compile_for_each(step: Step, compiler: Compiler) -> ForEach | None:
    """What a step states, whose place is that of ``compiler``; what can never be a list is a problem. The list is made
    before there are items, so its expressions read none.
    """
    stated = step.for_each
    if stated is None:
        return None
    if step.kind in ONCE:
        message = f"{step.kind} is not run for each item; put a step with {step.kind} before or behind this one"
        compiler.refuse(message, ".forEach")
    scope = replace(compiler.scope, variables=compiler.scope.variables - ITEM)
    below = replace(compiler, scope=scope).at(".forEach.items")
    _check(stated, below)
    return ForEach(below.template(stated.items), int(stated.max_parallel), int(stated.max_items))


def _check(stated: Stated, compiler: Compiler) -> None:
    items = stated.items
    if isinstance(items, list):
        if len(items) > stated.max_items:
            compiler.refuse(f"has {len(items):,} items; maxItems allows {stated.max_items:,}")
    elif not isinstance(items, str) or not _is_expression(items):
        compiler.refuse('must be a list, or one "{{ expression }}" that gives a list')


def _is_expression(text: str) -> bool:
    try:
        return whole(split(text)) is not None
    except PlaceholderError:
        return True  # whoever compiles the text says what is wrong with it


def item_error(index: int, error: JsonObject) -> JsonObject:
    """The error of a step of which one item failed for good, by the error of that item."""
    return {**error, "message": f"item {index}: {error.get('message', '')}", "index": index}


def items_error(failed: int, of: int, index: int, error: JsonObject) -> JsonObject:
    """What a step tells that went on though items failed; ``index`` is the first of them, ``error`` its error."""
    message = f"{failed:,} of {of:,} items failed, first item {index}: {error.get('message', '')}"
    return {"reason": "ItemsFailed", "message": message, "index": index, "failed": failed}
