import time
from typing import Any

import pytest

from stepwell.domain.errors import InputError
from stepwell.domain.schema import InputSchema, check_object, compile_schema

SIGNUP = {
    "type": "object",
    "required": ["email"],
    "properties": {"email": {"type": "string", "pattern": "^[^@]+@[^@]+$"}, "age": {"type": "integer"}},
}


def compiled(schema: dict[str, Any]) -> InputSchema:
    problems: list[Any] = []
    found = compile_schema(schema, lambda path, message: problems.append((path, message)))
    assert problems == []
    assert found is not None
    return found


def refusals(schema: dict[str, Any]) -> list[str]:
    problems: list[str] = []
    assert compile_schema(schema, lambda path, message: problems.append(f"{path}: {message}")) is None
    return problems


def test_a_valid_input_comes_back_as_it_is() -> None:
    given = {"email": "a@b"}
    assert compiled(SIGNUP).validate(given) is given


def test_every_problem_is_named_with_its_path() -> None:
    with pytest.raises(InputError) as caught:
        compiled(SIGNUP).validate({"email": "nobody", "age": "old"})
    assert str(caught.value).splitlines() == [
        'input.age: "old" is not of type "integer"',
        'input.email: "nobody" does not match "^[^@]+@[^@]+$"',
    ]


def test_many_problems_are_cut_short() -> None:
    with pytest.raises(InputError, match="and 80 more problems"):
        compiled({"additionalProperties": {"type": "integer"}}).validate({f"k{i}": "x" for i in range(100)})


@pytest.mark.parametrize(
    ("value", "what"), [(None, "null"), ([], "a list"), ("x", "a text"), (1, "a number"), (True, "true")]
)
def test_an_input_is_always_an_object(value: Any, what: str) -> None:
    for validate in (check_object, compiled({}).validate):
        with pytest.raises(InputError, match=f"always an object, not {what}"):
            validate(value)


def test_defaults_are_filled_in_at_every_depth() -> None:
    schema = compiled(
        {
            "required": ["size"],
            "properties": {
                "size": {"type": "integer", "default": 3},
                "address": {"$ref": "#/$defs/address"},
                "lines": {"type": "array", "items": {"properties": {"count": {"default": 1}}}},
            },
            "$defs": {"address": {"default": {}, "properties": {"country": {"default": "DE"}}}},
        }
    )
    given: dict[str, Any] = {"lines": [{}, {"count": 2}, 7]}
    assert schema.validate(given) == {
        "size": 3,
        "address": {"country": "DE"},
        "lines": [{"count": 1}, {"count": 2}, 7],
    }
    assert given == {"lines": [{}, {"count": 2}, 7]}, "the caller's value is not changed"


def test_defaults_are_not_shared_between_runs() -> None:
    schema = compiled({"properties": {"tags": {"default": []}}})
    first: Any = schema.validate({})
    first["tags"].append("x")
    assert schema.validate({}) == {"tags": []}


@pytest.mark.parametrize(
    ("schema", "fields"),
    [
        (SIGNUP, {"email", "age"}),
        ({"properties": {}}, set()),
        ({"properties": {"a": {}}, "additionalProperties": False}, {"a"}),
        ({"properties": {"a": {}}, "additionalProperties": True}, None),
        ({"properties": {"a": {}}, "patternProperties": {"^x": {}}}, None),
        ({"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}]}, None),
        ({}, None),
    ],
)
def test_known_fields(schema: dict[str, Any], fields: set[str] | None) -> None:
    assert compiled(schema).fields == fields


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "array"}, ".type: a run's input is always an object: write type: object"),
        ({"propertys": {}}, ".propertys: unknown keyword; did you mean properties?"),
        (
            {"properties": {"a": {"type": "strin"}}},
            ".properties.a.type: 'strin' is no type of JSON Schema; did you mean string?",
        ),
        ({"properties": {"a": {"pattern": "(?=a)"}}}, '.properties.a.pattern: "(?=a)" is no pattern'),
        ({"properties": {"a": {"pattern": "(a)\\1"}}}, "is no pattern of RE2's kind"),
        (
            {"properties": {"a": {"$ref": "https://example.com/x"}}},
            ".properties.a.$ref: only references into this schema",
        ),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "only references into this schema"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "points to nothing in this schema"),
        ({"properties": {"a": {"$ref": "#"}}}, "a $ref leads back to this schema"),
        ({"properties": {"a": {"default": "x", "type": "integer"}}}, ".properties.a.default: the default does not fit"),
        ({"properties": 1}, ".properties: 1 is not of type"),
        ({"$id": "x"}, ".$id: $id is not supported"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "the dialect is always JSON Schema 2020-12"),
        ({"description": "x" * 40_000}, "at most 32,768 are allowed"),
    ],
)
def test_a_schema_is_refused_at_apply(schema: dict[str, Any], message: str) -> None:
    assert any(message in problem for problem in refusals(schema))


def test_references_that_unfold_without_end_are_refused() -> None:
    defs: dict[str, Any] = {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(40)}
    assert "parts when its references are followed" in refusals({"$ref": "#/$defs/a0", "$defs": {**defs, "a40": {}}})[0]


def test_a_property_may_have_the_name_of_a_keyword() -> None:
    assert compiled({"properties": {"$id": {"type": "string"}, "propertys": {}}}).fields == {"$id", "propertys"}


def test_patterns_run_in_linear_time() -> None:
    schema = compiled({"properties": {"a": {"pattern": "^(a+)+$"}}})
    started = time.process_time()
    with pytest.raises(InputError):
        schema.validate({"a": "a" * 100_000 + "b"})
    assert time.process_time() - started < 2, "a backtracking engine would need years"
