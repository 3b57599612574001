"""The CRDs keep the rules of structural schemas and our own: bounds, list types, descriptions, no dangerous words."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CRDS = Path(__file__).parents[2] / "crds"
FILES = ["workflows.yaml", "workflowruns.yaml"]
FORBIDDEN = {"$ref", "definitions", "dependencies", "deprecated", "discriminator", "id", "patternProperties"}
FORBIDDEN |= {"readOnly", "writeOnly", "xml", "additionalItems", "uniqueItems", "oneOf", "anyOf"}
YAML_BOOLEANS = {"on", "off", "yes", "no", "y", "n", "true", "false"}


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((CRDS / name).read_text())


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), dict):
            yield from nodes(schema[word], f"{path}[]")


def all_nodes() -> list[Any]:
    found = []
    for name in FILES:
        root = load(name)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        found += [
            pytest.param(path, node, id=f"{name}{path}") for path, node in nodes(root) if ".onFailure" not in path
        ]
    return found


def is_free(node: dict[str, Any]) -> bool:
    return bool(node.get("x-kubernetes-preserve-unknown-fields") or node.get("x-kubernetes-int-or-string"))


@pytest.mark.parametrize(("path", "node"), all_nodes())
def test_node(path: str, node: dict[str, Any]) -> None:
    assert not FORBIDDEN & node.keys()
    assert "type" in node or is_free(node)
    assert not ("properties" in node and "additionalProperties" in node)
    match node.get("type"):
        case "array":
            assert {"items", "maxItems", "x-kubernetes-list-type"} <= node.keys()
            if node["x-kubernetes-list-type"] == "map":
                assert set(node["x-kubernetes-list-map-keys"]) <= set(node["items"]["required"])
        case "string":
            bounded = "maxLength" in node or "enum" in node or node.get("format") == "date-time"
            assert bounded or path in {".apiVersion", ".kind"}
            if str(node.get("pattern")).startswith("^([0-9]{1,5}(h|m"):
                assert "duration(self) <= duration('8760h')" in str(node.get("x-kubernetes-validations")), "a range"
        case "object":
            assert set(node.get("required", [])) <= node.get("properties", {}).keys()
            assert "maxProperties" in node or "additionalProperties" not in node
    for junctor in [*node.get("allOf", []), *([node["not"]] if "not" in node else [])]:
        assert not re.search(r"'(type|properties|default|description)'", str(junctor))
    for rule in node.get("x-kubernetes-validations", []):
        assert rule["rule"]
        assert not re.search(r"self\.all\(\w, *self\.exists", rule["rule"]), "square in steps, a second for 200 of them"
        assert rule["message"]


@pytest.mark.parametrize(("path", "node"), all_nodes())
def test_names_words_and_descriptions(path: str, node: dict[str, Any]) -> None:
    name = path.rpartition(".")[2]
    if not name.endswith("[]") and path != ".metadata":
        assert len(node.get("description", "")) > 10, "every field is explained"
        assert node["description"].endswith(".")
    if name and not name.endswith("[]"):
        assert re.fullmatch(r"[a-z][a-zA-Z]*", name), "fields are camelCase"
        assert name.lower() not in YAML_BOOLEANS
        assert name != "namespace", "no reference leaves the namespace"
    for word in node.get("enum", []):
        assert isinstance(word, str)
        assert word[0].isupper()
        assert word.lower() not in YAML_BOOLEANS or path.endswith("conditions[].status")


@pytest.mark.parametrize(
    ("file", "plural", "short"), [(*FILES[:1], "workflows", "swf"), (*FILES[1:], "workflowruns", "swr")]
)
def test_resource(file: str, plural: str, short: str) -> None:
    crd = load(file)
    names = crd["spec"]["names"]
    assert crd["metadata"]["name"] == f"{plural}.stepwell.dev" == f"{names['plural']}.{crd['spec']['group']}"
    assert names["shortNames"] == [short]
    assert names["categories"] == ["stepwell"]
    assert crd["spec"]["scope"] == "Namespaced"
    (version,) = crd["spec"]["versions"]
    assert version["subresources"] == {"status": {}}
    assert version["served"]
    assert version["storage"]


def test_columns_and_selectable_fields() -> None:
    columns = {
        name: [
            (column["name"], column.get("priority", 0))
            for column in load(name)["spec"]["versions"][0]["additionalPrinterColumns"]
        ]
        for name in FILES
    }
    assert [name for name, priority in columns["workflows.yaml"] if not priority] == [
        "Ready", "URL", "Active", "Last run", "Last status", "Age",
    ]  # fmt: skip
    assert [name for name, priority in columns["workflows.yaml"] if priority] == ["Reason", "Revision"]
    run = load("workflowruns.yaml")["spec"]["versions"][0]
    assert run["selectableFields"] == [{"jsonPath": ".spec.workflowRef.name"}]


def test_kustomization_lists_every_crd() -> None:
    assert load("kustomization.yaml")["resources"] == FILES
