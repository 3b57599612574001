"""``approval``: asks a person, and holds nothing until somebody decided.

To ask and to look are one and the same: the step is performed again whenever the run is woken, and once when the
question's time runs out. A rejection is an answer, not a failure: the steps that follow read ``steps.<name>.output.approved``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from stepwell.domain.action import Deferred, Outcome
from stepwell.domain.approvals import Decision, Question
from stepwell.domain.errors import UnavailableError
from stepwell.domain.retry import NEVER, RetryPolicy, StepFailure

if TYPE_CHECKING:
    from stepwell.domain.action import Call, Compiler, EffectAction, Shape
    from stepwell.domain.approvals import Questions
    from stepwell.domain.documents import JsonValue
    from stepwell.domain.expressions import Context
    from stepwell.domain.steps import Approval as Spec
    from stepwell.domain.template import TextTemplate

AGAIN = 1_000_000  # microseconds until a database that did not answer is asked again
MAX_MESSAGE = 4096  # characters

_TIMED_OUT = {"Approve": True, "Reject": False}


class Approval:
    """The action type ``approval``. Without ``questions`` it serves to validate only."""

    name: ClassVar[str] = "approval"
    effect: ClassVar[bool] = True

    def __init__(self, questions: Questions | None = None) -> None:
        self._questions = questions

    def compile(self, spec: Spec, compiler: Compiler) -> EffectAction:
        """Compile the message."""
        message = None if spec.message is None else compiler.at(".message").text(spec.message)
        return _Asking(self._questions, message, spec.timeout, spec.on_timeout)

    def retry(self, spec: Spec) -> RetryPolicy:  # noqa: ARG002 - the protocol's signature
        """Never: nothing of it fails and would succeed later."""
        return NEVER

    def shape(self, spec: Spec, given: Shape) -> Shape:  # noqa: ARG002 - the protocol's signature
        """What it hands on is its input."""
        return given


@dataclass(frozen=True, slots=True)
class _Asking:
    questions: Questions | None
    message: TextTemplate | None
    timeout: float | None
    on_timeout: str

    def render(self, value: JsonValue, context: Context) -> str | None:  # noqa: ARG002 - the protocol's signature
        return None if self.message is None else self.message.render(context)[:MAX_MESSAGE].replace("\0", "")

    async def perform(self, request: str | None, call: Call, context: Context) -> Outcome:  # noqa: ARG002 - as above
        if self.questions is None:
            raise StepFailure("NotConfigured", "this process keeps no approvals", final=True)
        due = None if self.timeout is None else call.since + int(self.timeout * 1e6)
        question = Question(call.run_id, call.step, call.namespace, call.workflow, request, opened=call.since, due=due)
        try:
            decision = await self.questions.ask(question)
            if decision is None and due is not None and call.now >= due:
                decision = await self._expired(self.questions, question)
        except UnavailableError as exc:
            raise Deferred(call.now + AGAIN) from exc
        if decision is None:
            raise Deferred(due)
        if decision.by is None and self.on_timeout == "Fail":
            raise StepFailure("ApprovalTimedOut", f"nobody decided within {self.timeout:g} s", final=True)
        answer: JsonValue = {
            "approved": decision.approved,
            "by": decision.by,
            "comment": decision.comment,
            "data": decision.data,
        }
        return Outcome(answer)

    async def _expired(self, questions: Questions, question: Question) -> Decision:
        approved = _TIMED_OUT.get(self.on_timeout, False)
        return await questions.expire(question, Decision(approved, comment="nobody decided in time"))
