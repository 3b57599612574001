"""From a spec to a revision that can run; every problem of the whole spec is found, not only the first."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from stepwell.domain.action import Compiler
from stepwell.domain.compile_steps import VARIABLES, Names, StepList
from stepwell.domain.errors import ManifestError, Problem
from stepwell.domain.expressions import Scope
from stepwell.domain.revision import Part, Revision
from stepwell.domain.revision import Step as CompiledStep
from stepwell.domain.schema import InputSchema, compile_schema
from stepwell.domain.scope import LINKS
from stepwell.domain.spec import WorkflowSpec
from stepwell.domain.support import unsupported
from stepwell.domain.trigger_plan import compile_trigger

if TYPE_CHECKING:
    from stepwell.domain.action import Actions, Shape
    from stepwell.domain.documents import JsonObject
    from stepwell.domain.template import Template


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

    def run(self) -> Revision:
        """Compile everything; the result is not to be used where there are problems."""
        spec = self.spec
        schema = self._schema()
        self._names()
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
        scope = Scope(VARIABLES, steps=names, declared=names)
        return Compiler(scope, f"{self.path}.output", self.problems).template(self.spec.output)

    # -- steps --------------------------------------------------------------------------------------------------------

    def _steps(self, fields: Shape) -> tuple[CompiledStep, ...]:
        """The steps of all lists. Handlers come after the steps, whatever became of these, and may read all of them."""
        spec, found = self.spec, list[CompiledStep]()
        declared = frozenset(step.name for step in (*spec.steps, *spec.on_failure, *spec.finally_))
        for part, steps in zip(Part, (spec.steps, spec.on_failure, spec.finally_), strict=True):
            before = frozenset(step.name for step in spec.steps) if part else frozenset[str]()
            names = Names(len(found), before, declared)
            found += StepList(part, steps, names, spec.retry, self.actions, self.path, self.problems).compile(fields)
        return tuple(found)
