"""Evaluates a compiled expression on the values of a context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.domain import cel_cost, cel_messages
from stepwell.domain.cel_library import CelError, Program, activate, parse
from stepwell.domain.cel_loops import ALIAS
from stepwell.domain.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.domain.cel_names import Names
    from stepwell.domain.cel_paths import Path
    from stepwell.domain.documents import JsonValue
    from stepwell.domain.expressions import Context

NOW = f"{ALIAS}now"
_MISSING = (KeyError, TypeError, IndexError)


def reader(path: Path) -> Callable[[Context], JsonValue]:
    """Evaluates an expression that is a plain path, which needs no library."""
    find = path.finder()

    def evaluate(context: Context) -> JsonValue:
        try:
            return find(context.variables)
        except _MISSING as exc:
            raise EvaluationError(path.explain(context.variables)) from exc

    return evaluate


class Evaluation:
    """Hands the values that an expression reads to the library, unless it would take too much with them."""

    __slots__ = ("_constant", "_finders", "_harmless", "_key", "_now", "_paths", "_program", "_tree")

    def __init__(self, names: Names, program: Program) -> None:
        self._program = program
        self._now = names.now
        self._finders = tuple((alias, binding.finder()) for binding, alias in names.bindings.items())
        self._paths = {alias: binding.path for binding, alias in names.bindings.items()}
        self._key = "\n".join(map(repr, names.bindings)) + str(names.now)
        self._tree = parse(names.text)
        self._harmless = cel_cost.harmless(self._tree, list(self._paths))
        self._constant: JsonValue = None

    def run(self, context: Context) -> JsonValue:
        """The value as JSON. Raises EvaluationError."""
        if self._constant is not None:
            return self._constant
        try:
            return self._run(context)
        except CelError as exc:
            why = cel_messages.of_evaluation(str(exc), lambda alias: self._paths[alias].explain(context.variables))
            raise EvaluationError(why) from exc
        except ValueError as exc:
            raise EvaluationError(str(exc)) from exc

    def _run(self, context: Context) -> JsonValue:
        if known := context.activations.get(self._key):
            return self._program.run_on(known)
        data = self._read(context)
        if self._harmless < cel_cost.DOCUMENT:
            self._check_cost(data)
        if _CONTAINERS.isdisjoint(map(type, data.values())):
            return self._remember(self._program.run(data))
        known = context.activations[self._key] = activate(data)
        return self._program.run_on(known)

    def _read(self, context: Context) -> dict[str, object]:
        """The values by alias; one that is missing is left out, for it may never be asked for."""
        data: dict[str, object] = {}
        variables = context.variables
        for alias, find in self._finders:
            try:
                data[alias] = find(variables)
            except _MISSING:
                continue
        if self._now:
            data[NOW] = context.now
        return data

    def _check_cost(self, data: dict[str, object]) -> None:
        sizes = {alias: cel_cost.measure(value) for alias, value in data.items()}
        if self._harmless and all(size.bytes <= self._harmless for size in sizes.values()):
            return
        if cel_cost.work(self._tree, sizes) > cel_cost.LIMIT:
            message = "it could take more than 64 MiB of memory with these values; split it over steps, or give it less"
            raise EvaluationError(message)

    def _remember(self, value: JsonValue) -> JsonValue:
        """A constant is evaluated once; a list or object is not kept, for whoever gets it may change it."""
        if not self._finders and not self._now and not isinstance(value, list | dict):
            self._constant = value
        return value


_CONTAINERS = frozenset({list, dict})
