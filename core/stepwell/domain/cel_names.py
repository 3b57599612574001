"""Finds the names of an expression, checks them against a scope, and puts plain paths behind aliases."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stepwell.domain.cel_loops import ALIAS, MACROS, sort_keys
from stepwell.domain.cel_paths import Binding, Path, Use
from stepwell.domain.cel_scoping import TYPES, free, refuse_odd_nodes
from stepwell.domain.cel_tokens import Token, plain_text
from stepwell.domain.errors import ExpressionError
from stepwell.domain.scope import LINKS, RUN_FIELDS, STEP_FIELDS, STEP_VARIABLES, Scope

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stepwell.domain.cel_ast import Ident, Node

MAX_PATHS = 64


@dataclass(slots=True)
class Names:
    """What an expression reads. ``text`` is the expression with aliases in the place of plain paths."""

    text: str = ""
    bindings: dict[Binding, str] = field(default_factory=dict)
    now: bool = False
    whole: Path | None = None


def resolve(text: str, tokens: list[Token], tree: Node, scope: Scope) -> Names:
    """Check every name of an expression. Raises ExpressionError for one that it may not use."""
    return _Resolver(text, tokens, scope).resolve(tree)


def qualify_has(text: str, tokens: list[Token], scope: Scope) -> str:
    """``has(x)`` as ``has(input.x)`` where a bare name is a field of the input: the macro wants a field."""
    if not scope.bare:
        return text
    cuts = [
        tokens[at + 2].start
        for at in range(len(tokens) - 3)
        if [token.text for token in tokens[at : at + 2]] == ["has", "("]
        and tokens[at + 2].kind == "ident"
        and tokens[at + 3].text == ")"
        and tokens[at + 2].text not in scope.variables
    ]
    for cut in reversed(cuts):
        text = f"{text[:cut]}input.{text[cut:]}"
    return text


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint with the closest of the known names, empty where none is close."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


class _Resolver:
    def __init__(self, text: str, tokens: list[Token], scope: Scope) -> None:
        self._text = text
        self._tokens = tokens
        self._scope = scope
        self._starts = {token.start: index for index, token in enumerate(tokens)}
        self._cuts: dict[int, tuple[int, str]] = {}
        self._names = Names()

    def resolve(self, tree: Node) -> Names:
        refuse_odd_nodes(tree)
        for ident in free(tree):
            self._ident(ident)
        self._now()
        self._links()
        text = self._text
        for start in sorted(self._cuts, reverse=True):
            end, alias = self._cuts[start]
            text = text[:start] + alias + text[end:]
        self._names.text = sort_keys(text)
        if len(self._names.bindings) > MAX_PATHS:
            message = f"it reads {len(self._names.bindings)} different values; at most {MAX_PATHS} are allowed"
            raise ExpressionError(message)
        return self._names

    def _ident(self, ident: Ident) -> None:
        name = ident.name
        if name.startswith("."):
            message = f"write {name[1:]} without the dot before it"
            raise ExpressionError(message)
        index = self._starts.get(ident.position)
        if index is None or self._tokens[index].text != name:
            message = f"the name {name} cannot be used here"
            raise ExpressionError(message)
        if name in self._scope.variables:
            self._bind(index, Path(name))
        elif name in TYPES:
            return
        elif self._scope.bare and name in STEP_VARIABLES:
            message = (
                f"the variable {name} is not available here; for the input's field of that name write input.{name}"
            )
            raise ExpressionError(message)
        elif self._scope.bare:
            self._check_field(name)
            self._bind(index, Path("input", (name,), bare=True))
        else:
            known = ", ".join(sorted(self._scope.variables))
            hint = did_you_mean(name, self._scope.variables)
            message = f"there is no variable {name} here{hint or f'; there are {known}'}"
            raise ExpressionError(message)

    def _check_field(self, name: str) -> None:
        fields = self._scope.fields
        if fields is not None and name not in fields:
            hint = did_you_mean(name, fields | self._scope.variables)
            known = ", ".join(sorted(fields)) or "none"
            message = f"the step's input has no field {name}{hint or f'; its fields are {known}'}"
            raise ExpressionError(message)

    def _bind(self, index: int, path: Path) -> None:
        """Read the fields after a name, check them, and cut them all out of the text for an alias."""
        parts, ends = self._chain(index + 1)
        after = ends[-1] if ends else index + 1
        binding_field, use = "", Use.VALUE
        if self._is_has(index, after, parts):
            binding_field, use = str(parts.pop()), Use.FIELD
            ends.pop()
            after = ends[-1] if ends else index + 1
        elif optional := self._optional(after):
            binding_field, use = optional, Use.FIELD
        elif self._word(after) == "." and self._word(after + 1) in MACROS and self._word(after + 2) == "(":
            use = Use.EACH
        self._check_path(path, parts, binding_field)
        full = Path(path.root, (*path.parts, *parts), path.bare)
        if index == 0 and after == len(self._tokens):
            self._names.whole = full
        binding = Binding(full, use, binding_field)
        alias = self._names.bindings.setdefault(binding, f"{ALIAS}{len(self._names.bindings)}")
        self._cuts[self._tokens[index].start] = (self._tokens[after - 1].end, alias)

    def _chain(self, at: int) -> tuple[list[str | int], list[int]]:
        """The fields and constant indices from a token on, and the token after each of them."""
        parts: list[str | int] = []
        ends: list[int] = []
        while True:
            if self._word(at) == "." and self._is_name(at + 1) and self._word(at + 2) != "(":
                parts.append(self._word(at + 1).strip("`"))
                at += 2
            elif self._word(at) == "[" and self._word(at + 2) == "]" and (index := self._index(at + 1)) is not None:
                parts.append(index)
                at += 3
            else:
                return parts, ends
            ends.append(at)

    def _index(self, at: int) -> str | int | None:
        token = self._tokens[at]
        if token.kind == "number" and token.text.isdecimal() and len(token.text) < 10:
            return int(token.text)
        return plain_text(token)

    def _is_has(self, index: int, after: int, parts: list[str | int]) -> bool:
        before = index >= 2 and self._word(index - 2) == "has" and self._word(index - 1) == "("
        return before and self._word(after) == ")" and bool(parts) and self._word(after - 1) != "]"

    def _optional(self, at: int) -> str:
        """The field of ``.?field`` or ``[?'field']`` at a token, else empty."""
        if self._word(at) == ".?" and self._is_name(at + 1):
            return self._word(at + 1).strip("`")
        if self._word(at) == "[" and self._word(at + 1) == "?" and self._word(at + 3) == "]":
            return plain_text(self._tokens[at + 2]) or ""
        return ""

    def _word(self, at: int) -> str:
        return self._tokens[at].text if 0 <= at < len(self._tokens) else ""

    def _is_name(self, at: int) -> bool:
        return at < len(self._tokens) and self._tokens[at].kind in {"ident", "quoted"}

    def _check_path(self, path: Path, parts: list[str | int], optional: str) -> None:
        if path.root == "run" and (first := parts[0] if parts else optional):
            _check_known("run", str(first), RUN_FIELDS)
        if path.root == "steps":
            self._check_step(parts, optional)
        if path.root == "input" and not path.bare and parts and isinstance(parts[0], str):
            self._check_input(parts[0])

    def _check_input(self, name: str) -> None:
        if self._scope.bare:
            self._check_field(name)

    def _check_step(self, parts: list[str | int], optional: str) -> None:
        if not parts or not isinstance(parts[0], str):
            raise ExpressionError("steps is read by name, as in steps.NAME.output; it is no value of its own")
        name = parts[0]
        if name not in self._scope.steps:
            if name in self._scope.declared:
                message = f"step {name} does not come before this one; only steps that do can be read"
                raise ExpressionError(message)
            message = f"there is no step {name}{did_you_mean(name, self._scope.declared)}"
            raise ExpressionError(message)
        field_name = parts[1] if len(parts) > 1 else optional
        if field_name != "":
            _check_known(f"steps.{name}", str(field_name), STEP_FIELDS)

    def _now(self) -> None:
        for index, token in enumerate(self._tokens):
            called = [self._word(index + 1), self._word(index + 2)] == ["(", ")"]
            if token.text == "now" and called and self._word(index - 1) not in {".", ".?"}:
                self._names.now = True
                self._cuts[token.start] = (self._tokens[index + 2].end, f"{ALIAS}now")

    def _links(self) -> None:
        """``approvalUrl('step')`` is a value of the context, under the step's name."""
        for index, token in enumerate(self._tokens):
            if token.text != LINKS or self._word(index + 1) != "(" or self._word(index - 1) in {".", ".?"}:
                continue
            name = plain_text(self._tokens[index + 2])
            if name is None or name not in self._scope.links:
                known = ", ".join(sorted(self._scope.links)) or "none"
                message = f"approvalUrl(): no approval step {name!r} has link: Enabled; those that do: {known}"
                raise ExpressionError(message)
            path = Path(LINKS, (name,))
            if index == 0 and index + 4 == len(self._tokens):
                self._names.whole = path
            alias = self._names.bindings.setdefault(Binding(path, Use.VALUE, ""), f"{ALIAS}{len(self._names.bindings)}")
            self._cuts[token.start] = (self._tokens[index + 3].end, alias)


def _check_known(owner: str, name: str, known: frozenset[str]) -> None:
    if name not in known:
        hint = did_you_mean(name, known) or f"; there are {', '.join(sorted(known))}"
        message = f"{owner} has no field {name}{hint}"
        raise ExpressionError(message)
