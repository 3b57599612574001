"""A plan of a run, drawn at random, and what must come of it: a reference interpreter without time, tasks or a store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine_specs import effect, failing, value

RUN_INPUT: dict[str, Any] = {"x": 1}


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an effect does at one attempt: takes some seconds, then ``ok``, ``again``, ``later``, ``final`` or ``hang``."""

    seconds: float
    result: str


@dataclass(frozen=True, slots=True)
class Planned:
    """A step: ``kind`` is ``effect``, ``pure`` or ``fail``; ``needs`` None follows the step before. With ``items`` it runs for
    each of so many, of which every second follows ``attempts``, the first not.
    """

    name: str
    kind: str
    needs: tuple[str, ...] | None
    condition: bool | None = None
    goes_on: bool = False
    limit: int = 0
    initial: float = 1.0
    attempts: tuple[Attempt, ...] = ()
    items: int | None = None
    parallel: int = 10

    def attempt(self, number: int, item: int | None = None) -> Attempt:
        """Beyond what was planned, it succeeds at once; items that follow no plan take their time."""
        if item is not None and item % 2 == 0:
            return Attempt(0.2 * (item % 3), "ok")
        return self.attempts[number - 1] if number <= len(self.attempts) else Attempt(0.0, "ok")

    def manifest(self, *, handler: bool = False) -> dict[str, Any]:
        """The step as a manifest has it; a handler asks for all that it may see."""
        made = self._manifest()
        if handler and self.kind == "effect":
            made["httpCall"]["body"] = {**made["httpCall"]["body"], "error": "{{ error }}", "s0": "{{ steps.s0 }}"}
        return made

    def _manifest(self) -> dict[str, Any]:
        made = self._without_items()
        if self.items is None:
            return made
        items = f"{{{{ {list(range(100, 100 + self.items))} }}}}"
        if self.kind == "effect":
            made["httpCall"] = {**made["httpCall"], "body": {**made["httpCall"]["body"], "item": "{{ item }}"}}
        if self.kind == "pure":
            made["transform"]["value"]["item"] = "{{ item }}"
        return {**made, "forEach": {"items": items, "maxParallel": self.parallel}}

    def _without_items(self) -> dict[str, Any]:
        fields: dict[str, Any] = {} if self.needs is None else {"needs": list(self.needs)}
        if self.condition is not None:
            fields["if"] = "true" if self.condition else "size(run.id) == 0"
        if self.goes_on:
            fields["onError"] = "Continue"
        if self.kind == "effect":
            backoff = {"initial": f"{round(self.initial * 1000)}ms", "max": "10s"}
            return effect(self.name, **fields, timeout="2s", retry={"limit": self.limit, "backoff": backoff})
        if self.kind == "fail":
            return failing(self.name, **fields)
        return value(self.name, {"by": self.name, "in": "{{ input }}"}, **fields)


@dataclass(frozen=True, slots=True)
class Result:
    """A step's end: its status, its last attempt, the value that it got and the value that it gave."""

    status: str
    attempt: int
    given: Any
    output: Any = None


@dataclass(slots=True)
class Expected:
    """What a run comes to where nobody cancels it. Steps behind a failure are absent from ``results``; ``items`` are by step
    and index, and where a step fails some of them may never have run.
    """

    status: str = "succeeded"
    items: dict[tuple[str, int], Result] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    culprits: set[str] = field(default_factory=set)


def expect(steps: list[Planned], *, handlers: bool = False) -> Expected:
    """Interpret a list: one step after the other, each as soon as all that it needs is there. What handlers are given is the
    run's input.
    """
    expected = Expected()
    needs = {s.name: _needs(steps, index) for index, s in enumerate(steps)}
    handed: dict[str, Any] = {}
    left = list(steps)
    while ready := [s for s in left if set(needs[s.name]) <= set(handed)]:
        for step in ready:
            left.remove(step)
            names = needs[step.name]
            given = RUN_INPUT if handlers else _given(names, handed)
            result = _run(step, given) if step.items is None else _run_items(step, given, expected.items)
            expected.results[step.name] = result
            if result.status == "failed" and not step.goes_on:
                expected.culprits.add(step.name)
                continue
            handed[step.name] = result.output if result.status == "succeeded" else given
    if expected.culprits:
        expected.status = "failed"
    else:
        assert not left
    return expected


def well(steps: list[Planned], results: dict[str, str]) -> bool:
    """Whether a list came to a good end: every step has its result (status by name), and none failed for good."""
    return all(step.name in results and (results[step.name] != "failed" or step.goes_on) for step in steps)


def final(outcome: str, finally_: list[Planned], results: dict[str, str]) -> str:
    """What a run comes to whose steps ended so: a `finally` that goes wrong spoils a success, and nothing else."""
    return "failed" if outcome == "succeeded" and not well(finally_, results) else outcome


def _needs(steps: list[Planned], index: int) -> tuple[str, ...]:
    stated = steps[index].needs
    if stated is not None:
        return stated
    return (steps[index - 1].name,) if index else ()


def _given(names: tuple[str, ...], handed: dict[str, Any]) -> Any:
    if not names:
        return RUN_INPUT
    return handed[names[0]] if len(names) == 1 else {name: handed[name] for name in names}


def _run_items(step: Planned, given: Any, items: dict[tuple[str, int], Result]) -> Result:
    if step.condition is False:
        return Result("skipped", 1, given)
    found = [_run(step, given, item) for item in range(step.items or 0)]
    items |= {(step.name, item): result for item, result in enumerate(found)}
    if any(result.status == "failed" for result in found) and not step.goes_on:
        return Result("failed", 1, given)
    return Result("succeeded", 1, given, [result.output for result in found])


def _run(step: Planned, given: Any, item: int | None = None) -> Result:
    told: dict[str, Any] = {} if item is None else {"item": 100 + item}
    recorded = given if item is None else 100 + item
    if step.condition is False:
        return Result("skipped", 1, given)
    if step.kind == "fail":
        return Result("failed", 1, recorded)
    if step.kind == "pure":
        return Result("succeeded", 1, recorded, {"by": step.name, "in": given, **told})
    number = 1
    while step.attempt(number, item).result in {"again", "later", "hang"} and number <= step.limit:
        number += 1
    if step.attempt(number, item).result == "ok":
        return Result("succeeded", number, recorded, {"by": step.name, "n": number, **told})
    return Result("failed", number, recorded)
