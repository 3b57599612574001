"""A manifest means what the API server would store, and everything that is wrong is said at once, with its line."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.domain.errors import ManifestError
from stepwell.domain.manifest import Document, load_text, read_text
from stepwell.domain.yaml_scalars import resolve

HEAD = "apiVersion: stepwell.dev/v1alpha1\nkind: Workflow\nmetadata: {name: w}\n"
STEP = "spec:\n  steps:\n    - name: a\n      transform:\n        value:\n"


def workflow(value: str) -> str:
    """A Workflow whose transform has this value, from line 9 on."""
    return HEAD + STEP + "".join(f"          {line}\n" for line in value.splitlines())


def value_of(text: str) -> Any:
    (document,) = load_text(text, "f.yaml")
    spec: Any = document.raw["spec"]
    return spec["steps"][0]["transform"]["value"]


def problems(text: str) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        load_text(text, "f.yaml")
    return [str(problem) for problem in caught.value.problems]


PATH = "spec.steps[0].transform.value"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("on", True), ("Off", False), ("y", True), ("NO", False), ("true", True), ("oN", "oN"), ("~", None), ("", None),
        ("Null", None), ("nULL", "nULL"), ("1", 1), ("+1", 1), ("-0", 0), ("0x1F", 31), ("0o17", 15), ("017", 15),
        ("0b11", 3), ("08", 8), ("1_000", 1000), ("1.0", 1), ("1.5", 1.5), (".5", 0.5), ("1e3", 1000), ("1.", 1),
        ("1e21", 1e21), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        ("-", "-"), (".", "."), ("1.2.3", "1.2.3"), ("0x", "0x"), ("5xx", "5xx"), ("1e", "1e"), ("none", "none"),
        (str(2**53), 2**53), (str(-(2**53)), -(2**53)),
    ],
)  # fmt: skip
def test_unquoted_words_are_read_as_kubectl_does(word: str, value: Any) -> None:
    found = resolve(word)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "word", [str(2**53 + 1), str(-(2**53) - 1), "12345678901234567890", "1e18", "0x" + "f" * 20, "9" * 5000]
)
def test_an_integer_beyond_2_to_the_53_is_refused(word: str) -> None:
    (problem,) = problems(workflow(f"v: {word}"))
    assert problem.startswith(f"f.yaml:9: {PATH}.v: the integer {word[:40]} is beyond ±2^53")
    assert problem.endswith("put it in quotes")


@pytest.mark.parametrize("word", [".inf", "-.INF", ".nan", "1e999"])
def test_a_number_that_json_lacks_is_refused(word: str) -> None:
    assert "put it in quotes" in problems(workflow(f"v: {word}"))[0]


@given(st.text(alphabet="+-._0123456789eExXobn~", max_size=12))
def test_any_word_resolves_or_is_refused(word: str) -> None:
    try:
        value = resolve(word)
    except ValueError:
        return
    assert json.loads(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("key", "kind"), [("on", "a boolean"), ("y", "a boolean"), ("200", "a number"), ("~", "null"), ("1e3", "a number")]
)
def test_a_key_that_is_no_text_is_refused(key: str, kind: str) -> None:
    assert problems(workflow(f"{key}: x")) == [
        f'f.yaml:9: {PATH}: the key {key} is {kind} in YAML, not text; quote it: "{key}"'
    ]
    assert value_of(workflow(f'"{key}": x')) == {key: "x"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {{ input.x }}", f'9: {PATH}.a: a template that begins with {{{{ must be in quotes, as in "{{{{ input.name }}}}"'),
        ("? [a]\n: 1", f"9: {PATH}: a key is text, not a map or a list"),
        ("a: 1\nb: 2\na: 3", f"11: {PATH}.a: the key stands twice in one map (first in line 9); keep one"),
        ("a: null", f'9: {PATH}.a: kubectl drops a null in a map; write "{{{{ null }}}}"'),
        ("- {b: ~}", f'9: {PATH}[0].b: kubectl drops a null in a map; write "{{{{ null }}}}"'),
        ('a: "x\\0y"', f"9: {PATH}.a: the text holds a NUL character (\\0), which cannot be stored"),
        ('"x\\0y": a', f"9: {PATH}: the text holds a NUL character (\\0), which cannot be stored"),
        ('a: "\\ud800"', "9: not valid YAML"),
        ("a: *b", "9: the alias *b has no anchor &b before it"),
        ("a: !!python/object:os.system x", "9: the YAML tag tag:yaml.org,2002:python/object:os.system is not supported"),
        ("a: !!timestamp 2020-01-01", "9: the YAML tag"),
        ("a: b: c", "9: not valid YAML: mapping values are not allowed in this context; text that holds ': ' must be in quotes"),
        ("<<: 3", f"9: {PATH}: << takes a map or a list of maps"),
        ('a: "x', "10: not valid YAML"),
    ],
)  # fmt: skip
def test_text_that_is_refused(text: str, message: str) -> None:
    (problem,) = problems(workflow(text))
    assert problem.startswith(f"f.yaml:{message}")


def test_characters_that_are_no_text_are_refused() -> None:
    assert problems(workflow("a: x\0")) == ["f.yaml:9: the file holds a NUL character, which is not text"]
    assert "f.yaml:9: the file holds a lone surrogate" in problems(workflow("a: \ud800"))[0]
    assert problems(workflow("a: \x07"))[0].startswith("f.yaml:9: a character is not allowed in YAML")


def test_depth_is_limited() -> None:
    assert "deeper than 64 levels" in problems(workflow("[" * 200 + "]" * 200))[0]
    assert "deeper than 64 levels" in problems(workflow("a: &a [*a]"))[0]
    assert "deeper than 64 levels" in problems(HEAD + "spec:\n" + "- " * 100_000)[0]
    assert value_of(workflow("[" * 59 + "]" * 59))


def test_aliases_cannot_explode() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert "has over 200,000 parts when its aliases are followed" in problems(workflow("\n".join(lines)))[0]


def test_size_is_limited() -> None:
    assert problems(workflow(f"a: {'x' * 205_000}"))[0].startswith("f.yaml:4: spec: has 205,")
    run = "apiVersion: stepwell.dev/v1alpha1\nkind: WorkflowRun\nmetadata: {name: r}\nspec: {workflowRef: {name: w}, input: {a: %s}}"
    assert "spec.input: has 66,00" in problems(run % ("x" * 66_000))[0]
    assert "the file has" in problems("#" * (17 << 20))[0]


def test_anchors_and_merges_work_as_in_kubectl() -> None:
    assert value_of(workflow("a: &a {x: 1, y_: 2}\nb: *a\nc: {<<: *a, x: 3}\nd: {<<: [{x: 9}, *a]}")) == {
        "a": {"x": 1, "y_": 2},
        "b": {"x": 1, "y_": 2},
        "c": {"x": 3, "y_": 2},
        "d": {"x": 9, "y_": 2},
    }


def test_tags_of_json_types_are_kept() -> None:
    assert value_of(workflow("a: !!str 1\nb: !!int 7\nc: ! 1\nd: '1'")) == {"a": "1", "b": 7, "c": 1, "d": "1"}


def test_nulls_of_ordinary_fields_are_dropped_and_defaults_filled_in() -> None:
    (document,) = load_text(workflow("a") + "      needs: ~\n      retry: null\n  output: null\n  description:\n", "f")
    assert document.raw["spec"] == {
        "steps": [{"name": "a", "transform": {"value": "a"}}],
        "timeout": "720h",
        "priority": "Normal",
        "suspend": False,
        "retention": {"succeeded": "168h", "failed": "720h"},
    }
    assert document.raw["metadata"] == {"name": "w", "namespace": "default"}


def test_a_null_in_a_list_stays() -> None:
    assert value_of(workflow("[1, null]")) == [1, None]


def test_json_is_read_with_lines() -> None:
    document = {"apiVersion": "stepwell.dev/v1alpha1", "kind": "Workflow", "metadata": {"name": "w"}}
    text = json.dumps(
        {**document, "spec": {"steps": [{"name": "a", "transform": {"value": "\U0001f600\\u/\t\u2028"}}]}}, indent=1
    )
    assert value_of(text) == "\U0001f600\\u/\t\u2028"
    assert value_of(text.replace("\\/", "\\/")) == "\U0001f600\\u/\t\u2028"
    assert problems(text.replace('"a"', '"A"'))[0].startswith("f.yaml:10: spec.steps[0].name: 'A' does not match")
    assert "f.yaml:12: a text holds a lone surrogate" in problems(text.replace("\\ud83d", ""))[0]


JSON = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e15, 1e15) | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(JSON)
def test_json_means_itself(value: Any) -> None:
    document = {"apiVersion": "stepwell.dev/v1alpha1", "kind": "Workflow", "metadata": {"name": "w"}}
    text = json.dumps({**document, "spec": {"steps": [{"name": "a", "transform": {"value": {"v": value}}}]}})
    assert value_of(text) == {"v": value}


def test_unknown_fields_are_refused_by_name() -> None:
    text = (
        HEAD.replace("{name: w}", "{name: w, label: {}}")
        + "spec:\n  timout: 1h\n  steps: [{name: a, fail: {message: m, x: 1}}]\nstat: 1\n"
    )
    assert problems(text) == [
        "f.yaml:3: metadata.label: unknown field 'label'; did you mean labels?",
        "f.yaml:5: spec.timout: unknown field 'timout'; did you mean timeout?",
        "f.yaml:6: spec.steps[0].fail.x: unknown field 'x'; there are message",
        "f.yaml:7: stat: unknown field 'stat'; did you mean status?",
    ]


def test_documents_of_one_file() -> None:
    text = f"""---
{workflow("1")}---
# only a comment
---
apiVersion: v1
kind: Secret
metadata: {{name: api, namespace: growth}}
stringData: {{token: "1"}}
---
apiVersion: stepwell.dev/v1alpha1
kind: WorkflowRun
metadata: {{generateName: w-}}
spec: {{workflowRef: {{name: w}}}}
"""
    documents = load_text(text, "f")
    assert [(d.kind, d.namespace, d.name, d.line) for d in documents] == [
        ("Workflow", "default", "w", 2),
        ("Secret", "growth", "api", 14),
        ("WorkflowRun", "default", "", 19),
    ]
    assert documents[1].model is None
    assert documents[2].generate_name == "w-"
    assert documents[2].raw["spec"] == {"workflowRef": {"name": "w"}, "cancel": False}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: Workflow", "f.yaml:1: apiVersion must be set; Stepwell reads Workflow"),
        ("apiVersion: apps/v1\nkind: Deployment", "f.yaml:2: kind: kind 'Deployment' of apiVersion 'apps/v1' is not one"),
        ("apiVersion: stepwell.dev/v1\nkind: Workflow", "f.yaml:1: apiVersion: 'stepwell.dev/v1' is not known here; write stepwell.dev/v1alpha1"),
        ("apiVersion: v1\nkind: List\nitems: []", "f.yaml:2: kind: kind 'List' of apiVersion 'v1'"),
        ("- 1", "f.yaml:1: a manifest is a map with apiVersion, kind, metadata and spec, not a list"),
        ("hello", "f.yaml:1: a manifest is a map with apiVersion, kind, metadata and spec, not 'hello'"),
        ("apiVersion: v1\nkind: Secret\nmetadata: {}", "f.yaml:3: metadata.name: is required, but not set"),
        (workflow("1").replace("name: w", "name: W"), "f.yaml:3: metadata.name: 'W' does not match"),
        (workflow("1").replace("name: w", "generateName: w"), "f.yaml:3: metadata.name: is required, but not set"),
        (workflow("1").replace("name: w", "name: w, namespace: a.b"), "f.yaml:3: metadata.namespace: 'a.b' does not match"),
        (HEAD, "f.yaml:1: spec: is required, but not set"),
    ],
)  # fmt: skip
def test_documents_that_are_refused(text: str, message: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(message)


def test_sound_documents_are_kept_beside_broken_ones() -> None:
    documents, found = read_text(f"{workflow('1')}---\nkind: Pod\napiVersion: v1\n", "f")
    assert [document.name for document in documents] == ["w"]
    assert [problem.line for problem in found] == [11]


def test_a_path_that_is_not_there_has_the_line_of_its_nearest_parent() -> None:
    (document,) = load_text(workflow("a: 1"), "f")
    assert isinstance(document, Document)
    lines = [
        document.line_of(path) for path in (f"{PATH}.a", f"{PATH}.a.b[3].c", "spec.steps[0].needs[2]", "spec.retry", "")
    ]
    assert lines == [9, 9, 6, 4, 1]
