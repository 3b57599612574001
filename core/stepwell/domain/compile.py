"""From a spec to a revision that can run; every problem of the whole spec is found, not only the first."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import orjson

from stepwell.domain.action import Compiler
from stepwell.domain.errors import ManifestError, Problem
from stepwell.domain.expressions import Expression, Scope
from stepwell.domain.graph import Graph, build_graph, direct_needs, find_cycle
from stepwell.domain.retry import NEVER, RetryPolicy
from stepwell.domain.revision import Revision
from stepwell.domain.revision import Step as CompiledStep
from stepwell.domain.schema import InputSchema, compile_schema
from stepwell.domain.schema_rules import hint
from stepwell.domain.scope import LINKS
from stepwell.domain.spec import WorkflowSpec
from stepwell.domain.support import NOT_YET, unsupported
from stepwell.domain.trigger_plan import compile_trigger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.domain.action import Actions, ActionType, EffectAction, PauseAction, PureAction, Shape
    from stepwell.domain.documents import JsonObject
    from stepwell.domain.steps import Retry, Step
    from stepwell.domain.template import Template

ATTEMPT_TIMEOUT = 30.0  # seconds, where a step states none
HAND_ON = frozenset({"wait", "approval"})  # what comes after these gets what came before them

_STEP = frozenset({"input", "run", "steps"})
_ITEM = frozenset({"item", "index"})


def compile_revision(spec: WorkflowSpec, actions: Actions, path: str = "spec") -> Revision:
    """Compile a spec whose place is ``path``. Raises ManifestError with every problem, in the order of the fields."""
    compilation = Compilation(spec, actions, path)
    revision = compilation.run()
    if compilation.problems:
        raise ManifestError(list(dict.fromkeys(compilation.problems)))
    return revision


def revision_hash(spec: WorkflowSpec | JsonObject) -> bytes:
    """SHA-256 over the spec without the fields that equal their defaults, so that a new optional field changes none."""
    model = spec if isinstance(spec, WorkflowSpec) else WorkflowSpec.model_validate(spec)
    stated = model.model_dump(by_alias=True, exclude_defaults=True)
    return hashlib.sha256(orjson.dumps(stated, option=orjson.OPT_SORT_KEYS)).digest()


@dataclass(slots=True)
class Compilation:
    """The work on one spec; ``problems`` fills up on the way."""

    spec: WorkflowSpec
    actions: Actions
    path: str
    problems: list[Problem] = field(default_factory=list)
    links: frozenset[str] = frozenset()

    def run(self) -> Revision:
        """Compile everything; the result is not to be used where there are problems."""
        spec = self.spec
        schema = self._schema()
        self._names()
        self.links = frozenset(s.name for s in spec.steps if s.approval is not None and s.approval.link == "Enabled")
        triggers = tuple(
            compile_trigger(trigger, f"{self.path}.triggers[{index}]", self.problems)
            for index, trigger in enumerate(spec.triggers)
        )
        steps = self._steps(schema.fields if schema else None)
        output = self._output()
        self.problems += unsupported(spec, self.path)
        return Revision(
            steps=steps,
            output=output,
            input_schema=schema,
            triggers=triggers,
            timeout=spec.timeout,
            priority=spec.priority,
            retain_succeeded=spec.retention.succeeded,
            retain_failed=spec.retention.failed,
            links=any(LINKS in step.variables for step in steps),
        )

    def refuse(self, path: str, message: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(path, message))

    def _schema(self) -> InputSchema | None:
        if self.spec.input_schema is None:
            return None
        place = f"{self.path}.inputSchema"
        return compile_schema(self.spec.input_schema, lambda below, message: self.refuse(place + below, message))

    def _names(self) -> None:
        seen: dict[str, str] = {}
        lists = {"steps": self.spec.steps, "onFailure": self.spec.on_failure, "finally": self.spec.finally_}
        for word, steps in lists.items():
            for index, step in enumerate(steps):
                place = f"{self.path}.{word}[{index}].name"
                if step.name in seen:
                    self.refuse(place, f"the name {step.name!r} is taken by {seen[step.name]}; choose another")
                seen.setdefault(step.name, place.removesuffix(".name"))
        names: set[str] = set()
        for index, trigger in enumerate(self.spec.triggers):
            if trigger.name in names:
                self.refuse(f"{self.path}.triggers[{index}].name", f"there are two triggers {trigger.name!r}")
            names.add(trigger.name)

    # -- output -------------------------------------------------------------------------------------------------------

    def _output(self) -> Template | None:
        if self.spec.output is None:
            return None
        names = frozenset(step.name for step in self.spec.steps)
        scope = Scope(_STEP, steps=names, declared=names)
        return Compiler(scope, f"{self.path}.output", self.problems).template(self.spec.output)

    # -- steps --------------------------------------------------------------------------------------------------------

    def _steps(self, fields: Shape) -> tuple[CompiledStep, ...]:
        steps = self.spec.steps
        graph = self._graph(steps, f"{self.path}.steps")
        given: dict[int, Shape] = {}
        handed: dict[int, Shape] = {}
        for index in graph.order:
            given[index] = self._input_shape(graph.needs[index], handed, fields)
            handed[index] = self._handed_shape(steps[index], given[index])
        return tuple(self._step(index, graph, given[index]) for index in range(len(steps)))

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
            if need not in names:
                self.refuse(f"{path}[{index}]", f"there is no step {need!r}{hint(need, names)}")
            elif need in (step.needs or ())[:index]:
                self.refuse(f"{path}[{index}]", f"{need!r} is named twice")

    def _input_shape(self, needs: Sequence[int], handed: dict[int, Shape], fields: Shape) -> Shape:
        if not needs:
            return fields
        if len(needs) == 1:
            return handed.get(needs[0])
        return frozenset(self.spec.steps[need].name for need in needs)

    def _handed_shape(self, step: Step, given: Shape) -> Shape:
        """What the next step gets: the output, or the step's own input where it may have been skipped or have failed."""
        action = self.actions.get(step.kind)
        if step.for_each is not None or action is None:
            return None
        shape = action.shape(step.spec, given)
        if step.if_ is None and step.on_error == "Fail":
            return shape
        return None if shape is None or given is None else shape | given

    def _step(self, index: int, graph: Graph, shape: Shape) -> CompiledStep:
        step = self.spec.steps[index]
        names = [other.name for other in self.spec.steps]
        before = frozenset(name for other, name in enumerate(names) if graph.ancestors[index] >> other & 1)
        scope = Scope(
            _STEP | _ITEM if step.for_each else _STEP,
            before,
            frozenset(names),
            bare=True,
            fields=shape,
            links=self.links,
        )
        compiler = Compiler(scope, f"{self.path}.steps[{index}]", self.problems, step=step.name)
        condition = self._condition(step, compiler)
        action_type = self.actions.get(step.kind)
        return CompiledStep(
            index=index,
            name=step.name,
            kind=step.kind,
            needs=graph.needs[index],
            direct=sum(1 << need for need in graph.needs[index]),
            ancestors=graph.ancestors[index],
            condition=condition,
            action=self._action(step, action_type, compiler),
            effect=action_type is not None and action_type.effect,
            retry=retry_policy(step.retry or self.spec.retry, action_type.retry(step.spec) if action_type else NEVER),
            timeout=step.timeout or ATTEMPT_TIMEOUT,
            continue_on_error=step.on_error == "Continue",
            variables=frozenset(compiler.variables),
            pause=step.kind == "wait",
            hands_on=step.kind in HAND_ON,
        )

    def _condition(self, step: Step, compiler: Compiler) -> Expression | None:
        """The condition decides on the whole step, so it sees no item."""
        if step.if_ is None:
            return None
        scope = replace(compiler.scope, variables=_STEP)
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
