"""Random expressions, most of them wrong: each is refused, fails with a readable message, or gives JSON.

A segmentation fault of the library would end the test run here; ``python test_expressions_fuzz.py SEED COUNT`` runs more.
"""

from __future__ import annotations

import random
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from stepwell.domain import documents
from stepwell.domain.errors import EvaluationError, ExpressionError
from stepwell.domain.expressions import STEP_VARIABLES, Context, Scope, compile_expression

SCOPE = Scope(STEP_VARIABLES, bare=True)
VALUES: dict[str, Any] = {
    "input": {"a": 1, "s": "x,y", "l": [1, 2, {"k": [1]}], "m": {"p": {"q": 1}, "r": None}, "f": 1.5, "n": None},
    "item": [1],
    "index": 2,
}
ATOMS = [
    "1",
    "2u",
    "1.5",
    "'s'",
    "b'z'",
    "null",
    "true",
    "a",
    "s",
    "l",
    "m",
    "m.p",
    "f",
    "n",
    "input",
    "item",
    "index",
    "nope",
    "m.?p",
    "input.?z",
    "optional.none()",
    "optional.of(a)",
    "[]",
    "{}",
    "l[2]",
    "int",
    "now()",
    "duration('1s')",
    "l[?0]",
    "'\\u0000'",
]
FORMS = [
    "[@, @]",
    "[?@]",
    "{'k': @}",
    "{?'k': @, 'j': @}",
    "{@: @}",
    "optional.of(@)",
    "optional.ofNonZeroValue(@)",
    "@.orValue(@)",
    "@.or(@)",
    "@.value()",
    "@.hasValue()",
    "(@ ? @ : @)",
    "(a == 1 ? @ : @)",
    "(@ + @)",
    "(@ == @)",
    "(@ in @)",
    "@.k",
    "@.?k",
    "@[0]",
    "@[?0]",
    "@[?'k']",
    "toJson(@)",
    "@.distinct()",
    "@.flatten()",
    "@.sort()",
    "@.slice(0, 1)",
    "@.first()",
    "@.last()",
    "'%s'.format([@])",
    "string(@)",
    "type(@)",
    "size(@)",
    "dyn(@)",
    "json(@)",
    "sha256(@)",
    "@.join()",
    "optional.unwrap(@)",
    "@.unwrapOpt()",
    "math.greatest(@)",
]
LOOPS = [
    "@.map(#, $)",
    "@.filter(#, $)",
    "@.exists(#, $)",
    "@.all(#, $)",
    "cel.bind(#, @, $)",
    "@.optMap(#, $)",
    "@.optFlatMap(#, $)",
    "[@].map(#, $)",
    "l.map(#, $)",
    "m.map(#, $)",
]
NOISE = ("_sw_", "INVALID_ARGUMENT", "UNKNOWN:", "int64", "Python", "opaque", "<input>")


def build(chance: random.Random, depth: int, bound: tuple[str, ...] = ()) -> str:
    """A random expression; in a form, ``@`` is an expression, ``#`` a variable, ``$`` an expression that may use it."""
    if depth <= 0:
        return chance.choice([*ATOMS, *bound * 3])
    form = chance.choice(FORMS * 2 + LOOPS * 3)
    name = chance.choice("xy")
    made = ""
    for char in form:
        below = depth - 1 - chance.randrange(2)
        if char == "@":
            made += build(chance, below, bound)
        elif char == "$":
            made += build(chance, below, (*bound, name))
        else:
            made += name if char == "#" else char
    return made


def check(text: str) -> str:
    context = Context(VALUES, now=datetime(2026, 1, 1, tzinfo=UTC))
    try:
        value = compile_expression(text, SCOPE).evaluate(context)
    except (ExpressionError, EvaluationError) as exc:
        message = str(exc).rpartition(": ")[2]
        assert not [word for word in NOISE if word in message], (text, message)
        return type(exc).__name__
    documents.check(value)
    documents.dumps(value)
    return "value"


@pytest.mark.parametrize("long", [1, 10_000])
def test_random_expressions(long: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell.domain.cel_chunks.LONG", long)
    chance = random.Random(long)
    outcomes = [check(build(chance, chance.choice([1, 2, 3, 4]))) for _ in range(1_000)]
    assert min(outcomes.count(outcome) for outcome in ("ExpressionError", "EvaluationError", "value")) > 50


if __name__ == "__main__":
    dice = random.Random(int(sys.argv[1]))
    for _ in range(int(sys.argv[2])):
        check(build(dice, dice.choice([2, 3, 4])))
