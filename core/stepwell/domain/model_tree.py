"""Walks a document along the models that describe it."""

from __future__ import annotations

import functools
import typing
from typing import Any

from stepwell.domain.durations import format_duration
from stepwell.domain.model import Model, Seconds

if typing.TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic.fields import FieldInfo

    from stepwell.domain.documents import JsonValue

_SECONDS = typing.get_args(Seconds)[1]


@functools.cache
def fields(model: type[Model]) -> dict[str, FieldInfo]:
    """The fields of a model by their names in a manifest."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def nested(annotation: Any) -> type[Model] | None:
    """The model inside an annotation such as ``tuple[Step, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := nested(part))), None)


def is_duration(field: FieldInfo) -> bool:
    """Whether a field holds a duration, which is text in a manifest."""
    return _SECONDS in field.metadata or any(
        _SECONDS in typing.get_args(part) for part in (field.annotation, *typing.get_args(field.annotation))
    )


def default_of(field: FieldInfo) -> JsonValue:
    """A field's default as it stands in a manifest; None where it has none."""
    value = field.default
    if field.is_required() or value is None or value == ():
        return None
    if isinstance(value, Model):
        return {name: child for name, inner in fields(type(value)).items() if (child := default_of(inner)) is not None}
    if is_duration(field):
        return format_duration(value)
    return list(value) if isinstance(value, tuple) else value


def model_at(model: type[Model], location: Sequence[str | int]) -> type[Model] | None:
    """The model that describes a place, given as pydantic's ``loc``."""
    current: type[Model] | None = model
    for part in location:
        if isinstance(part, int):
            continue
        if current is None or part not in fields(current):
            return None
        current = nested(fields(current)[part].annotation)
    return current
