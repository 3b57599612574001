"""Where ``{{ expr }}`` stands in a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from stepwell.domain.cel_tokens import end_of_expression

WHITE = " \t\r\n\f\v"


@dataclass(frozen=True, slots=True)
class Placeholder:
    """The text of an expression, without its braces and the white space around it."""

    expression: str


Part: TypeAlias = "str | Placeholder"


class PlaceholderError(ValueError):
    """The ``{{ }}`` of a text are not well-formed."""


def split(text: str) -> list[Part]:
    """The text as literal parts, none of them empty, and placeholders.

    Raises PlaceholderError for a ``{{`` without its ``}}`` and for an empty one.
    """
    parts: list[Part] = []
    position = 0
    while (start := text.find("{{", position)) >= 0:
        if start > position:
            parts.append(text[position:start])
        end = _end(text, start)
        expression = text[start + 2 : end].strip(WHITE)
        if not expression:
            message = f"{{{{ }}}} at character {start + 1} holds no expression"
            raise PlaceholderError(message)
        parts.append(Placeholder(expression))
        position = end + 2
    if position < len(text):
        parts.append(text[position:])
    return parts


def whole(parts: list[Part]) -> Placeholder | None:
    """The only placeholder of a text that has nothing but white space around it, else None."""
    found = [part for part in parts if isinstance(part, Placeholder)]
    if len(found) != 1 or any(isinstance(part, str) and part.strip(WHITE) for part in parts):
        return None
    return found[0]


def _end(text: str, start: int) -> int:
    try:
        return end_of_expression(text, start + 2)
    except ValueError as exc:
        message = f"{{{{ at character {start + 1} is not closed: {exc}; write {{{{ '{{{{' }}}} for two literal braces"
        raise PlaceholderError(message) from exc
