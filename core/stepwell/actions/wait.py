"""``wait``: pauses the run for a duration, or until a time. Nothing is held meanwhile, not even a slot.

Nothing is recorded at its begin either: the moment follows from what is durable, the finish of the step before, so every
worker that takes the run over finds the same one.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

from stepwell.domain.retry import NEVER, RetryPolicy, StepFailure

if TYPE_CHECKING:
    from stepwell.domain.action import Compiler, PauseAction, Shape
    from stepwell.domain.documents import JsonValue
    from stepwell.domain.expressions import Context
    from stepwell.domain.steps import Wait as Spec
    from stepwell.domain.template import TextTemplate


class Wait:
    """The action type ``wait``."""

    name: ClassVar[str] = "wait"
    effect: ClassVar[bool] = False

    def compile(self, spec: Spec, compiler: Compiler) -> PauseAction:
        """Compile the moment."""
        if spec.until is not None:
            return _Until(compiler.at(".until").text(spec.until))
        return _For(timedelta(seconds=spec.duration or 0.0))

    def retry(self, spec: Spec) -> RetryPolicy:  # noqa: ARG002 - the protocol's signature
        """Never: a moment that cannot be read stays so."""
        return NEVER

    def shape(self, spec: Spec, given: Shape) -> Shape:  # noqa: ARG002 - the protocol's signature
        """What it hands on is its input."""
        return given


class _For:
    __slots__ = ("_duration",)

    def __init__(self, duration: timedelta) -> None:
        self._duration = duration

    def until(self, value: JsonValue, context: Context) -> datetime:  # noqa: ARG002 - the protocol's signature
        return context.now + self._duration


class _Until:
    __slots__ = ("_moment",)

    def __init__(self, moment: TextTemplate) -> None:
        self._moment = moment

    def until(self, value: JsonValue, context: Context) -> datetime:  # noqa: ARG002 - the protocol's signature
        text = self._moment.render(context)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None or len(text) < len("2026-01-31T08:00Z"):
            message = f"until: {text[:100]!r} is no time with its zone, such as 2026-01-31T08:00:00Z"
            raise StepFailure("InvalidTime", message, final=True)
        return moment
