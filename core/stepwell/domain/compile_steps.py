"""From one list of steps to compiled ones: `steps`, `onFailure` or `finally` of a workflow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stepwell.domain.action import Compiler
from stepwell.domain.errors import Problem
from stepwell.domain.expressions import Expression, Scope
from stepwell.domain.for_each import ITEM, compile_for_each
from stepwell.domain.graph import Graph, build_graph, direct_needs, find_cycle
from stepwell.domain.retry import NEVER, RetryPolicy
from stepwell.domain.revision import Part
from stepwell.domain.revision import Step as CompiledStep
from stepwell.domain.schema_rules import hint
from stepwell.domain.support import NOT_YET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.domain.action import Actions, ActionType, EffectAction, PauseAction, PureAction, Shape
    from stepwell.domain.steps import Retry, Step

ATTEMPT_TIMEOUT = 30.0  # seconds, where a step states none
HAND_ON = frozenset({"wait", "approval"})  # what comes after these gets what came before them
VARIABLES = frozenset({"input", "run", "steps"})

_ERROR = frozenset({"error"})


@dataclass(frozen=True, slots=True)
class Names:
    """What there is around a list: ``first`` is the position of its first step among all of the workflow, ``before`` are the
    steps that its expressions may read beside those of the list, and ``declared`` all that there are.
    """

    first: int
    before: frozenset[str]
    declared: frozenset[str]


@dataclass(frozen=True, slots=True)
class StepList:
    """A list and what it is compiled with; ``path`` is the spec's, ``retry`` what the workflow states for every step."""

    part: Part
    steps: Sequence[Step]
    names: Names
    retry: Retry | None
    actions: Actions
    path: str
    problems: list[Problem]

    def compile(self, fields: Shape) -> list[CompiledStep]:
        """The compiled steps; ``fields`` are those of the run's input. Not to be used where there are problems."""
        graph = self._graph(self.steps, f"{self.path}.{self.part.word}")
        given = self._shapes(graph, fields)
        return [self._step(index, graph, given[index]) for index in range(len(self.steps))]

    def refuse(self, path: str, message: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(path, message))

    def _graph(self, steps: Sequence[Step], path: str) -> Graph:
        names = [step.name for step in steps]
        for index, step in enumerate(steps):
            self._check_needs(step, names, f"{path}[{index}].needs")
        needs = direct_needs(names, [step.needs for step in steps])
        cycle = find_cycle(needs)
        if cycle is None:
            return build_graph(needs)
        way = " → ".join(names[index] for index in cycle)
        self.refuse(f"{path}[{cycle[0]}].needs", f"the steps wait for each other in a circle: {way}")
        # what follows still finds the other problems; every step counts as a predecessor so that none is blamed twice
        everything = (1 << len(names)) - 1
        return Graph(needs, (everything,) * len(names), tuple(range(len(names))))

    def _check_needs(self, step: Step, names: Sequence[str], path: str) -> None:
        for index, need in enumerate(step.needs or ()):
            if need not in names and need in self.names.declared:
                message = f"step {need!r} is not of {self.part.word}; a step needs steps of its own list only"
                self.refuse(f"{path}[{index}]", message)
            elif need not in names:
                self.refuse(f"{path}[{index}]", f"there is no step {need!r}{hint(need, names)}")
            elif need in (step.needs or ())[:index]:
                self.refuse(f"{path}[{index}]", f"{need!r} is named twice")

    # -- what a step is given -----------------------------------------------------------------------------------------

    def _shapes(self, graph: Graph, fields: Shape) -> dict[int, Shape]:
        """The fields of each step's input. Every handler's is the run's input."""
        if self.part:
            return dict.fromkeys(range(len(self.steps)), fields)
        given: dict[int, Shape] = {}
        handed: dict[int, Shape] = {}
        for index in graph.order:
            given[index] = self._input_shape(graph.needs[index], handed, fields)
            handed[index] = self._handed_shape(self.steps[index], given[index])
        return given

    def _input_shape(self, needs: Sequence[int], handed: dict[int, Shape], fields: Shape) -> Shape:
        if not needs:
            return fields
        if len(needs) == 1:
            return handed.get(needs[0])
        return frozenset(self.steps[need].name for need in needs)

    def _handed_shape(self, step: Step, given: Shape) -> Shape:
        """What the next step gets: the output, or the step's own input where it may have been skipped or have failed."""
        action = self.actions.get(step.kind)
        if step.for_each is not None or action is None:
            return None
        shape = action.shape(step.spec, given)
        if step.if_ is None and step.on_error == "Fail":
            return shape
        return None if shape is None or given is None else shape | given

    # -- one step -----------------------------------------------------------------------------------------------------

    def _scope(self, index: int, graph: Graph, shape: Shape) -> Scope:
        before = (step.name for other, step in enumerate(self.steps) if graph.ancestors[index] >> other & 1)
        more = ITEM if self.steps[index].for_each else frozenset[str]()
        return Scope(
            VARIABLES | more | (_ERROR if self.part else frozenset()),
            self.names.before.union(before),
            self.names.declared,
            bare=True,
            fields=shape,
            links=frozenset(s.name for s in self.steps if s.approval is not None and s.approval.link == "Enabled"),
        )

    def _step(self, index: int, graph: Graph, shape: Shape) -> CompiledStep:
        step, first = self.steps[index], self.names.first
        scope, place = self._scope(index, graph, shape), f"{self.path}.{self.part.word}[{index}]"
        compiler = Compiler(scope, place, self.problems, step=step.name)
        condition = self._condition(step, compiler)
        for_each = compile_for_each(step, compiler)
        action_type = self.actions.get(step.kind)
        return CompiledStep(
            index=first + index,
            name=step.name,
            kind=step.kind,
            needs=tuple(first + need for need in graph.needs[index]),
            direct=sum(1 << first + need for need in graph.needs[index]),
            ancestors=graph.ancestors[index] << first,
            condition=condition,
            action=self._action(step, action_type, compiler),
            effect=action_type is not None and action_type.effect,
            retry=retry_policy(step.retry or self.retry, action_type.retry(step.spec) if action_type else NEVER),
            timeout=step.timeout or ATTEMPT_TIMEOUT,
            continue_on_error=step.on_error == "Continue",
            variables=frozenset(compiler.variables),
            pause=step.kind == "wait",
            hands_on=step.kind in HAND_ON,
            part=self.part,
            for_each=for_each,
        )

    def _condition(self, step: Step, compiler: Compiler) -> Expression | None:
        """The condition decides on the whole step, so it sees no item."""
        if step.if_ is None:
            return None
        scope = replace(compiler.scope, variables=compiler.scope.variables - ITEM)
        return Compiler(scope, f"{compiler.path}.if", self.problems, compiler.variables).expression(step.if_)

    def _action(
        self, step: Step, action_type: ActionType | None, compiler: Compiler
    ) -> PureAction | PauseAction | EffectAction:
        below = compiler.at(f".{step.kind}")
        if action_type is not None:
            return action_type.compile(step.spec, below)
        if step.kind not in NOT_YET:
            below.refuse(f"no action {step.kind!r} is installed here")
        return _Missing()


class _Missing:
    """Stands where an action could not be compiled; a revision that holds it is never returned."""

    def run(self, value: object, context: object) -> None:
        raise NotImplementedError


def retry_policy(stated: Retry | None, own: RetryPolicy) -> RetryPolicy:
    """What a step or its workflow states, over what the action does by itself."""
    if stated is None:
        return own
    backoff = stated.backoff
    policy = replace(
        own,
        limit=stated.limit,
        initial=backoff.initial,
        factor=backoff.factor,
        maximum=backoff.max,
        full_jitter=backoff.jitter == "Full",
    )
    if stated.retry_on is None:
        return policy
    return replace(policy, retry_on=frozenset(stated.retry_on), retry_unsent_on=frozenset())
