"""Templates: JSON values in whose strings ``{{ expr }}`` stands for a value."""

from __future__ import annotations

from collections.abc import Callable

from stepwell.domain.documents import JsonValue
from stepwell.domain.expressions import Context, Scope

Report = Callable[[str, str], None]
"""Takes the path below the template (``.email``, ``.items[2]``, "" for itself) and the message of a problem."""


class Template:
    """A compiled JSON template. ``variables`` are the scope's variables that it reads."""

    variables: frozenset[str]

    def render(self, context: Context) -> JsonValue:
        """The value. Raises EvaluationError."""
        raise NotImplementedError


class TextTemplate:
    """A compiled template whose result is text, such as a URL or a header."""

    variables: frozenset[str]

    def render(self, context: Context, quote: Callable[[str], str] | None = None) -> str:
        """The text; every interpolated value, not the literal text, goes through ``quote``."""
        raise NotImplementedError


def compile_template(value: JsonValue, scope: Scope, report: Report) -> Template:
    """Compile a JSON template; every problem is reported, and the template is then not to be rendered."""
    raise NotImplementedError


def compile_text(text: str, scope: Scope, report: Report) -> TextTemplate:
    """Compile a text template; every problem is reported, and the template is then not to be rendered."""
    raise NotImplementedError
