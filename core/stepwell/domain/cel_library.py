"""The one door to cel-expr-python (Google's C++ CEL): its environment, its programs, its errors.

What is odd about the library, and avoided here: errors come back as values or as RuntimeError, optionals cannot be
converted, and maps have a random order (docs/adr/0002-expressions.md).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from cel_expr_python import cel  # type: ignore[import-untyped, unused-ignore] # ships stubs, but no py.typed
from cel_expr_python.ext import (  # type: ignore[import-untyped, unused-ignore]
    ext_bindings,
    ext_encoders,
    ext_math,
    ext_optional,
    ext_strings,
)

from stepwell.domain import cel_ast, cel_functions
from stepwell.domain.cel_names import ALIAS, MAX_PATHS
from stepwell.domain.cel_values import to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stepwell.domain.documents import JsonValue

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

    __slots__ = ("_compiled",)

    def __init__(self, text: str) -> None:
        """Raises CelError."""
        try:
            compiled = _environment().compile(text)
            if compiled.return_type().name().startswith("optional_type"):
                compiled = _environment().compile(f"({text}\n).value()")
        except (RuntimeError, ValueError, MemoryError) as exc:
            raise CelError(str(exc)) from exc
        self._compiled = compiled

    def run(self, data: Mapping[str, Any]) -> JsonValue:
        """The value as JSON. Raises CelError, or ValueError for a value that is not JSON."""
        try:
            value = self._compiled.eval(data=data)
            plain = value.plain_value()
        except (RuntimeError, ValueError) as exc:
            raise CelError(str(exc)) from exc
        except MemoryError as exc:
            raise CelError("it takes too much memory") from exc
        except (TypeError, SystemError) as exc:
            raise CelError("the result is or holds an optional; write .orValue(…) after it") from exc
        if plain.__class__ is str and value.type() == _ERROR:
            raise CelError(plain)
        return to_json(plain)


@cache
def _environment() -> Any:
    variables = {f"{ALIAS}{number}": cel.Type.DYN for number in range(MAX_PATHS)}
    return cel.NewEnv(
        variables={**variables, f"{ALIAS}now": cel.Type.TIMESTAMP},
        functions=cel_functions.declarations(),
        extensions=[
            ext_bindings.ExtBindings(),
            ext_encoders.ExtEncoders(),
            ext_math.ExtMath(),
            ext_optional.ExtOptional(),
            ext_strings.ExtStrings(),
        ],
    )
