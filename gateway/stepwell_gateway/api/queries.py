"""Parameters of requests: validated, with errors that name the parameter."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stepwell.domain.durations import parse_duration
from stepwell.domain.errors import DocumentError
from stepwell.domain.states import RunStatus
from stepwell_gateway.problems import Problem

if TYPE_CHECKING:
    from starlette.datastructures import QueryParams

MAX_CURSOR = 600
NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
NAMESPACE = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
STEP = r"^[a-z][a-z0-9_]{0,62}$"
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)

Model = TypeVar("Model", bound=BaseModel)

Limit = Annotated[int, Field(ge=1, le=200, description="How many at most.")]
Cursor = Annotated[str | None, Field(max_length=MAX_CURSOR, description="Where the page before ended, as it said.")]


class Query(BaseModel):
    """The parameters of a route; others are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PageQuery(Query):
    """Of any list."""

    cursor: Cursor = None
    limit: Limit = 50


class RunsQuery(PageQuery):
    """Which runs."""

    workflow: Annotated[str | None, Field(pattern=NAME, description="Only of this workflow.")] = None
    status: Annotated[RunStatus | None, Field(description="Only with this status.")] = None
    since: Annotated[
        str | None, Field(max_length=64, description="A duration such as 90m, or a time such as 2026-01-31T08:00:00Z.")
    ] = None


class NoQuery(Query):
    """None at all."""


def parsed(model: type[Model], given: QueryParams) -> Model:
    """The parameters. Raises Problem 400, which names each that is wrong."""
    values: dict[str, str] = {}
    for name, value in given.multi_items():
        if name in values:
            raise Problem(400, f"{name[:64]}: it is given twice")
        values[name] = value
    try:
        return model.model_validate(values)
    except ValidationError as exc:
        raise Problem(400, problems(exc)) from None


def problems(exc: ValidationError) -> str:
    """What is wrong with each field, without the values."""
    return "; ".join(sorted({f"{_place(error['loc'])}: {_said(error)}" for error in exc.errors()}))[:2_000]


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part)[:64] for part in location) or "the body"


def _said(error: Any) -> str:
    return "there is no such field or parameter" if error["type"] == "extra_forbidden" else str(error["msg"])


def moment(since: str | None) -> datetime | None:
    """The moment that ``since`` stands for. Raises Problem 400."""
    if since is None:
        return None
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(since))
    except (ValueError, DocumentError):
        pass
    try:
        if _RFC3339.match(since):
            return datetime.fromisoformat(since.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise Problem(400, "since: neither a duration such as 90m nor a time such as 2026-01-31T08:00:00Z")
