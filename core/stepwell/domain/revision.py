"""A revision: one immutable version of a workflow, compiled and ready to run."""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.domain.action import EffectAction, PauseAction, PureAction
from stepwell.domain.expressions import Expression
from stepwell.domain.retry import RetryPolicy
from stepwell.domain.schema import InputSchema
from stepwell.domain.template import Template
from stepwell.domain.trigger_plan import TriggerPlan


@dataclass(frozen=True, slots=True)
class Step:
    """One compiled step. Sets of steps are bit masks over their positions in the list.

    ``needs`` are the direct predecessors in the order of the manifest and ``direct`` their mask; ``ancestors`` is the mask of
    all transitive ones; ``variables`` is
    what its expressions read; ``timeout`` is of one attempt, in seconds. ``pause``: its action is a PauseAction.
    ``hands_on``: it hands on its own input, not its output.
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

    @property
    def bit(self) -> int:
        """The step's own bit in a mask."""
        return 1 << self.index


@dataclass(frozen=True, slots=True)
class Revision:
    """A workflow's compiled spec; ``timeout`` of the whole run and retention times in seconds.

    ``links``: a step makes links to approvals, which must not be stored.
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

    @property
    def all(self) -> int:
        """The mask of all steps."""
        return (1 << len(self.steps)) - 1
