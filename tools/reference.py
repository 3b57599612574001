"""Writes docs/workflow-reference.md from the CRDs: ``python tools/reference.py`` (with ``--check`` it only compares)."""

# ruff: noqa: INP001 - a script, not a package

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "workflow-reference.md"
SAME_AS_STEPS = {"spec.onFailure", "spec.finally"}
HEAD = """\
# Reference: Workflow and WorkflowRun

Generated from `crds/` by `tools/reference.py`; change the CRDs, not this page. Durations are texts such as `10s`,
`250ms` or `1h30m`, over 0 and at most 8760h. The texts of a template, however deep in it, may hold `{{ expression }}`.
"""


def render() -> str:
    """The whole page."""
    parts = [HEAD]
    for name in ("workflows", "workflowruns"):
        crd = yaml.safe_load((ROOT / "crds" / f"{name}.yaml").read_text())
        parts += _resource(crd["spec"])
    return "\n".join(parts)


def _resource(crd: dict[str, Any]) -> Iterator[str]:
    version = crd["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    names = crd["names"]
    yield f"## {names['kind']}\n"
    yield f"{schema['description']} `{crd['group']}/{version['name']}`, short name `{names['shortNames'][0]}`.\n"
    for part in ("spec", "status"):
        yield f"### {names['kind']} {part}\n"
        yield "| field | type | meaning |\n|---|---|---|"
        yield from _rows(schema["properties"][part], part)
        yield ""


def _rows(node: dict[str, Any], path: str) -> Iterator[str]:
    required = node.get("required", [])
    for name, child in node.get("properties", {}).items():
        below = f"{path}.{name}"
        star = " (required)" if name in required else ""
        text = f"{child.get('description', '')}{_default(child)}{_rules(child)}"
        yield f"| `{below.partition('.')[2]}` | {_type(child)}{star} | {_escape(text)} |"
        if below not in SAME_AS_STEPS:
            inner = child.get("items", child)
            yield from _rows(inner, below + ("[]" if inner is not child else ""))


def _type(node: dict[str, Any]) -> str:
    if node.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if node.get("type") == "array":
        return f"list of {_type(node['items']).partition(',')[0]}{_bounds(node, 'minItems', 'maxItems')}"
    if "enum" in node:
        return ", ".join(f"`{word}`" for word in node["enum"])
    if node.get("x-kubernetes-preserve-unknown-fields"):
        return "any map" if node.get("type") else "any value"
    if "additionalProperties" in node:
        return f"map of {_type(node['additionalProperties'])}{_bounds(node, '', 'maxProperties')}"
    if str(node.get("pattern", "")).startswith("^([0-9]{1,5}(h|m"):
        return "duration"
    kind = "map" if node["type"] == "object" else str(node["type"])
    return kind + _bounds(node, "minimum", "maximum") + _bounds(node, "", "maxLength")


def _bounds(node: dict[str, Any], lowest: str, highest: str) -> str:
    low, high = node.get(lowest), node.get(highest)
    if high is None:
        return ""
    return f", at most {high:,}" if low is None else f", {low:,} to {high:,}"


def _default(node: dict[str, Any]) -> str:
    value = node.get("default")
    if value in (None, {}):
        return ""
    return f" Default: {str(value).lower() if isinstance(value, bool) else value}."


def _rules(node: dict[str, Any]) -> str:
    inner = node.get("items", node)
    rules = [
        *node.get("x-kubernetes-validations", []),
        *(inner.get("x-kubernetes-validations", []) if inner is not node else []),
    ]
    messages = dict.fromkeys(rule["message"] for rule in rules if "8760h" not in rule["message"])
    return "".join(f" {message[0].upper()}{message[1:]}." for message in messages)


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write the page, or say whether it is up to date."""
    page = render()
    if "--check" in arguments:
        return 0 if TARGET.exists() and TARGET.read_text() == page else 1
    TARGET.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
