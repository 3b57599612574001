"""The contract of templates and expressions as a table: text, and the value or the words of the error it must give."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from stepwell.domain.errors import EvaluationError
from stepwell.domain.expressions import STEP_VARIABLES, Context, Scope
from stepwell.domain.template import compile_template

SCOPE = Scope(STEP_VARIABLES, steps=frozenset({"a"}), declared=frozenset({"a", "later"}), bare=True)
VARIABLES: dict[str, Any] = {
    "input": {
        "email": "ann@example.com",
        "age": 30,
        "ratio": 1.0,
        "ok": True,
        "nothing": None,
        "user": {"name": "Ann", "tags": ["x", "y"], "deep": {"n": 1}},
        "items": [{"n": 1, "w": "one"}, {"n": 2, "w": "two"}],
        "numbers": [3, 1, 2],
        "text": 'say "hi" {{ email }}',
        "uni": "héllo 𝄞",
        "big": 9223372036854775807,
        "small": -9223372036854775808,
        "type": "shadow",
        "in": "word",
        "a-b": "dash",
        "braces": "}}{{",
        "zoo": {"zebra": 1, "ant": 2, "mole": 3},
        "doc": '{"k": [1, 2.0, null]}',
        "empty": "",
        "grid": [[1, 2], [3]],
    },
    "run": {"id": "r1", "namespace": "growth", "workflow": "welcome", "input": {"q": 1}},
    "steps": {
        "a": {"output": {"x": [10, 20], "y": None}, "status": "Succeeded", "error": None, "http": {"status": 201}}
    },
    "item": {"id": 7},
    "index": 3,
}
NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)

VALUES: list[tuple[str, Any]] = [
    # literal text
    ("", ""),
    ("plain", "plain"),
    ("{ not } a { template }", "{ not } a { template }"),
    ("}} alone", "}} alone"),
    ("{ { email } }", "{ { email } }"),
    ("a\nb\t", "a\nb\t"),
    # the whole string is one expression: the type is kept
    ("{{ email }}", "ann@example.com"),
    ("{{email}}", "ann@example.com"),
    ("  {{ email }}\n", "ann@example.com"),
    ("{{\n  email\n}}", "ann@example.com"),
    ("{{ age }}", 30),
    ("{{ ratio }}", 1.0),
    ("{{ ok }}", True),
    ("{{ nothing }}", None),
    ("{{ null }}", None),
    ("{{ user }}", VARIABLES["input"]["user"]),
    ("{{ input }}", VARIABLES["input"]),
    ("{{ user.tags }}", ["x", "y"]),
    ("{{ user.tags[1] }}", "y"),
    ("{{ (user.name) }}", "Ann"),
    ("{{ big }}", 9223372036854775807),
    ("{{ small }}", -9223372036854775808),
    ("{{ empty }}", ""),
    # interpolation
    ("Hi {{ user.name }}!", "Hi Ann!"),
    ("{{ user.name }}{{ age }}", "Ann30"),
    ("{{ user.name }} {{ age }}", "Ann 30"),
    ("n={{ ratio }}", "n=1.0"),
    ("b={{ ok }}", "b=true"),
    ("l={{ user.tags }}", 'l=["x","y"]'),
    ("o={{ user.deep }}", 'o={"n":1}'),
    ("{{ uni }}!", "héllo 𝄞!"),
    ("e={{ empty }}", "e="),
    ("big={{ big }}", "big=9223372036854775807"),
    # what a template produced is never scanned again
    ("{{ text }}", 'say "hi" {{ email }}'),
    ("<{{ text }}>", '<say "hi" {{ email }}>'),
    ("{{ braces }}x", "}}{{x"),
    # strings, braces and comments of CEL inside
    ("{{ '{{' }}", "{{"),
    ("{{ '}}' }}", "}}"),
    ("{{ '{{' }} raw {{ '}}' }}", "{{ raw }}"),
    ('{{ "}}" }}', "}}"),
    ("{{ '''}}''' }}", "}}"),
    ('{{ """a"}}"b""" }}', 'a"}}"b'),
    (r"{{ '\'}}' }}", "'}}"),
    (r'{{ "\"}}\"" }}', '"}}"'),
    (r"{{ r'\}}' }}", r"\}}"),
    (r'{{ r"\}}" + "x" }}', r"\}}x"),
    ("{{ b'}}' }}", "fX0="),
    ("{{ bR'}}' }}", "fX0="),
    ("{{ {'a': {'b': 1}} }}", {"a": {"b": 1}}),
    ("{{ {'a': 1}}}", {"a": 1}),
    ("{{{'a': 1}}}", {"a": 1}),
    ("{{{'a': {'b': '}}'}}}}", {"a": {"b": "}}"}}),
    ("{{ {'}}': '{{'} }}", {"}}": "{{"}),
    ("{{ {} }}", {}),
    ("{{ [] }}", []),
    ("{{ [1, [2, [3]]] }}", [1, [2, [3]]]),
    ("{{ email // a comment }}", "ann@example.com"),
    ("{{ email // don't\n }}", "ann@example.com"),
    ("{{ // first\n age + 1 // last\n }}", 31),
    ("{{ '// no comment' }}", "// no comment"),
    ("it's {{ user.name }}'s", "it's Ann's"),
    # names
    ("{{ input.type }}", "shadow"),
    ("{{ input['in'] }}", "word"),
    ("{{ input['a-b'] }}", "dash"),
    ('{{ input["user"].name }}', "Ann"),
    ("{{ run.namespace }}", "growth"),
    ("{{ run.input.q }}", 1),
    ("{{ steps.a.output.x[0] }}", 10),
    ("{{ steps.a.status }}", "Succeeded"),
    ("{{ steps['a'].http.status }}", 201),
    ("{{ steps.a.error == null }}", True),
    ("{{ steps.a.?http.status.orValue(0) }}", 201),
    ("{{ item.id + index }}", 10),
    ("{{ items.map(item, item.n) }}", [1, 2]),
    ("{{ items.map(input, input.w) }}", ["one", "two"]),
    ("{{ type(age) == int }}", True),
    ("{{ numbers.map(email, email * 2) }}", [6, 2, 4]),
    # presence
    ("{{ has(email) }}", True),
    ("{{ has(nope) }}", False),
    ("{{ has(user.name) }}", True),
    ("{{ has(user.nope) }}", False),
    ("{{ has(nothing) }}", True),
    ("{{ has(steps.a.output.z) }}", False),
    ("{{ input.?nope.orValue('none') }}", "none"),
    ("{{ user.?name.orValue('none') }}", "Ann"),
    ("{{ user.?nope.deeper.orValue(0) }}", 0),
    ("{{ input[?'in'].orValue('') }}", "word"),
    ("{{ user.?name }}", "Ann"),
    ("{{ input[?'email'] }}", "ann@example.com"),
    ("{{ user.?name.optMap(n, n + '!').orValue('') }}", "Ann!"),
    ("{{ {?'a': user.?nope, ?'b': user.?name} }}", {"b": "Ann"}),
    ("{{ [?user.?nope, ?user.?name] }}", ["Ann"]),
    ("{{ nope || true }}", True),
    ("{{ false && nope }}", False),
    ("{{ ok ? age : nope }}", 30),
    # operators and conversions
    ("{{ age + 1 }}", 31),
    ("{{ double(age) * 1.5 }}", 45.0),
    ("{{ age > 29.5 }}", True),
    ("{{ 7 / 2 }}", 3),
    ("{{ -7 % 3 }}", -1),
    ("{{ 1.0 }}", 1.0),
    ("{{ 1e3 }}", 1000.0),
    ("{{ 0x10 }}", 16),
    ("{{ 5u }}", 5),
    ("{{ 'a' + 'b' }}", "ab"),
    ("{{ [1] + [2] }}", [1, 2]),
    ("{{ 'x' in user.tags }}", True),
    ("{{ 'name' in user }}", True),
    ("{{ size(uni) }}", 7),
    ("{{ string(age) }}", "30"),
    ("{{ int('42') }}", 42),
    ("{{ b'\\xff' }}", "/w=="),
    ("{{ {1: 'a', 2u: 'b'} }}", {"1": "a", "2": "b"}),
    ("{{ {true: 1} }}", {"true": 1}),
    # extensions
    ("{{ email.split('@')[1] }}", "example.com"),
    ("{{ user.tags.join('-') }}", "x-y"),
    ("{{ '%s is %d'.format([user.name, age]) }}", "Ann is 30"),
    ("{{ email.upperAscii() }}", "ANN@EXAMPLE.COM"),
    ("{{ email.substring(0, 3) }}", "ann"),
    ("{{ '  x '.trim() }}", "x"),
    ("{{ email.replace('@', ' at ') }}", "ann at example.com"),
    ("{{ math.greatest(age, 99) }}", 99),
    ("{{ math.ceil(1.2) }}", 2.0),
    ("{{ base64.encode(b'hi') }}", "aGk="),
    ("{{ string(base64.decode('aGk=')) }}", "hi"),
    ("{{ cel.bind(n, age + 1, n * n) }}", 961),
    ("{{ optional.of(1).orValue(2) }}", 1),
    ("{{ numbers.sort() }}", [1, 2, 3]),
    ("{{ numbers.slice(0, 2) }}", [3, 1]),
    ("{{ grid.flatten() }}", [1, 2, 3]),
    ("{{ [1, 1, 2].distinct() }}", [1, 2]),
    ("{{ lists.range(3) }}", [0, 1, 2]),
    ("{{ items.filter(i, i.n > 1).map(i, i.w) }}", ["two"]),
    ("{{ items.exists(i, i.w == 'two') && items.all(i, i.n > 0) }}", True),
    ("{{ email.matches('^[a-z]+@') }}", True),
    # maps are visited and returned in the order of their keys
    ("{{ zoo.map(k, k) }}", ["ant", "mole", "zebra"]),
    ("{{ {'b': 1, 'a': 2}.map(k, k) }}", ["a", "b"]),
    ("{{ json(doc).map(k, k) }}", ["k"]),
    ("{{ items.map(i, i.map(k, k)) }}", [["n", "w"], ["n", "w"]]),
    ("{{ input.?zoo.orValue({}).map(k, k).join() }}", "antmolezebra"),
    ("z={{ [zoo] }}", 'z=[{"ant":2,"mole":3,"zebra":1}]'),
    # our own functions
    ("{{ json(doc).k }}", [1, 2.0, None]),
    ("{{ toJson(zoo) }}", '{"ant":2,"mole":3,"zebra":1}'),
    ("{{ toJson('a\"b') }}", '"a\\"b"'),
    ("{{ sha256('abc') }}", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    ("{{ urlencode('a b/c?ü') }}", "a%20b%2Fc%3F%C3%BC"),
    ("{{ now() }}", "2026-01-02T03:04:05.678Z"),
    ("{{ string(now() - duration('1h')) }}", "2026-01-02T02:04:05.678Z"),
    ("{{ now().getFullYear() }}", 2026),
    ("at {{ now() }}", "at 2026-01-02T03:04:05.678Z"),
    ("{{ timestamp('2026-01-01T00:00:00+02:00') }}", "2025-12-31T22:00:00Z"),
    ("{{ duration('3.5s') }}", "3.500s"),
    ("{{ duration('-90m') }}", "-5400s"),
]

COMPILE_ERRORS: list[tuple[str, str]] = [
    ("{{ email", "is not closed"),
    ("text {{ email }", "is not closed"),
    ("{{ email }} and {{ more", "character 17 is not closed"),
    ("{{", "is not closed"),
    ("{{ 'abc }}", "a string opens with '"),
    ("{{ {'a': 1 }}", "is not closed"),
    ("{{ it's }}", "a string opens with '"),
    ("{{ }}", "holds no expression"),
    ("{{}}", "holds no expression"),
    ("a {{\n}} b", "holds no expression"),
    ("{{ 1 + }}", "ends too early"),
    ("{{ email email }}", "unexpected email"),
    ("{{ [1, 2 }}", "ends too early"),
    ("{{ a ? b }}", "ends too early"),
    ("{{ email } }}", "unexpected }"),
    ("{{ {{ email }} }}", "unexpected }"),
    ("{{ 9223372036854775808 }}", "invalid int literal"),
    ("{{ '\\ud800' }}", "\\ud800"),
    (r"{{ r'\' }}", "String must end with"),  # the library's own limit
    ("{{ steps.later.output }}", "step later does not come before this one"),
    ("{{ steps.latr.output }}", "there is no step latr; did you mean later?"),
    ("{{ steps.a.outputs }}", "steps.a has no field outputs; did you mean output?"),
    ("{{ steps.a.?outputs }}", "steps.a has no field outputs"),
    ("{{ steps['a']['outputs'] }}", "steps.a has no field outputs"),
    ("{{ steps }}", "steps is read by name"),
    ("{{ steps[email] }}", "steps is read by name"),
    ("{{ steps.?a }}", "steps is read by name"),
    ("{{ steps.map(s, s) }}", "steps is read by name"),
    ("{{ has(steps.a) }}", "steps is read by name"),
    ("{{ numbers.map(n, steps) }}", "steps is read by name"),
    ("{{ run.nmespace }}", "run has no field nmespace; did you mean namespace?"),
    ("{{ package }}", "package is a reserved word of CEL; write input.package"),
    ("{{ .email }}", "write email without the dot"),
    ("{{ [user.?nope] }}", "may hold an optional"),
    ("{{ {'a': user.?name} }}", "may hold an optional"),
    ("{{ toJson({'a': user.?name}) }}", "toJson() cannot be given"),
    ("{{ nofunction(1) }}", "there is no function nofunction()"),
    ("{{ email.nomethod() }}", "there is no function nomethod()"),
    ("{{ approvalUrl('a') }}", "no approval step 'a' has link: Enabled"),
    ("{{ 'a' + 1 }}", "there is no string + int"),
    ("{{ size(1) }}", "there is no size(int)"),
    ("{{ google.protobuf.Timestamp{seconds: 1} }}", "is not supported"),
    ("{{ numbers.map(_sw_x, 1) }}", "reserved"),
    ("{{ _sw_each(numbers) }}", "there is no function"),
    ("{{ " + "(" * 50 + "1" + ")" * 50 + " }}", "nested too deeply"),
    ("{{ " + " + ".join(["age"] * 50) + " }}", "nested too deeply"),
    ("{{ '" + "x" * 4096 + "' }}", "at most 4,096"),
    ("{{ numbers" + ".map(x, x)" * 9 + " }}", "at most 8"),
    ("{{ numbers.map(a, numbers.map(b, numbers.map(c, numbers.map(d, numbers.map(e, 1))))) }}", "more than 4 deep"),
    ("{{ [" + ", ".join(f"input.f{n}" for n in range(65)) + "] }}", "at most 64"),
    ("\0{{ 'a\0' }}", "NUL"),
]

EVALUATION_ERRORS: list[tuple[str, str]] = [
    ("{{ nope }}", 'nope: there is no key "nope" in the step\'s input'),
    ("{{ input.nope }}", 'input.nope: there is no key "nope" in input'),
    ("{{ user.nope }}", 'there is no key "nope" in input.user'),
    ("{{ user.nope + 'x' }}", "user.nope + 'x': there is no key \"nope\" in input.user"),
    ("{{ nope.deeper.still }}", 'there is no key "nope"'),
    ("{{ has(nope.deeper) }}", 'there is no key "nope"'),
    ("{{ items.map(i, i.nope) }}", 'there is no key "nope"'),
    ("{{ email.x }}", "input.email is a string, so it has no .x"),
    ("{{ email[0] }}", "input.email is a string, so it has no [0]"),
    ("{{ user[0] }}", "input.user is an object, so it has no [0]"),
    ("{{ numbers.x }}", "input.numbers is a list, so it has no .x"),
    ("{{ numbers[3] }}", "there is no item [3] in input.numbers, which has 3"),
    ("{{ numbers[age] }}", "there is no item [30] in a list of 3"),
    ("{{ nothing.x }}", "input.nothing is null"),
    ("{{ error }}", "there is no error here"),
    ("{{ input.?nope }}", "write .orValue"),
    ("{{ optional.none() }}", "write .orValue"),
    ("a{{ nothing }}", "null has no text"),
    ("a{{ null }}", "null has no text"),
    ("{{ age + ratio }}", "there is no int + double; convert one of them"),
    ("{{ email ? 1 : 2 }}", "a condition is not a boolean"),
    ("{{ age.map(x, x) }}", "neither a list nor an object"),
    ("{{ json('3').map(x, x) }}", "neither a list nor an object"),
    ("{{ 1 / 0 }}", "divide by zero"),
    ("{{ big + 1 }}", "integer overflow"),
    ("{{ 18446744073709551615u }}", "beyond 64 bits"),
    ("{{ 1.0 / 0.0 }}", "JSON does not have"),
    ("{{ double('nan') }}", "JSON does not have"),
    ("{{ '\\u0000' }}", "NUL"),
    ("{{ {'\\u0000': 1} }}", "NUL"),
    ("{{ ['a' + string(b'\\x00')] }}", "NUL"),
    ("a{{ '\\x00' }}", "NUL"),
    ("{{ type(1) }}", "is a type"),
    ("{{ {'1': 1, 1: 2} }}", "two keys are the same"),
    ("{{ int('x') }}", "cannot convert"),
    ("{{ json('{') }}", "not valid JSON"),
    ("{{ json('[' + '1' + '0000000000000000000000]') }}", "beyond 64 bits"),
    ("{{ json('\"\\\\u0000\"') }}", "NUL"),
    ("{{ email.matches('(') }}", "missing )"),
    ("{{ numbers.slice(2, 9) }}", "does not lie within"),
    ("{{ [1, 'a'].sort() }}", "sort() takes"),
    ("{{ lists.range(2001) }}", "at most 2,000"),
    ("{{ timestamp('soon') }}", "Timestamp"),
]


def render(text: str) -> Any:
    problems: list[tuple[str, str]] = []
    template = compile_template({"field": text}, SCOPE, lambda path, message: problems.append((path, message)))
    assert problems == []
    return template.render(Context(VARIABLES, now=NOW))["field"]  # type: ignore[call-overload, index]


@pytest.mark.parametrize(("text", "expected"), VALUES)
def test_value(text: str, expected: Any) -> None:
    value = render(text)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(("text", "words"), COMPILE_ERRORS)
def test_refused_at_compile(text: str, words: str) -> None:
    problems: list[tuple[str, str]] = []
    compile_template({"field": text}, SCOPE, lambda path, message: problems.append((path, message)))
    assert [path for path, _ in problems] == [".field"]
    assert words in problems[0][1]
    assert_readable(problems[0][1])


@pytest.mark.parametrize(("text", "words"), EVALUATION_ERRORS)
def test_fails_at_run_time(text: str, words: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        render(text)
    assert words in str(caught.value)
    assert_readable(str(caught.value))


def assert_readable(message: str) -> None:
    """No aliases, no status codes and no overload names of the library."""
    for noise in ("_sw_0", "INVALID_ARGUMENT", "NOT_FOUND", "UNKNOWN:", "ERROR:", "<input>", "Activation", "int64"):
        assert noise not in message
