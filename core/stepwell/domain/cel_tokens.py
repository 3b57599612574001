"""The words of CEL, as far as one must know them to find names and the end of an expression in a text.

Grammar: https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax. The tokenizer never fails: what is not
CEL becomes tokens of one character, and the library's parser says what is wrong with them.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, TypeAlias, cast

Kind: TypeAlias = Literal["string", "unclosed", "ident", "quoted", "number", "mark"]

_STRING = r"""
    (?P<string>[bB]?(?:
        [rR](?:\"{3}(?s:.*?)\"{3}|'{3}(?s:.*?)'{3}|"(?!"")[^"\r\n]*"|'(?!'')[^'\r\n]*')
      | \"{3}(?s:[^\\]|\\.)*?\"{3} | '{3}(?s:[^\\]|\\.)*?'{3}
      | "(?!"")(?:[^"\\\r\n]|\\.)*" | '(?!'')(?:[^'\\\r\n]|\\.)*'
    ))
  | (?P<unclosed>["'])
"""
_REST = r"""
  | (?P<quoted>`[^`\r\n]*`)
  | (?P<ident>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?[uU]?)
  | (?P<mark>\.\?|(?s:.))
"""
_TOKEN = re.compile(rf"(?P<skip>\s+|//[^\n]*) | {_STRING} {_REST}", re.VERBOSE)
_TOKEN_IN_TEMPLATE = re.compile(rf"(?P<skip>\s+|//(?:(?!\}}\}})[^\n])*) | {_STRING} {_REST}", re.VERBOSE)


class Token(NamedTuple):
    """One word; ``start`` and ``end`` count characters of the text."""

    kind: Kind
    text: str
    start: int
    end: int


def tokenize(text: str) -> list[Token]:
    """The words of an expression, without white space and comments."""
    return [
        Token(cast("Kind", match.lastgroup), match.group(), match.start(), match.end())
        for match in _TOKEN.finditer(text)
        if match.lastgroup != "skip"
    ]


def plain_text(token: Token) -> str | None:
    """What a string literal means, None where it has a prefix or an escape."""
    text = token.text
    if token.kind != "string" or "\\" in text or text[0] not in "\"'" or text[:3] in {'"""', "'''"}:
        return None
    return text[1:-1]


def end_of_expression(text: str, start: int) -> int:
    """Where the ``}}`` is that closes an expression which begins at ``start``.

    Strings and braces of CEL are stepped over; a comment reaches to the end of its line or to ``}}``.
    Raises ValueError, saying what is not closed.
    """
    depth = 0
    opened = 0
    position = start
    while match := _TOKEN_IN_TEMPLATE.match(text, position):
        word = match.group()
        if match.lastgroup == "unclosed":
            message = f"a string opens with {word} at character {position + 1} and is not closed"
            raise ValueError(message)
        if word == "{":
            opened = position if depth == 0 else opened
            depth += 1
        elif word == "}":
            if depth == 0 and text.startswith("}}", position):
                return position
            depth = max(depth - 1, 0)
        position = match.end()
    if depth:
        message = f"a {{ at character {opened + 1}, inside it, is not closed"
        raise ValueError(message)
    raise ValueError("it has no }}")
