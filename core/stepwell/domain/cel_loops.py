"""Makes macros such as ``map`` visit the keys of a map in sorted order.

The library's own order differs from process to process, and every attempt of a step must render the same bytes. Where
a macro runs over a plain path, the path's binding sorts (``Use.EACH``); anything else that might be a map goes
through the function ``EACH``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.domain.cel_tokens import tokenize

if TYPE_CHECKING:
    from stepwell.domain.cel_tokens import Token

ALIAS = "_sw_"  # begins every name that stands in a text instead of the user's own words
EACH = f"{ALIAS}each"
MACROS = frozenset({"map", "filter", "all", "exists", "exists_one"})

_OPENING = {")": "(", "]": "[", "}": "{"}
_LISTS = frozenset({"map", "filter", "split", "range", "distinct", "flatten", "slice", "sort"})


def sort_keys(text: str) -> str:
    """The expression with ``EACH`` around whatever a macro runs over, unless it is an alias or surely a list."""
    tokens = tokenize(text)
    inserts: list[tuple[int, str]] = []
    for dot in range(1, len(tokens) - 2):
        if tokens[dot].text == "." and tokens[dot + 1].text in MACROS and tokens[dot + 2].text == "(":
            first = _start(tokens, dot - 1)
            if not _is_safe(tokens, first, dot - 1):
                inserts += [(tokens[first].start, f"{EACH}("), (tokens[dot].start, ")")]
    for position, word in sorted(inserts, key=lambda insert: insert[0], reverse=True):
        text = text[:position] + word + text[position:]
    return text


def _start(tokens: list[Token], last: int) -> int:
    """The first token of the operand that ends at ``last``: a name, literal or group, with calls, fields, indices."""
    at = last
    while True:
        if tokens[at].text in _OPENING and tokens[at].kind == "mark":
            at = _opening(tokens, at)
            if at == 0 or not _continues(tokens[at], tokens[at - 1]):
                return at
            at -= 1
        elif at >= 2 and tokens[at - 1].text in {".", ".?"}:
            at -= 2
        else:
            return at


def _continues(opening: Token, before: Token) -> bool:
    """Whether a bracket belongs to what stands before it: a call's, an index's."""
    if before.kind in {"ident", "quoted"}:
        return before.text != "in"
    return opening.text == "[" and (before.kind in {"string", "number"} or before.text in _OPENING)


def _opening(tokens: list[Token], closing: int) -> int:
    depth = 0
    for at in range(closing, -1, -1):
        if tokens[at].kind == "mark" and tokens[at].text in _OPENING:
            depth += 1
        elif tokens[at].kind == "mark" and tokens[at].text in _OPENING.values():
            depth -= 1
            if not depth:
                return at
    return 0


def _is_safe(tokens: list[Token], first: int, last: int) -> bool:
    if first == last:
        return tokens[last].text.startswith(ALIAS)
    opening = _opening(tokens, last) if tokens[last].text in _OPENING else last
    if tokens[last].text == "]":
        return opening == first
    return tokens[last].text == ")" and opening > first and tokens[opening - 1].text in _LISTS
