"""Scopes, the fast path, limits and hygiene of expressions; what CEL itself does is in test_template_conformance."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.domain import cel_cost
from stepwell.domain.cel_library import CelError, Program, parse
from stepwell.domain.errors import EvaluationError, ExpressionError
from stepwell.domain.expressions import (
    STEP_VARIABLES,
    TRIGGER_VARIABLES,
    Context,
    Expression,
    Scope,
    compile_expression,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
STEP = Scope(STEP_VARIABLES, bare=True)
TRIGGER = Scope(TRIGGER_VARIABLES)


def context(**variables: Any) -> Context:
    return Context(variables, now=NOW)


def evaluate(text: str, scope: Scope = STEP, **variables: Any) -> Any:
    return compile_expression(text, scope).evaluate(context(**variables))


class TestScope:
    def test_an_unknown_field_of_a_known_shape_is_refused(self) -> None:
        scope = Scope(STEP_VARIABLES, bare=True, fields=frozenset({"email", "age"}))
        assert evaluate("email", scope, input={"email": "x"}) == "x"
        for text in ("emial", "emial.lowerAscii()", "input.emial", "input['emial']"):
            with pytest.raises(ExpressionError, match=r"has no field emial; did you mean email\?"):
                compile_expression(text, scope)
        with pytest.raises(ExpressionError, match="its fields are age, email"):
            compile_expression("quite_different", scope)

    def test_an_optional_field_of_a_known_shape_is_not_refused(self) -> None:
        scope = Scope(STEP_VARIABLES, bare=True, fields=frozenset({"email"}))
        assert evaluate("input.?extra.orValue(1)", scope, input={"email": "x"}) == 1
        assert evaluate("has(extra)", scope, input={"email": "x"}) is False

    def test_a_variable_wins_over_a_field(self) -> None:
        assert evaluate("index + 1", input={"index": "field"}, index=1) == 2

    @pytest.mark.parametrize("name", ["item", "index", "error"])
    def test_a_variable_of_other_places_is_no_bare_name(self, name: str) -> None:
        scope = Scope(frozenset({"input", "run", "steps"}), bare=True)
        with pytest.raises(ExpressionError, match=f"the variable {name} is not available here.*input.{name}"):
            compile_expression(name, scope)
        assert compile_expression(f"input.{name}", scope).evaluate(Context({"input": {name: 1}}, now=NOW)) == 1

    def test_without_bare_names_an_unknown_name_is_refused(self) -> None:
        with pytest.raises(ExpressionError, match=r"there is no variable bodi here; did you mean body\?"):
            compile_expression("bodi.x", TRIGGER)
        with pytest.raises(ExpressionError, match="there are body, event, headers, method, query, trigger"):
            compile_expression("input.x", TRIGGER)
        assert evaluate("headers['x-event'] == 'push'", TRIGGER, headers={"x-event": "push"}) is True

    @pytest.mark.parametrize(
        ("text", "variables"),
        [
            ("email", {"input"}),
            ("input.a + run.id", {"input", "run"}),
            ("steps.a.output", {"steps"}),
            ("[1].map(item, item)", set()),
            ("[item].map(item, item)", {"item"}),
            ("items.map(index, index + age)", {"input"}),
            ("cel.bind(error, 1, error)", set()),
            ("now()", set()),
            ("1", set()),
        ],
    )
    def test_variables(self, text: str, variables: set[str]) -> None:
        scope = Scope(STEP_VARIABLES, steps=frozenset({"a"}), declared=frozenset({"a"}), bare=True)
        assert compile_expression(text, scope).variables == variables

    def test_text_is_the_users(self) -> None:
        assert compile_expression("has(email) && age>1", STEP).text == "has(email) && age>1"

    @pytest.mark.parametrize("text", ["", "  ", "\n", "// only a comment", "a\0", "'\ud800'"])
    def test_what_is_no_expression(self, text: str) -> None:
        with pytest.raises(ExpressionError):
            compile_expression(text, STEP)

    def test_a_long_expression_is_shortened_in_messages(self) -> None:
        with pytest.raises(ExpressionError) as caught:
            compile_expression("'" + "x" * 1000 + "' + 1", STEP)
        assert len(str(caught.value)) < 300

    def test_the_placeholder_of_a_failed_compilation_can_be_made(self) -> None:
        assert isinstance(Expression.__new__(Expression), Expression)


class TestTest:
    def test_booleans(self) -> None:
        assert compile_expression("age > 18", STEP).test(context(input={"age": 19})) is True
        assert compile_expression("ok", STEP).test(context(input={"ok": False})) is False

    @pytest.mark.parametrize(("value", "kind"), [(1, "a number"), ("true", "a string"), (None, "null"), ([], "a list")])
    def test_anything_else_is_an_error(self, value: Any, kind: str) -> None:
        with pytest.raises(EvaluationError, match=f"x: a condition is true or false, but this is {kind}"):
            compile_expression("x", STEP).test(context(input={"x": value}))


KEYS = st.sampled_from(["a", "b", "c", "output", "in", "0", "é", "a-b"])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False)
)
JSON = st.recursive(
    LEAVES, lambda child: st.lists(child, max_size=3) | st.dictionaries(KEYS, child, max_size=4), max_leaves=12
)
PARTS = st.lists(KEYS | st.integers(0, 3), min_size=1, max_size=5)


def _suffix(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if part.isascii() and part.isidentifier() and part != "in" else f"['{part}']"


class TestPlainPaths:
    @settings(max_examples=400, deadline=None)
    @given(value=JSON, parts=PARTS)
    def test_the_fast_path_is_what_the_library_does(self, value: Any, parts: list[str | int]) -> None:
        path = "".join(map(_suffix, parts))
        try:
            expected = repr(Program("_sw_0" + path).run({"_sw_0": value}))
        except CelError:
            expected = "error"
        try:
            found = repr(_sorted(evaluate("input" + path, input=value)))
        except EvaluationError:
            found = "error"
        assert found == expected

    @settings(max_examples=300, deadline=None)
    @given(value=JSON, parts=PARTS, form=st.sampled_from(["has({})", "[{}]", "type({}) == string", "{} == null"]))
    def test_an_alias_is_what_the_library_does(self, value: Any, parts: list[str | int], form: str) -> None:
        path = "".join(map(_suffix, parts))
        if form.startswith("has") and path.endswith("]"):
            path += ".a"
        try:
            expected = Program(form.format("_sw_0" + path)).run({"_sw_0": value})
        except CelError:
            expected = "error"
        try:
            found = evaluate(form.format("input" + path), input=value)
        except EvaluationError:
            found = "error"
        assert found == expected

    @settings(max_examples=200, deadline=None)
    @given(value=JSON, parts=PARTS, key=KEYS)
    def test_an_optional_field_is_what_the_library_does(self, value: Any, parts: list[str | int], key: str) -> None:
        tail = "".join(map(_suffix, parts)) + f"[?'{key}'].orValue('none')"
        try:
            expected = Program("_sw_0" + tail).run({"_sw_0": value})
        except CelError:
            expected = "error"
        try:
            found = evaluate("input" + tail, input=value)
        except EvaluationError:
            found = "error"
        assert found == expected

    def test_a_path_needs_no_library(self) -> None:
        marker = object()
        assert evaluate("input.a.b", input={"a": {"b": marker}}) is marker

    def test_white_space_and_comments_in_a_path(self) -> None:
        assert evaluate("input . a // here\n [ 0 ]", input={"a": ["x"]}) == "x"


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


BIG = "x" * (1 << 20)
BOMBS = [
    ("s.replace('x', s)", {"s": "x" * 32768}),
    ("s.replace('', s)", {"s": "x" * 32768}),
    ("s.replace('x', s).replace('x', s)", {"s": "x" * 2000}),
    ("n.map(x, s + 'y')", {"s": BIG, "n": list(range(1000))}),
    ("n.map(x, s + string(x)).join()", {"s": BIG, "n": list(range(100))}),
    ("n.map(x, s)", {"s": BIG, "n": list(range(1000))}),
    ("n.map(x, n)", {"n": list(range(5000))}),
    ("n.map(x, 1)", {"n": list(range(9999))}),
    ("n.filter(x, true)", {"n": list(range(9999))}),
    ("n.map(x, n.map(y, [x, y]))", {"n": list(range(150))}),
    ("n.all(x, n.all(y, s.contains(string(x))))", {"s": BIG, "n": list(range(90))}),
    ("n.join(s)", {"s": "x" * 100_000, "n": ["a"] * 1000}),
    ("s.split('').map(x, x)", {"s": "x" * 9000}),
    ("cel.bind(a,s+s,cel.bind(b,a+a,cel.bind(c,b+b,cel.bind(d,c+c,cel.bind(e,d+d,cel.bind(f,e+e,f+f))))))", {"s": BIG}),
    ("lists.range(2000).map(x, lists.range(2000))", {}),
    ("json(s).map(x, s)", {"s": "[" + "1," * 5000 + "1]"}),
    ("input.?o.orValue([]).map(x, x)", {"o": list(range(9000))}),
    ("[s].map(a, a + a + a + a).map(a, a + a + a + a).map(a, a + a + a + a).map(a, a + a + a + a)", {"s": BIG}),
    (
        "optional.of(s + s).optMap(a, a + a + a + a + a + a + a + a).optMap(a, a + a + a + a + a + a + a + a).value()",
        {"s": BIG},
    ),
]


class TestLimits:
    @pytest.mark.parametrize(("text", "values"), BOMBS, ids=[text[:40] for text, _ in BOMBS])
    def test_a_bomb_fails_at_once_and_takes_no_memory(self, text: str, values: dict[str, Any]) -> None:
        expression = compile_expression(text, STEP)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.process_time()
        with pytest.raises(EvaluationError, match=r"memory|10,000 iterations"):
            expression.evaluate(context(input=values))
        assert time.process_time() - started < 2
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB

    @pytest.mark.parametrize(
        ("text", "values"),
        [
            ("n.map(x, x + 1)", {"n": list(range(1500))}),
            (
                "n.filter(x, x.id > 3).map(x, x.name).join(', ')",
                {"n": [{"id": i, "name": "n" * 50} for i in range(1000)]},
            ),
            ("s.replace('\\n', '<br>')", {"s": "line\n" * 100_000}),
            ("n.all(x, x in n)", {"n": list(range(1500))}),
            ("n.map(o, o.l.map(i, i.v))", {"n": [{"l": [{"v": i} for i in range(10)]} for _ in range(100)]}),
            ("input.?n.orValue([]).map(o, o.id)", {"n": [{"id": i, "t": "x" * 500} for i in range(1000)]}),
            ("n.exists(x, x.id == 9999)", {"n": [{"id": i, "t": "x" * 90} for i in range(9999)]}),
            ("s.lowerAscii().split('\\n').size()", {"s": "LINE\n" * 100_000}),
        ],
    )
    def test_honest_work_is_done(self, text: str, values: dict[str, Any]) -> None:
        compile_expression(text, STEP).evaluate(context(input=values))

    def test_a_short_circuit_does_not_hide_a_bomb(self) -> None:
        with pytest.raises(EvaluationError, match="memory"):
            evaluate("ok || s.replace('x', s) == ''", input={"ok": False, "s": "x" * 32768})

    @pytest.mark.parametrize(
        "text", ["a + b", "size(a) > 0 && b == 'x'", "'%s-%s'.format([a, b])", "a.replace('x', '')"]
    )
    def test_plain_work_needs_no_closer_look(self, text: str) -> None:
        assert cel_cost.harmless(parse(text), ["a", "b"]) == cel_cost.DOCUMENT

    def test_the_estimate_itself_is_quick(self) -> None:
        started = time.process_time()
        sums = "(" + " + ".join(["s"] * 12) + ")"
        compile_expression(f"n.map(a, n.map(b, n.map(c, n.map(d, [{', '.join([sums] * 40)}]))))", STEP)
        compile_expression("s" + ".replace('a', 'b')" * 25, STEP)
        assert time.process_time() - started < 3

    def test_iterations(self) -> None:
        with pytest.raises(EvaluationError, match="more than 10,000 iterations"):
            evaluate("n.all(x, n.all(y, y >= 0))", input={"n": list(range(200))})

    def test_a_regular_expression_is_linear(self) -> None:
        started = time.process_time()
        assert evaluate("s.matches('^(x+)+$')", input={"s": "x" * 100_000 + "!"}) is False
        assert time.process_time() - started < 1

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(st.integers(0, 9) | st.text("ab", max_size=4), max_size=6),
        st.text("ab", max_size=30),
        st.sampled_from(
            [
                "n.map(x, s)",
                "s.replace('a', s)",
                "n.map(x, n.map(y, s + 'a'))",
                "n.filter(x, true).map(x, [x, s])",
                "s.split('a').join(s)",
                "n.map(x, string(x)).join(s)",
                "s + s + s",
                "[s, s].map(a, a + a + s)",
            ]
        ),
    )
    def test_the_estimate_is_never_less_than_the_result(self, n: list[Any], s: str, text: str) -> None:
        result = evaluate(text, input={"n": n, "s": s})
        names = {"_sw_0": "n", "_sw_1": "s"}
        tree = parse(text.replace("n.", "_sw_0.").replace("s.", "_sw_1."))
        sizes = {alias: cel_cost.measure({"n": n, "s": s}[name]) for alias, name in names.items()}
        sizes |= {"n": sizes["_sw_0"], "s": sizes["_sw_1"]}
        assert cel_cost.work(tree, sizes) + 16 >= _text_size(result)


def _text_size(value: Any) -> int:
    return sum(map(_text_size, value)) if isinstance(value, list) else len(value) if isinstance(value, str) else 0


class TestOptionals:
    """In the library many of those that are refused end the process with a segmentation fault."""

    @pytest.mark.parametrize(
        "text",
        [
            "{'a': input.?x}",
            "{'a': {'b': optional.of(1)}}",
            "[input.?x]",
            "{'a': [1].first()}",
            "n.map(i, {'a': input.?x})",
            "n.map(i, i.?x)",
            "n.map(i, [optional.none()])",
            "true ? {'a': input.?x} : {}",
            "cel.bind(o, input.?x, {'a': o})",
            "input.?x.optMap(x, {'a': optional.of(x)})",
            "{'a': input.?x.optMap(y, y)}",
            "{'a': input.?x.optFlatMap(y, input.?y)}",
            "optional.of({'a': input.?x})",
            "optional.of({'a': input.?x}).value()",
            "optional.of({'a': input.?x}).orValue({})",
            "[{'a': input.?x}][0]",
            "[{'a': input.?x}].filter(o, true)",
            "toJson({'a': input.?x})",
            "[{'a': input.?x}].distinct()",
            "(true ? {'a': input.?x} : {}).map(k, k)",
            "[[{'a': input.?x}]].flatten()",
            "n.map(i, {'a': input.?x})[0]",
        ],
    )
    def test_what_would_convert_one_is_refused(self, text: str) -> None:
        with pytest.raises(ExpressionError, match="optional"):
            compile_expression(text, STEP)

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("{?'a': input.?x, ?'b': input.?nope}", {"a": 7}),
            ("[?input.?nope, 1]", [1]),
            ("{'a': input.?x.orValue(0)}", {"a": 7}),
            ("{'a': input.?x.hasValue()}", {"a": True}),
            ("n.map(i, optional.of(i)).filter(o, o.hasValue()).map(o, o.value())", [1, 2]),
            ("n.map(i, optional.of(i)).exists(o, o.hasValue())", True),
            ("size([input.?x])", 1),
            ("[input.?x][0].orValue(1)", 7),
            ("input.?x.optMap(x, {'a': x})", {"a": 7}),
            ("n.first().or(n.last()).value()", 1),
            ("true ? input.?x : optional.of(1)", 7),
            ("input.x == 7 ? input.?x : optional.of(1)", 7),
            ("{'a': n.first().value()}", {"a": 1}),
            ("[1].map(i, input.?x.orValue(i))", [7]),
        ],
    )
    def test_what_uses_one_works(self, text: str, value: Any) -> None:
        assert evaluate(text, input={"x": 7, "n": [1, 2]}) == value


LONG_LISTS = [
    "n.map(i, i.v)",
    "n.filter(i, i.v > 3)",
    "n.filter(i, i.v > 3).map(i, i.v + 1)",
    "n.map(i, i.v > 3, i)",
    "n.map(i, i.v).filter(v, v in n.map(i, i.v))",
    "n.map(i, i.v).size() + n.filter(i, i.v > 3).size()",
    "n.filter(i, n.exists(j, j.v == i.v)).map(i, string(i.v)).join(',')",
    "n.map(i, {'id': i.v, 'in': [i]})",
    "n.map(i, m.map(j, i.v + j))",
    "n.map(i, i.?nope.orValue(i.v))",
    "n.map(i, i.?v).filter(o, o.hasValue()).size()",
    "n.map(i, i.nope)",
    "n.map(i, '\\u0000')",
    "n.map(i, type(i.v)).size()",
    "n.map(i, now())",
    "n.map(i, ')' + \"]\" + '''}''')",
    "o.map(k, k + '!').join()",
    "[n.map(i, i.v), n.map(i, -i.v)]",
]


class TestLongLists:
    @pytest.mark.parametrize("text", LONG_LISTS)
    def test_chunks_change_nothing(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        values = {"n": [{"v": i} for i in range(70)], "m": [1, 2], "o": {f"k{i}": i for i in range(70)}}
        outcomes = []
        for length in (1, 10_000):
            monkeypatch.setattr("stepwell.domain.cel_chunks.LONG", length)
            try:
                outcomes.append(evaluate(text, input=values))
            except EvaluationError as exc:
                outcomes.append(str(exc))
        assert outcomes[0] == outcomes[1]

    @pytest.mark.parametrize("text", ["n.map(i, i + 1)", "n.filter(i, i > 3).map(i, string(i)).size()"])
    def test_thousands_of_items_are_quick(self, text: str) -> None:
        started = time.process_time()
        evaluate(text, input={"n": list(range(4_000))})
        assert time.process_time() - started < 0.5


class TestHygiene:
    def test_results_are_detached(self) -> None:
        given = {"a": [{"b": 1}]}
        result = evaluate("[input]", input=given)
        result[0]["a"][0]["b"] = 2
        assert given == {"a": [{"b": 1}]}
        assert type(result[0]) is dict

    def test_a_constant_list_is_new_every_time(self) -> None:
        expression = compile_expression("[1, 2]", STEP)
        expression.evaluate(context()).append(3)  # type: ignore[union-attr]
        assert expression.evaluate(context()) == [1, 2]

    def test_two_expressions_share_what_they_read(self) -> None:
        shared = context(input={"items": [1, 2, 3]})
        assert compile_expression("items.map(x, x + 1)", STEP).evaluate(shared) == [2, 3, 4]
        assert compile_expression("items.map(x, x * 2)", STEP).evaluate(shared) == [2, 4, 6]
        assert len(shared.activations) == 1
        assert compile_expression("size(items)", STEP).evaluate(shared) == 3
        assert compile_expression("now() > timestamp(items[0])", STEP)
        assert len(shared.activations) == 2

    def test_contexts_do_not_share(self) -> None:
        expression = compile_expression("items.map(x, x)", STEP)
        assert expression.evaluate(context(input={"items": [1]})) == [1]
        assert expression.evaluate(context(input={"items": [2]})) == [2]
        with pytest.raises(EvaluationError, match='no key "items"'):
            expression.evaluate(context(input={}))

    def test_compiled_expressions_are_cached_by_text_and_scope(self) -> None:
        assert compile_expression("email", STEP) is compile_expression("email", Scope(STEP_VARIABLES, bare=True))
        assert compile_expression("input.x", STEP) is not compile_expression("input.x", Scope(STEP_VARIABLES))

    def test_evaluation_keeps_no_memory(self) -> None:
        expressions = [
            compile_expression(text, STEP)
            for text in ("email.lowerAscii()", "items.map(i, i + 1)", "has(nope)", "toJson(items)", "input.?x")
        ]
        values = {"email": "ANN" * 20, "items": list(range(20))}

        def many(times: int) -> None:
            for _ in range(times):
                fresh = context(input=values)
                for expression in expressions[:-1]:
                    expression.evaluate(fresh)
                with pytest.raises(EvaluationError):
                    expressions[-1].evaluate(fresh)

        many(2_000)
        before = _resident()
        many(20_000)
        assert _resident() - before < 8 << 20

    def test_every_process_renders_the_same(self) -> None:
        script = (
            "from datetime import datetime, UTC\n"
            "from stepwell.domain.expressions import *\n"
            "scope = Scope(STEP_VARIABLES, bare=True)\n"
            "o = {f'key{n}': {f'k{m}': m for m in range(9)} for n in range(9)}\n"
            "for text in ('o.map(k, k)', '[o]', 'toJson(o)', 'input.map(k, k)', 'o.key1.filter(k, true)', \"'%s'.format([o])\",\n"
            "             '{\"b\": 1, \"a\": 2, \"c\": 3}.map(k, k)', 'json(toJson(o)).map(k, k)', '[o].map(x, x.map(k, k))',\n"
            "             'input.?o.orValue({}).map(k, k)', '(true ? o : o).map(k, k)', '[o][0].map(k, k)', 'cel.bind(p, o, p.map(k, k))'):\n"
            "    print(compile_expression(text, scope).evaluate(Context({'input': {'o': o}}, now=datetime.now(UTC))))\n"
        )
        outputs = {
            subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout for _ in range(4)
        }
        assert len(outputs) == 1


def _resident() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123 - a pseudo file
        return int(file.read().split()[1]) * resource.getpagesize()
