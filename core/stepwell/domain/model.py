"""What every model of the manifest language shares: strictness, and the types of its fields.

The models hold what a manifest says, checked field by field; whatever needs several fields of several steps is checked
when the revision is compiled. Durations are seconds (float) once they are read. ``None`` means: not set.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from stepwell.domain.durations import PATTERN, parse_duration

CEL_WORDS = frozenset({"in", "true", "false", "null"})
MAX_EXPRESSION = 4096


class Model(BaseModel):
    """A part of a manifest: immutable, camelCase outside, unknown fields refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=False,
        str_strip_whitespace=False,
        allow_inf_nan=False,
    )

    exactly_one: ClassVar[tuple[str, ...]] = ()
    """Attribute names of which exactly one must be set."""

    def model_post_init(self, _context: Any, /) -> None:
        """Check what needs more than one field."""
        if self.exactly_one:
            self._check_exactly_one()

    def chosen(self) -> str:
        """The attribute name of the one that is set among ``exactly_one``."""
        return next(name for name in self.exactly_one if getattr(self, name) is not None)

    def _check_exactly_one(self) -> None:
        given = [self.word(name) for name in self.exactly_one if getattr(self, name) is not None]
        if len(given) == 1:
            return
        words = ", ".join(self.word(name) for name in self.exactly_one)
        found = f"found {' and '.join(given)}" if given else "found none"
        refuse(f"exactly one of {words} must be set; {found}")

    @classmethod
    def word(cls, attribute: str) -> str:
        """The field's name in a manifest."""
        return cls.model_fields[attribute].alias or attribute


def refuse(message: str) -> NoReturn:
    """Refuse a value; the message is shown to the user as it stands."""
    raise PydanticCustomError("stepwell", "{message}", {"message": message})


def _duration(value: object) -> float:
    try:
        return parse_duration(value)
    except ValueError as exc:
        refuse(str(exc))


def _step_name(value: str) -> str:
    if value in CEL_WORDS:
        message = f"{value!r} is a word of the expression language; choose another name"
        refuse(message)
    return value


_STATUS_CLASS = re.compile(r"[1-5]xx\Z")


def _status(value: object) -> str | int:
    if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
        return value
    if isinstance(value, str) and _STATUS_CLASS.match(value):
        return value
    refuse(f"{value!r} is neither an HTTP status such as 429 nor a class such as 5xx")


def _retry_mark(value: object) -> str | int:
    if isinstance(value, str) and value in {"Timeout", "Network", "Error"}:
        return value
    try:
        return _status(value)
    except PydanticCustomError:
        message = f"{value!r} is none of Timeout, Network, Error, an HTTP status such as 429 or a class such as 5xx"
        refuse(message)


Seconds = Annotated[
    float, BeforeValidator(_duration), WithJsonSchema({"type": "string", "maxLength": 32, "pattern": PATTERN})
]
Flag = Annotated[bool, Strict()]
Number = Annotated[int, Strict()]
Text = Annotated[str, Strict()]
Expression = Annotated[str, Strict(), StringConstraints(min_length=1, max_length=MAX_EXPRESSION)]
"""A CEL expression."""
TextTemplate = Annotated[str, Strict(), StringConstraints(max_length=MAX_EXPRESSION)]
"""Text with ``{{ }}``."""
JsonTemplate = Any
"""Any JSON value whose strings may hold ``{{ }}``."""
JsonMap = Annotated[dict[str, Any], Strict()]
Label = Annotated[
    str, Strict(), StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
]
"""A DNS-1123 label."""
ObjectName = Annotated[
    str,
    Strict(),
    StringConstraints(
        min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
    ),
]
"""A DNS-1123 subdomain, as the names of Kubernetes objects are."""
StepName = Annotated[
    str,
    Strict(),
    StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z][a-z0-9_]{0,62}$"),
    BeforeValidator(lambda value: _step_name(value) if isinstance(value, str) else value),
]
HeaderName = Annotated[
    str, Strict(), StringConstraints(min_length=1, max_length=256, pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
]
_INT_OR_STRING = {"x-kubernetes-int-or-string": True}
StatusMatch = Annotated[Any, BeforeValidator(_status), WithJsonSchema(_INT_OR_STRING)]
RetryMark = Annotated[Any, BeforeValidator(_retry_mark), WithJsonSchema(_INT_OR_STRING)]


class SecretKeyRef(Model):
    """One key of a Secret of the workflow's own namespace."""

    name: ObjectName
    key: Annotated[str, Strict(), StringConstraints(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]


class BearerAuth(Model):
    """``Authorization: Bearer`` with a token from a Secret."""

    secret_ref: SecretKeyRef


class BasicAuth(Model):
    """Basic authentication with the keys ``username`` and ``password`` of a Secret."""

    secret_name: ObjectName


def at_most(limit: int, *, at_least: int = 0) -> Any:
    """Bound a list or a map."""
    return Field(min_length=at_least or None, max_length=limit)
