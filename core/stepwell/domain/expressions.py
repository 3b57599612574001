"""Expressions: CEL (https://cel.dev) behind one adapter class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from stepwell.domain import cel_ast, cel_functions, cel_messages
from stepwell.domain.cel_evaluation import Evaluation, reader
from stepwell.domain.cel_library import Activation, CelError, Program, parse
from stepwell.domain.cel_names import Names, qualify_has, resolve
from stepwell.domain.cel_optionals import refuse_inside
from stepwell.domain.cel_paths import kind_of
from stepwell.domain.cel_tokens import tokenize
from stepwell.domain.documents import JsonValue
from stepwell.domain.errors import EvaluationError, ExpressionError
from stepwell.domain.scope import STEP_VARIABLES, TRIGGER_VARIABLES, Scope

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["STEP_VARIABLES", "TRIGGER_VARIABLES", "Context", "Expression", "Scope", "compile_expression"]

MAX_LENGTH = 4096
MAX_MACROS = 8
MAX_LOOPS = 4  # macros inside one another; each doubles what it takes to estimate the cost
SHOWN = 120  # characters of an expression that an error message repeats


class Context:
    """The values that the expressions of one step see, shared by all of them; they must not change.

    ``steps`` maps a step's name to an object with ``output``, ``status``, ``error`` and ``http``. ``now`` is what
    ``now()`` returns; it knows its time zone.
    """

    __slots__ = ("activations", "now", "variables")

    def __init__(self, variables: Mapping[str, JsonValue], *, now: datetime) -> None:
        self.variables = variables
        self.now = now
        self.activations: dict[str, Activation] = {}


Evaluate: TypeAlias = Callable[[Context], JsonValue]


class Expression:
    """A compiled expression. ``variables`` are the scope's variables that it reads (a bare name reads ``input``).

    A value may be a part of the context itself, so it must not be changed in place.
    """

    __slots__ = ("_evaluate", "text", "variables")

    def __init__(self, text: str, variables: frozenset[str], evaluate: Evaluate) -> None:
        self.text = text
        self.variables = variables
        self._evaluate = evaluate

    def evaluate(self, context: Context) -> JsonValue:
        """The value as JSON. Raises EvaluationError, naming the expression and the key that is missing (AbsentError)."""
        try:
            return self._evaluate(context)
        except EvaluationError as exc:
            message = f"{_shown(self.text)}: {exc}"
            raise type(exc)(message) from exc

    def test(self, context: Context) -> bool:
        """The value of a condition. Raises EvaluationError where it is not a boolean."""
        value = self.evaluate(context)
        if value is True or value is False:
            return value
        message = f"{_shown(self.text)}: a condition is true or false, but this is {kind_of(value)}"
        raise EvaluationError(message)


@lru_cache(maxsize=4096)
def compile_expression(text: str, scope: Scope) -> Expression:
    """Compile one expression. Raises ExpressionError for its syntax or for a name that it may not use."""
    try:
        names, program = _compile(text, scope)
    except ExpressionError as exc:
        message = f"{_shown(text)}: {exc}"
        raise ExpressionError(message) from exc
    variables = frozenset(binding.path.root for binding in names.bindings)
    reading = reader(names.whole) if names.whole else Evaluation(names, program).run
    return Expression(text, variables, reading)


def _compile(text: str, scope: Scope) -> tuple[Names, Program]:
    if len(text) > MAX_LENGTH:
        message = f"it has {len(text):,} characters; at most {MAX_LENGTH:,} are allowed"
        raise ExpressionError(message)
    if not text.strip():
        raise ExpressionError("it is empty")
    if any(0xD800 <= ord(char) < 0xE000 for char in text) or "\0" in text:
        raise ExpressionError("it holds a NUL character or half of a character")
    text = qualify_has(text, tokenize(text), scope)
    try:
        tree = parse(text)
    except CelError as exc:
        raise ExpressionError(_compile_message(str(exc), columns=True)) from exc
    _check_macros(tree)
    names = resolve(text, tokenize(text), tree, scope)
    try:
        refuse_inside(parse(names.text), cel_functions.NAMES)
        return names, Program(names.text)
    except CelError as exc:
        raise ExpressionError(_compile_message(str(exc), columns=False)) from exc


def _check_macros(tree: cel_ast.Node) -> None:
    count = sum(isinstance(node, cel_ast.Comprehension) for node in cel_ast.walk(tree))
    if count > MAX_MACROS:
        message = f"it has {count} macros such as map() and filter(); at most {MAX_MACROS} are allowed"
        raise ExpressionError(message)
    if _loops(tree) > MAX_LOOPS:
        message = f"it nests macros such as map() more than {MAX_LOOPS} deep"
        raise ExpressionError(message)


def _loops(node: cel_ast.Node) -> int:
    inside = max(map(_loops, cel_ast.children(node)), default=0)
    if isinstance(node, cel_ast.Comprehension) and node.over != cel_ast.EMPTY_LIST:
        return max(_loops(node.over), 1 + max(_loops(node.step), _loops(node.condition)), _loops(node.result))
    return inside


def _compile_message(raw: str, *, columns: bool) -> str:
    column, message = cel_messages.of_compilation(raw)[0]
    return f"{message}, at character {column}" if columns and column else message


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
