"""Evaluates a compiled expression on the values of a context."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from stepwell.domain import cel_chunks, cel_cost, cel_functions, cel_messages
from stepwell.domain.cel_library import CelError, Program, activate, parse
from stepwell.domain.cel_loops import ALIAS
from stepwell.domain.cel_optionals import refuse_inside
from stepwell.domain.cel_paths import Use
from stepwell.domain.errors import AbsentError, EvaluationError, ExpressionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.domain.cel_names import Names
    from stepwell.domain.cel_paths import Path
    from stepwell.domain.documents import JsonValue
    from stepwell.domain.expressions import Context

Data: TypeAlias = "dict[str, object]"

NOW = f"{ALIAS}now"
TOO_LARGE = "it could take more than 64 MiB of memory with these values; split it over steps, or give it less"
_MISSING = (KeyError, TypeError, IndexError)
_CONTAINERS = frozenset({list, dict})


def reader(path: Path) -> Callable[[Context], JsonValue]:
    """Evaluates an expression that is a plain path, which needs no library."""
    find = path.finder()

    def evaluate(context: Context) -> JsonValue:
        try:
            return find(context.variables)
        except _MISSING as exc:
            raise AbsentError(path.explain(context.variables)) from exc

    return evaluate


class Evaluation:
    """Hands the values that an expression reads to the library."""

    __slots__ = ("_chunked", "_constant", "_finders", "_loops", "_names", "_now", "_plain")

    def __init__(self, names: Names, program: Program) -> None:
        self._names = names
        self._now = names.now
        self._finders = tuple((alias, binding.finder()) for binding, alias in names.bindings.items())
        self._loops = tuple(alias for binding, alias in names.bindings.items() if binding.use is Use.EACH)
        key = "\n".join(map(repr, names.bindings)) + str(names.now)
        self._plain = _Plan(names.text, program, list(names.bindings.values()), key)
        self._chunked: tuple[_Plan, dict[str, str]] | None = None
        self._constant: JsonValue = None

    def run(self, context: Context) -> JsonValue:
        """The value as JSON. Raises EvaluationError."""
        if self._constant is not None:
            return self._constant
        data = self._read(context)
        try:
            if self._loops and any(_is_long(data.get(alias)) for alias in self._loops):
                return self._run_chunked(context, data)
            return self._remember(self._plain.run(context, data))
        except CelError as exc:
            kind = AbsentError if cel_messages.is_absence(str(exc)) else EvaluationError
            raise kind(cel_messages.of_evaluation(str(exc), self._explainer(context))) from exc
        except ValueError as exc:
            raise EvaluationError(str(exc)) from exc

    def _read(self, context: Context) -> Data:
        """The values by alias; one that is missing is left out, for it may never be asked for."""
        data: Data = {}
        variables = context.variables
        for alias, find in self._finders:
            try:
                data[alias] = find(variables)
            except _MISSING:
                continue
        if self._now:
            data[NOW] = context.now
        return data

    def _run_chunked(self, context: Context, data: Data) -> JsonValue:
        if self._chunked is None:
            self._chunked = self._chunk()
        plan, names = self._chunked
        if not names:
            return self._plain.run(context, data)
        lists = {
            name: cel_chunks.chunks(items)
            for alias, name in names.items()
            if isinstance(items := data.get(alias), list)
        }
        try:
            return plan.run(context, data | lists)
        except (CelError, ValueError, EvaluationError):
            if self._plain.is_too_large(data):
                raise
            return self._plain.run(context, data)

    def _chunk(self) -> tuple[_Plan, dict[str, str]]:
        text, names = cel_chunks.rewrite(self._names.text)
        try:
            refuse_inside(parse(text), cel_functions.NAMES)
        except ExpressionError:
            names = {}
        if not names:
            return self._plain, names
        aliases = [*self._names.bindings.values(), *names.values()]
        return _Plan(text, Program(text), aliases, self._plain.key + text), names

    def _explainer(self, context: Context) -> Callable[[str], str]:
        paths = {alias: binding.path for binding, alias in self._names.bindings.items()}

        def explain(alias: str) -> str:
            return paths[alias.replace(cel_chunks.CHUNKS, ALIAS)].explain(context.variables)

        return explain

    def _remember(self, value: JsonValue) -> JsonValue:
        """A constant is evaluated once; a list or object is not kept, for whoever gets it may change it."""
        if not self._finders and not self._now and not isinstance(value, list | dict):
            self._constant = value
        return value


class _Plan:
    """A program, what it may cost, and ``key``, under which a context keeps what it was given."""

    __slots__ = ("_harmless", "_program", "_tree", "key")

    def __init__(self, text: str, program: Program, aliases: list[str], key: str) -> None:
        self.key = key
        self._program = program
        self._tree = parse(text)
        self._harmless = cel_cost.harmless(self._tree, aliases)

    def run(self, context: Context, data: Data) -> JsonValue:
        """Raises CelError, ValueError, EvaluationError where it would take too much."""
        if self._harmless < cel_cost.DOCUMENT and self.is_too_large(data):
            raise EvaluationError(TOO_LARGE)
        if _CONTAINERS.isdisjoint(map(type, data.values())):
            return self._program.run(data)
        if (known := context.activations.get(self.key)) is None:
            known = context.activations[self.key] = activate(data)
        return self._program.run_on(known)

    def is_too_large(self, data: Data) -> bool:
        """Whether evaluation might take more than it may."""
        sizes = {alias: cel_cost.measure(value) for alias, value in data.items()}
        if self._harmless and all(size.bytes <= self._harmless for size in sizes.values()):
            return False
        return cel_cost.work(self._tree, sizes) > cel_cost.LIMIT


def _is_long(value: object) -> bool:
    return isinstance(value, list) and len(value) > cel_chunks.LONG
