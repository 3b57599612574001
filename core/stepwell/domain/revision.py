"""A revision: one immutable version of a workflow, compiled and ready to run."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from stepwell.domain.action import EffectAction, PauseAction, PureAction
from stepwell.domain.expressions import Expression
from stepwell.domain.for_each import ForEach
from stepwell.domain.retry import RetryPolicy
from stepwell.domain.schema import InputSchema
from stepwell.domain.template import Template
from stepwell.domain.trigger_plan import TriggerPlan


class Part(IntEnum):
    """The lists of steps of a workflow, in the order in which a run comes to them."""

    STEPS = 0
    ON_FAILURE = 1
    FINALLY = 2

    @property
    def word(self) -> str:
        """The list's name in a manifest."""
        return ("steps", "onFailure", "finally")[self]


@dataclass(frozen=True, slots=True)
class Step:
    """One compiled step. Sets of steps are bit masks over their positions among all steps of the revision.

    ``needs`` are the direct predecessors in the order of the manifest and ``direct`` their mask; ``ancestors`` is the mask of
    all transitive ones; ``variables`` is
    what its expressions read; ``timeout`` is of one attempt, in seconds. ``pause``: its action is a PauseAction.
    ``hands_on``: it hands on its own input, not its output. ``part`` is the list that it stands in: what it needs stands
    there, too. ``for_each``: its action is run for each item of a list.
    """

    index: int
    name: str
    kind: str
    needs: tuple[int, ...]
    direct: int
    ancestors: int
    condition: Expression | None
    action: PureAction | PauseAction | EffectAction
    effect: bool
    retry: RetryPolicy
    timeout: float
    continue_on_error: bool
    variables: frozenset[str]
    pause: bool = False
    hands_on: bool = False
    part: Part = Part.STEPS
    for_each: ForEach | None = None

    @property
    def bit(self) -> int:
        """The step's own bit in a mask."""
        return 1 << self.index


@dataclass(frozen=True, slots=True)
class Revision:
    """A workflow's compiled spec; ``timeout`` of the whole run and retention times in seconds.

    ``steps`` are those of all lists, one list after the other; ``parts`` has the mask of each list. ``links``: a step makes
    links to approvals, which must not be stored.
    """

    steps: tuple[Step, ...]
    output: Template | None
    input_schema: InputSchema | None
    timeout: float
    priority: str
    retain_succeeded: float
    retain_failed: float
    triggers: tuple[TriggerPlan, ...] = ()
    links: bool = False
    parts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        masks = [sum(step.bit for step in self.steps if step.part is part) for part in Part]
        object.__setattr__(self, "parts", tuple(masks))

    @property
    def all(self) -> int:
        """The mask of ``spec.steps``."""
        return self.parts[Part.STEPS]

    @property
    def main(self) -> tuple[Step, ...]:
        """The steps of ``spec.steps``."""
        return self.steps[: self.all.bit_length()]
