"""The CRDs and the models say the same: names, required fields, types, words, bounds, patterns and defaults."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from stepwell.domain.model import Model
from stepwell.domain.model_tree import default_of, fields, nested
from stepwell.domain.spec import WorkflowRunSpec, WorkflowSpec
from stepwell.domain.status_fields import STATUS

CRDS = Path(__file__).parents[2] / "crds"
PAIRS = [("workflows", WorkflowSpec), ("workflowruns", WorkflowRunSpec)]
SAME = ["minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties", "pattern"]
# ranges that the models check by hand, so that their messages say what a status or a mark is
BY_HAND = {"expect.status[]", "retry.retryOn[]"}


def spec_schema(name: str) -> dict[str, Any]:
    crd = yaml.safe_load((CRDS / f"{name}.yaml").read_text())
    return copy.deepcopy(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"])


def plain(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """A node of the models' JSON Schema with references followed and "or null" taken away."""
    if "$ref" in node:
        return plain(defs[node["$ref"].rpartition("/")[2]], defs)
    kinds = [child for child in node.get("anyOf", []) if child != {"type": "null"}]
    return plain(kinds[0], defs) if len(kinds) == 1 else node


def differences(crd: dict[str, Any], node: dict[str, Any], defs: dict[str, Any], path: str = "spec") -> list[str]:
    node = plain(node, defs)
    found = [
        f"{path}: {word} is {crd.get(word)!r} in the CRD and {node.get(word)!r} in the model"
        for word in [*SAME, "enum"]
        if crd.get(word) != node.get(word) and not path.endswith(tuple(BY_HAND))
    ]
    if set(crd.get("required", [])) != set(node.get("required", [])):
        found.append(f"{path}: required differs: {crd.get('required')} and {node.get('required')}")
    if kind(crd) != kind(node):
        found.append(f"{path}: {kind(crd)} in the CRD and {kind(node)} in the model")
    ours, theirs = crd.get("properties", {}), node.get("properties", {})
    found += [f"{path}.{name}: only in one of both" for name in ours.keys() ^ theirs.keys()]
    for name in ours.keys() & theirs.keys():
        found += differences(ours[name], theirs[name], defs, f"{path}.{name}")
    for word, suffix in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(crd.get(word), dict) and isinstance(node.get(word), dict):
            found += differences(crd[word], node[word], defs, path + suffix)
    return found


def kind(node: dict[str, Any]) -> str:
    if node.get("x-kubernetes-int-or-string"):
        return "int or string"
    anything = {"x-kubernetes-preserve-unknown-fields": True}
    free = anything.items() <= node.items() or node.get("additionalProperties") in (True, anything)
    return f"{node.get('type', 'any')}{' of any' if free and node.get('type') else ''}"


def default_differences(crd: dict[str, Any], model: type[Model], path: str = "spec") -> list[str]:
    """Defaults are declared outside of lists, and said in the description inside of them."""
    found = []
    for name, field in fields(model).items():
        node, expected, place = crd["properties"].get(name, {}), default_of(field), f"{path}.{name}"
        inner = nested(field.annotation)
        listed = node.get("type") == "array"
        if "[" in path:
            said = node.get("description", "").partition("Default: ")[2].removesuffix(".") or None
            if not (inner and expected) and said != spoken(expected):
                found.append(f"{place}: the description says {said}, the model {spoken(expected)}")
            if "default" in node:
                found.append(f"{place}: a default inside a list")
        elif complete(node) != expected:
            found.append(f"{place}: the default is {complete(node)} in the CRD and {expected} in the model")
        if inner:
            found += default_differences(node["items"] if listed else node, inner, place + "[]" * listed)
    return found


def complete(node: dict[str, Any]) -> Any:
    """A default with the defaults of what is below it, as the API server fills it in."""
    value = node.get("default")
    if value == {}:
        return {name: complete(child) for name, child in node["properties"].items() if "default" in child}
    return value


def spoken(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(value)}]"
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def all_differences(crd: dict[str, Any], model: type[Model]) -> list[str]:
    node = model.model_json_schema(by_alias=True)
    return differences(crd, node, node.get("$defs", {})) + default_differences(crd, model)


@pytest.mark.parametrize(("name", "model"), PAIRS)
def test_crd_and_model_say_the_same(name: str, model: type[Model]) -> None:
    assert all_differences(spec_schema(name), model) == []


def step_of(crd: dict[str, Any]) -> dict[str, Any]:
    return crd["properties"]["steps"]["items"]["properties"]


BREAKS = {
    "a field less": lambda crd: step_of(crd)["httpCall"]["properties"].pop("text"),
    "a field more": lambda crd: crd["properties"].update(extra={"type": "string"}),
    "a word less": lambda crd: crd["properties"]["priority"]["enum"].pop(),
    "another bound": lambda crd: crd["properties"]["steps"].update(maxItems=201),
    "another pattern": lambda crd: step_of(crd)["name"].update(pattern="^x$"),
    "another type": lambda crd: step_of(crd)["httpCall"]["properties"]["followRedirects"].update(type="string"),
    "not required": lambda crd: step_of(crd)["fail"].pop("required"),
    "another default": lambda crd: crd["properties"]["timeout"].update(default="1h"),
    "no default": lambda crd: crd["properties"]["retention"].pop("default"),
    "another default in words": lambda crd: step_of(crd)["onError"].update(description="Default: Continue."),
    "a default in a list": lambda crd: step_of(crd)["onError"].update(default="Fail"),
}


@pytest.mark.parametrize("change", BREAKS.values(), ids=BREAKS)
def test_a_difference_is_found(change: Any) -> None:
    crd = spec_schema("workflows")
    for name in ("onFailure", "finally"):  # copies, so that the change of a step stands in one place only
        crd["properties"][name] = copy.deepcopy(crd["properties"][name])
    change(crd)
    assert all_differences(crd, WorkflowSpec) != []


@pytest.mark.parametrize(("name", "kind"), [("workflows", "Workflow"), ("workflowruns", "WorkflowRun")])
def test_the_names_of_the_status_are_the_crds(name: str, kind: str) -> None:
    crd = yaml.safe_load((CRDS / f"{name}.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]

    def names(node: dict[str, Any]) -> Any:
        properties = node.get("items", node).get("properties")
        return properties and {key: names(child) for key, child in properties.items()}

    assert names(schema) == STATUS[kind]
