"""``fail``: ends the step as failed, with a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NoReturn

from stepwell.domain.retry import NEVER, RetryPolicy, StepFailure

if TYPE_CHECKING:
    from stepwell.domain.action import Compiler, PureAction, Shape
    from stepwell.domain.documents import JsonValue
    from stepwell.domain.expressions import Context
    from stepwell.domain.steps import Fail as Spec
    from stepwell.domain.template import TextTemplate


class Fail:
    """The action type ``fail``."""

    name: ClassVar[str] = "fail"
    effect: ClassVar[bool] = False

    def compile(self, spec: Spec, compiler: Compiler) -> PureAction:
        """Compile the message."""
        return _Failing(compiler.at(".message").text(spec.message))

    def retry(self, spec: Spec) -> RetryPolicy:  # noqa: ARG002 - the protocol's signature
        """Never: it is meant to fail."""
        return NEVER

    def shape(self, spec: Spec, given: Shape) -> Shape:  # noqa: ARG002 - the protocol's signature
        """Nothing: there is no output."""
        return None


class _Failing:
    __slots__ = ("_message",)

    def __init__(self, message: TextTemplate) -> None:
        self._message = message

    def run(self, value: JsonValue, context: Context) -> NoReturn:  # noqa: ARG002 - the protocol's signature
        raise StepFailure("Failed", self._message.render(context), final=True)
