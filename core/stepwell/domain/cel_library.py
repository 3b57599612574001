"""The one door to cel-expr-python (Google's C++ CEL): its environment, its programs, its errors.

What is odd about the library, and avoided here: errors come back as values or as RuntimeError, optionals cannot be
converted, and maps have a random order (docs/adr/0002-expressions.md).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from cel_expr_python import cel  # type: ignore[import-untyped, unused-ignore] # ships stubs, but no py.typed
from cel_expr_python.ext import (  # type: ignore[import-untyped, unused-ignore]
    ext_bindings,
    ext_encoders,
    ext_math,
    ext_optional,
    ext_strings,
)

from stepwell.domain import cel_ast, cel_functions
from stepwell.domain.cel_chunks import CHUNKS
from stepwell.domain.cel_loops import ALIAS
from stepwell.domain.cel_names import MAX_PATHS
from stepwell.domain.cel_values import to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stepwell.domain.documents import JsonValue

Activation: TypeAlias = Any

_ERROR: Final[Any] = cel.Type.ERROR


class CelError(Exception):
    """The library refused a text or a value; the message is the library's own."""


def parse(text: str) -> cel_ast.Node:
    """The tree of an expression. Raises CelError."""
    try:
        return cel_ast.read(_environment().compile(text, disable_check=True).serialize())
    except (RuntimeError, ValueError, MemoryError) as exc:
        raise CelError(str(exc)) from exc


class Program:
    """An expression over aliases, checked and ready to be evaluated."""

    __slots__ = ("_compiled", "_text", "_value")

    def __init__(self, text: str) -> None:
        """Raises CelError."""
        self._text = text
        self._value: Any = None
        self._compiled = _compile(text)
        if _type_of(self._compiled).startswith("optional_type"):
            self._compiled = self._value = _compile(self._of_optional())

    def run(self, data: Mapping[str, Any]) -> JsonValue:
        """The value as JSON. Raises CelError, or ValueError for a value that is not JSON."""
        return self._run(self._compiled, None, data)

    def run_on(self, activation: Activation) -> JsonValue:
        """The same with values that were handed over before, by ``activate``."""
        return self._run(self._compiled, activation, None)

    def _run(self, compiled: Any, activation: Activation | None, data: Mapping[str, Any] | None) -> JsonValue:
        try:
            value = compiled.eval(activation, data)
            plain = value.plain_value()
        except (RuntimeError, ValueError) as exc:
            raise CelError(str(exc)) from exc
        except MemoryError as exc:
            raise CelError("it takes too much memory") from exc
        except (TypeError, SystemError) as exc:
            if compiled is self._value:
                raise CelError("the result holds an optional; write .orValue(…) after it") from exc
            return self._run(self._unwrapped(), activation, data)
        if plain.__class__ is str and value.type() == _ERROR:
            raise CelError(plain)
        return to_json(plain)

    def _unwrapped(self) -> Any:
        """An optional cannot be read, but its value can; that a result is one may show at run time only."""
        if self._value is None:
            try:
                self._value = _compile(self._of_optional())
            except CelError:  # a list or map around an optional
                self._value = self._compiled
        return self._value

    def _of_optional(self) -> str:
        return f"({self._text}\n).value()"


def activate(data: Mapping[str, Any]) -> Activation:
    """Values by alias, to be handed to ``run_on``: the library converts each of them once."""
    return _environment().Activation(data)


def _compile(text: str) -> Any:
    try:
        return _environment().compile(text)
    except (RuntimeError, ValueError, MemoryError) as exc:
        raise CelError(str(exc)) from exc


def _type_of(compiled: Any) -> str:
    try:
        return str(compiled.return_type().name())
    except RuntimeError as exc:  # such as a map with lists as keys
        raise CelError(str(exc)) from exc


@cache
def _environment() -> Any:
    variables = {f"{ALIAS}{number}": cel.Type.DYN for number in range(MAX_PATHS)}
    chunks = {f"{CHUNKS}{number}": cel.Type.DYN for number in range(MAX_PATHS)}
    return cel.NewEnv(
        variables={**variables, **chunks, f"{ALIAS}now": cel.Type.TIMESTAMP},
        functions=cel_functions.declarations(),
        extensions=[
            ext_bindings.ExtBindings(),
            ext_encoders.ExtEncoders(),
            ext_math.ExtMath(),
            ext_optional.ExtOptional(),
            ext_strings.ExtStrings(),
        ],
    )
