"""The steps of a workflow: what they have in common, and the actions apart from ``httpCall``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict, StringConstraints

from stepwell.domain.http_spec import HttpCall
from stepwell.domain.model import (
    Expression,
    JsonMap,
    JsonTemplate,
    Model,
    Number,
    ObjectName,
    RetryMark,
    Seconds,
    StepName,
    TextTemplate,
    at_most,
    refuse,
)

_FieldPath = Annotated[str, Strict(), StringConstraints(min_length=1, max_length=512)]


class Backoff(Model):
    """The pause before retry n: ``initial`` times ``factor`` to the power of n - 1, at most ``max``."""

    initial: Seconds = 1.0
    factor: Annotated[float, Strict(), Field(ge=1, le=10)] = 2.0
    max: Seconds = 60.0
    jitter: Literal["Full", "None"] = "Full"


class Retry(Model):
    """``limit`` retries; without ``retryOn`` what the action retries by itself."""

    limit: Annotated[Number, Field(ge=0, le=100)] = 3
    backoff: Backoff = Backoff()
    retry_on: Annotated[tuple[RetryMark, ...], at_most(64, at_least=1)] | None = None


class ForEach(Model):
    """Runs the step once per item; ``items`` is a list, or text that renders to one."""

    items: JsonTemplate
    max_parallel: Annotated[Number, Field(ge=1, le=50)] = 10
    max_items: Annotated[Number, Field(ge=1, le=10_000)] = 1000


class Transform(Model):
    """Reshapes the input: select, drop and set, in this order, or ``value`` alone."""

    select: Annotated[tuple[_FieldPath, ...], at_most(256)] | None = None
    drop: Annotated[tuple[_FieldPath, ...], at_most(256)] | None = None
    set: Annotated[JsonMap, at_most(256)] | None = None
    value: JsonTemplate = None

    def model_post_init(self, _context: Any, /) -> None:
        """``value`` stands alone; something must be there."""
        others = [name for name in ("select", "drop", "set") if getattr(self, name) is not None]
        if self.value is not None and others:
            refuse(f"value stands alone; take {' and '.join(others)} away, or write set instead of value")
        if self.value is None and not others:
            refuse("one of select, drop, set or value must be set")


class Wait(Model):
    """Pauses the run for a duration, or until a time (RFC 3339)."""

    duration: Seconds | None = None
    until: TextTemplate | None = None

    exactly_one: ClassVar = ("duration", "until")


class Approval(Model):
    """Waits for a person's decision."""

    message: TextTemplate | None = None
    timeout: Seconds | None = None
    on_timeout: Literal["Reject", "Approve", "Fail"] = "Reject"
    link: Literal["Disabled", "Enabled"] = "Disabled"


class ChildWorkflow(Model):
    """Starts a run of another workflow of the namespace."""

    name: ObjectName
    input: JsonTemplate = None
    mode: Literal["Wait", "Start"] = "Wait"


class Fail(Model):
    """Ends the step as failed."""

    message: TextTemplate


class PluginCall(Model):
    """Calls a plug-in of the entry-point group ``stepwell.actions``."""

    type: Annotated[
        str, Strict(), StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,62}$")
    ]
    with_: JsonMap | None = Field(default=None, alias="with")


class Step(Model):
    """One step with exactly one action. ``needs`` is None where the step follows the one before it."""

    name: StepName
    needs: Annotated[tuple[StepName, ...], at_most(16)] | None = None
    if_: Expression | None = Field(default=None, alias="if")
    for_each: ForEach | None = None
    retry: Retry | None = None
    on_error: Literal["Fail", "Continue"] = "Fail"
    timeout: Seconds | None = None
    transform: Transform | None = None
    http_call: HttpCall | None = None
    wait: Wait | None = None
    approval: Approval | None = None
    workflow: ChildWorkflow | None = None
    fail: Fail | None = None
    action: PluginCall | None = None

    exactly_one: ClassVar = ("transform", "http_call", "wait", "approval", "workflow", "fail", "action")

    @property
    def kind(self) -> str:
        """The action's name in a manifest, such as ``httpCall``."""
        return self.word(self.chosen())

    @property
    def spec(self) -> Model:
        """The action's own model."""
        model: Model = getattr(self, self.chosen())
        return model

    def model_post_init(self, _context: Any, /) -> None:
        """Only an action that calls out has a timeout of its own."""
        self._check_exactly_one()
        if self.timeout is not None and self.http_call is None and self.action is None:
            message = f"timeout is for httpCall and action only, not for {self.kind}; take it away"
            refuse(message)
