"""Errors as clients read them: ``application/problem+json`` (RFC 9457), always."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from stepwell.domain.errors import (
    DataRefusedError,
    DocumentError,
    EvaluationError,
    InputError,
    NotFoundError,
    StepwellError,
    UnavailableError,
    UsageError,
)
from stepwell.engine.intake import SuspendedError
from stepwell_gateway.seldom import Seldom

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 5  # seconds after which it is worth trying again where something was away
RETRY_SUSPENDED = 60  # likewise, where somebody suspended a workflow

_STATUS: tuple[tuple[type[StepwellError], int], ...] = (
    (NotFoundError, 404),
    (SuspendedError, 503),
    (InputError, 400),
    (DocumentError, 422),
    (EvaluationError, 400),
    (DataRefusedError, 422),
    (UsageError, 400),
    (UnavailableError, 503),
)
_RETRIES: dict[type[StepwellError], int] = {SuspendedError: RETRY_SUSPENDED, UnavailableError: RETRY_AFTER}

log = logging.getLogger(__name__)
log.addFilter(Seldom())


class Problem(StepwellError):  # noqa: N818 - the word of the RFC
    """An answer that is an error. ``title`` is the same for all of its kind, ``more`` holds further members."""

    def __init__(
        self,
        status: int,
        detail: str = "",
        *,
        title: str = "",
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail or title or HTTPStatus(status).phrase)
        self.status = status
        self.detail = detail
        self.title = title or HTTPStatus(status).phrase
        self.headers = headers or {}
        self.more = more or {}

    def response(self) -> Response:
        """As it is sent."""
        body: dict[str, Any] = {"type": "about:blank", "title": self.title, "status": self.status}
        if self.detail:
            body["detail"] = self.detail
        return Response(orjson.dumps(body | dict(self.more)), self.status, dict(self.headers), MEDIA_TYPE)


def problem_of(error: StepwellError) -> Problem | None:
    """What an error of the engine is to a client; None: a defect of ours."""
    if isinstance(error, Problem):
        return error
    for kind, status in _STATUS:
        if isinstance(error, kind):
            again = _RETRIES.get(kind)
            headers = {} if again is None else {"Retry-After": str(again)}
            if kind is not UnavailableError:
                return Problem(status, str(error), headers=headers)
            log.warning("requests are answered 503: %s", error)
            return Problem(status, headers=headers)  # without the reason, which names machines
    return None


async def _answer_error(_: Request, error: Exception) -> Response:
    problem = problem_of(error) if isinstance(error, StepwellError) else None
    if problem is None:
        raise error
    return problem.response()


async def _answer_http(_: Request, error: Exception) -> Response:
    """What Starlette itself answers: no such route, or not with this method."""
    if not isinstance(error, HTTPException):
        raise error
    return Problem(error.status_code, headers=error.headers).response()


HANDLERS: dict[Any, Any] = {HTTPException: _answer_http, StepwellError: _answer_error}
"""Exception handlers for Starlette's middleware."""
