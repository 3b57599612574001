"""The ``inputSchema`` of a workflow: JSON Schema 2020-12, compiled once, its defaults filled in.

Patterns run on an engine with linear time (Rust's ``regex``), so neither look-around nor back-references exist.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from jsonschema_rs import Draft202012Validator, ReferencingError, RegexOptions, Registry, ValidationError

from stepwell.domain.documents import JsonObject, JsonValue, dumps
from stepwell.domain.errors import InputError
from stepwell.domain.schema_rules import Report, Rules

MAX_SCHEMA_BYTES = 32 * 1024
MAX_SHOWN = 20  # problems of one input

_OBJECT = "a run's input is always an object"
_OPEN = frozenset({"$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "patternProperties"})


@dataclass(frozen=True, slots=True)
class Filler:
    """Where defaults belong: a value for a key that is absent, and fillers for what lies below."""

    defaults: tuple[tuple[str, JsonValue], ...] = ()
    below: tuple[tuple[str, Filler], ...] = ()
    items: Filler | None = None

    def fill(self, value: JsonValue) -> JsonValue:
        """The value with its defaults; the given one is not changed."""
        if isinstance(value, dict):
            missing = {key: copy.deepcopy(default) for key, default in self.defaults if key not in value}
            filled = {**value, **missing}
            filled.update((key, filler.fill(filled[key])) for key, filler in self.below if key in filled)
            return filled
        if isinstance(value, list) and self.items:
            return [self.items.fill(item) for item in value]
        return value


@dataclass(frozen=True, slots=True)
class InputSchema:
    """A compiled schema. ``fields`` are the names that the input may have, None where the schema leaves them open."""

    validator: Draft202012Validator
    filler: Filler | None
    fields: frozenset[str] | None

    def validate(self, value: JsonValue) -> JsonObject:
        """The input with its defaults. Raises InputError, naming every problem and its path."""
        document = check_object(value)
        if self.filler:
            document = self.filler.fill(document)  # type: ignore[assignment]  # an object stays one
        if not self.validator.is_valid(document):
            raise InputError(_explain(self.validator, document))
        return document


def check_object(value: JsonValue) -> JsonObject:
    """The input of a run without a schema. Raises InputError for anything but an object."""
    if not isinstance(value, dict):
        message = f"input: {_OBJECT}, not {_kind(value)}"
        raise InputError(message)
    return value


def compile_schema(schema: JsonObject, report: Report) -> InputSchema | None:
    """Compile an inputSchema; every problem is reported under its path, and the answer is then None."""
    problems: list[tuple[str, str]] = []
    size = len(dumps(schema))
    if size > MAX_SCHEMA_BYTES:
        problems.append(("", f"the schema has {size:,} bytes; at most {MAX_SCHEMA_BYTES:,} are allowed"))
    elif schema.get("type", "object") != "object":
        problems.append((".type", f"{_OBJECT}: write type: object"))
    else:
        rules = Rules(lambda path, message: problems.append((path, message)))
        rules.check(schema)
    validator = None if problems else _compile(schema, problems)
    for path, message in problems:
        report(path, message)
    if validator is None or problems:
        return None
    filler = _filler(schema, schema)
    return InputSchema(validator, None if filler == Filler() else filler, known_fields(schema))


def known_fields(schema: JsonObject) -> frozenset[str] | None:
    """The names under ``properties``; None where other names are invited."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or _OPEN & schema.keys() or schema.get("additionalProperties"):
        return None
    return frozenset(properties)


def _compile(schema: JsonObject, problems: list[tuple[str, str]]) -> Draft202012Validator | None:
    try:
        validator = Draft202012Validator({"type": "object", **schema}, pattern_options=RegexOptions(), offline=True)
    except ValidationError as exc:
        problems.append((_path(exc.instance_path), _refusal(exc)))
        return None
    except (ReferencingError, ValueError) as exc:
        problems.append(("", f"not a JSON Schema: {exc}"))
        return None
    _check_defaults(schema, problems)
    return validator


def _check_defaults(schema: JsonObject, problems: list[tuple[str, str]]) -> None:
    rules = Rules(lambda _path, _message: None)
    rules.check(schema)
    registry = Registry([("urn:input", schema)])
    for pointer, (path, node) in rules.nodes.items():
        if not isinstance(node, dict) or "default" not in node:
            continue
        own = Draft202012Validator(
            {"$ref": f"urn:input#{pointer}"}, registry=registry, pattern_options=RegexOptions(), offline=True
        )
        for error in own.iter_errors(node["default"]):
            problems.append((f"{path}.default", f"the default does not fit its own schema: {error.message}"))
            break


def _filler(schema: JsonValue, root: JsonObject) -> Filler:
    node = _resolve(schema, root)
    properties = node.get("properties")
    if not isinstance(properties, dict):
        properties = {}
    parts = {key: (_resolve(child, root), _filler(child, root)) for key, child in properties.items()}
    items = _filler(node["items"], root) if isinstance(node.get("items"), dict) else Filler()
    return Filler(
        tuple((key, part["default"]) for key, (part, _) in parts.items() if "default" in part),
        tuple((key, filler) for key, (_, filler) in parts.items() if filler != Filler()),
        None if items == Filler() else items,
    )


def _resolve(schema: JsonValue, root: JsonObject) -> JsonObject:
    """A sub-schema with its reference followed; a word beside ``$ref`` wins."""
    if not isinstance(schema, dict):
        return {}
    target = schema.get("$ref")
    if not isinstance(target, str):
        return schema
    found: Any = root
    for part in target.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        found = found[int(key)] if isinstance(found, list) else found[key]
    return {**_resolve(found, root), **schema}


def _explain(validator: Draft202012Validator, document: JsonObject) -> str:
    lines = [f"input{_path(error.instance_path)}: {error.message}" for error in validator.iter_errors(document)]
    shown = sorted(lines)[:MAX_SHOWN]
    if len(lines) > MAX_SHOWN:
        shown.append(f"… and {len(lines) - MAX_SHOWN} more problems")
    return "\n".join(shown)


def _refusal(error: ValidationError) -> str:
    if error.instance_path and error.instance_path[-1] == "pattern":
        return f"{error.message.split(' is not ')[0]} is no pattern of RE2's kind (no look-around, no back-references)"
    return error.message


def _path(parts: Any) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def _kind(value: JsonValue) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "a list" if isinstance(value, list) else "a text" if isinstance(value, str) else "a number"
