"""transform: select, drop and set in this order, or value alone; its input is shared and never changed."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.actions.registry import default_actions
from stepwell.domain.action import Compiler
from stepwell.domain.errors import EvaluationError
from stepwell.domain.expressions import STEP_VARIABLES, Context, Scope
from stepwell.domain.retry import NEVER, StepFailure
from stepwell.domain.steps import Transform

ACTION = default_actions()["transform"]
USER = {"user": {"email": "a@b.c", "age": 3, "tags": ["x"]}, "id": 7, "n": None}


def compile_transform(spec: dict[str, Any]) -> tuple[Any, list[str]]:
    problems: list[Any] = []
    compiler = Compiler(Scope(STEP_VARIABLES, bare=True), "transform", problems)
    return ACTION.compile(Transform.model_validate(spec), compiler), [str(problem) for problem in problems]


def run(spec: dict[str, Any], value: Any) -> Any:
    action, problems = compile_transform(spec)
    assert not problems
    before = copy.deepcopy(value)
    output = action.run(value, Context({"input": value, "run": {}, "steps": {}}, now=datetime.now(UTC)))
    assert value == before
    return output


@pytest.mark.parametrize(
    ("spec", "output"),
    [
        ({"select": ["id"]}, {"id": 7}),
        ({"select": ["absent"]}, {}),
        ({"select": []}, {}),
        ({"select": ["n"]}, {"n": None}),
        ({"select": ["id", "absent", "n"]}, {"id": 7, "n": None}),
        ({"select": ["user.email"]}, {"user": {"email": "a@b.c"}}),
        ({"select": ["user.email", "id", "user.age"]}, {"user": {"email": "a@b.c", "age": 3}, "id": 7}),
        ({"select": ["user.email", "user"]}, {"user": USER["user"]}),
        ({"select": ["user", "user.email"]}, {"user": USER["user"]}),
        ({"select": ["user.absent"]}, {}),
        ({"select": ["id.x", "n.x", "user.tags.x"]}, {}),
        ({"drop": ["user"]}, {"id": 7, "n": None}),
        ({"drop": ["user.email", "user.absent", "absent.x", "id.x"]}, {**USER, "user": {"age": 3, "tags": ["x"]}}),
        ({"drop": ["user.email", "user"]}, {"id": 7, "n": None}),
        ({"drop": []}, USER),
        ({"set": {"id": 8, "new": "{{ user.email }}"}}, {**USER, "id": 8, "new": "a@b.c"}),
        ({"set": {"a.b": 1}}, {**USER, "a.b": 1}),
        ({"select": ["user"], "drop": ["user.email"], "set": {"id": "{{ id + 1 }}"}}, {"user": {"age": 3, "tags": ["x"]}, "id": 8}),
        ({"drop": ["id"], "set": {"id": 1}}, {"user": USER["user"], "n": None, "id": 1}),
        ({"value": "{{ user.age }}"}, 3),
        ({"value": ["{{ id }}", "n{{ id }}"]}, [7, "n7"]),
        ({"value": {"all": "{{ input }}"}}, {"all": USER}),
        ({"value": False}, False),
    ],
)  # fmt: skip
def test_output(spec: dict[str, Any], output: Any) -> None:
    found = run(spec, USER)
    assert found == output
    if isinstance(output, dict):
        assert set(found) == set(output)


@pytest.mark.parametrize("value", [None, 1, 1.5, True, "x", [{"id": 1}]])
@pytest.mark.parametrize("spec", [{"select": ["id"]}, {"drop": ["id"]}, {"set": {"id": 1}}])
def test_only_an_object_has_fields(spec: dict[str, Any], value: Any) -> None:
    with pytest.raises(
        StepFailure, match=r"need an object as the step's input, and it is .*use value instead"
    ) as caught:
        run(spec, value)
    assert (caught.value.reason, caught.value.final) == ("InvalidInput", True)


def test_value_takes_any_input() -> None:
    assert run({"value": {"items": "{{ input }}"}}, [1, 2]) == {"items": [1, 2]}


def test_a_missing_key_names_the_expression() -> None:
    with pytest.raises(EvaluationError, match="absent"):
        run({"set": {"x": "{{ input.absent }}"}}, {})


@pytest.mark.parametrize("path", [".a", "a.", "a..b", "."])
@pytest.mark.parametrize("field", ["select", "drop"])
def test_an_empty_part_of_a_path_is_refused(field: str, path: str) -> None:
    _, problems = compile_transform({field: ["ok", path]})
    assert problems == [f"transform.{field}[1]: {path!r} has an empty part; a path is names with dots between"]


def test_problems_of_templates_have_their_path() -> None:
    _, problems = compile_transform({"set": {"a": {"b": ["{{ 1 + }}"]}}})
    assert [problem.partition(": ")[0] for problem in problems] == ["transform.set.a.b[0]"]
    _, problems = compile_transform({"value": "{{ 1 + }}"})
    assert [problem.partition(": ")[0] for problem in problems] == ["transform.value"]


GIVEN = frozenset({"a", "b"})


@pytest.mark.parametrize(
    ("spec", "given", "shape"),
    [
        ({"select": ["a", "u.x", "u.y"]}, None, {"a", "u"}),
        ({"drop": ["a", "b.c"]}, GIVEN, {"b"}),
        ({"drop": ["a"]}, None, None),
        ({"set": {"c": 1}}, GIVEN, {"a", "b", "c"}),
        ({"set": {"c": 1}}, None, None),
        ({"select": ["a", "b"], "drop": ["a"], "set": {"a": 1}}, None, {"a", "b"}),
        ({"value": {"x": 1}}, GIVEN, {"x"}),
        ({"value": "{{ input }}"}, GIVEN, None),
        ({"value": [1]}, GIVEN, None),
    ],
)
def test_shape(spec: dict[str, Any], given: frozenset[str] | None, shape: set[str] | None) -> None:
    assert ACTION.shape(Transform.model_validate(spec), given) == (None if shape is None else frozenset(shape))


NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(st.integers(0, 3), lambda children: st.dictionaries(NAMES, children, max_size=3), max_leaves=12)
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=3).map(".".join), max_size=5)


def leaves(value: Any, above: str = "") -> dict[str, Any]:
    """Every path to a value that is not an object, or is an empty one."""
    if not isinstance(value, dict) or (not value and above):
        return {above: value}
    return {
        path: leaf
        for name, child in value.items()
        for path, leaf in leaves(child, f"{above}.{name}".lstrip(".")).items()
    }


@given(st.dictionaries(NAMES, VALUES), PATHS)
def test_select_and_drop_part_the_leaves_between_them(value: dict[str, Any], paths: list[str]) -> None:
    def chosen(leaf: str) -> bool:
        return any(leaf == path or leaf.startswith(f"{path}.") for path in paths)

    found = leaves(value)
    kept, rest = leaves(run({"select": paths}, value)), leaves(run({"drop": paths}, value))
    assert kept == {path: leaf for path, leaf in found.items() if chosen(path)}
    assert {path: leaf for path, leaf in rest.items() if leaf != {}} == {
        path: leaf for path, leaf in found.items() if not chosen(path) and leaf != {}
    }


def test_it_is_never_tried_again() -> None:
    assert ACTION.retry(Transform.model_validate({"value": 1})) is NEVER
    assert not ACTION.effect
