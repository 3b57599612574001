"""The messages between an API server and a webhook: AdmissionReview of admission.k8s.io/v1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from stepwell.domain.errors import Problem, StepwellError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.domain.documents import JsonObject

VERSION = "admission.k8s.io/v1"
MOST = 50  #: problems in one answer
MAX_MESSAGE = 8192  #: characters of all problems together
MAX_WARNING = 120  #: characters; API servers cut longer ones


class ReviewError(StepwellError):
    """What was sent is no AdmissionReview."""


@dataclass(frozen=True, slots=True)
class Review:
    """What an API server asks. ``kind``, ``namespace`` and ``operation`` are its words, not the object's."""

    uid: str
    operation: str
    kind: str
    namespace: str
    name: str
    value: JsonObject
    old: JsonObject | None


def read_review(body: bytes) -> Review:
    """Read a request's body. Raises ReviewError."""
    try:
        review = orjson.loads(body)
        request = review["request"]
        if review["apiVersion"] != VERSION or review["kind"] != "AdmissionReview":
            message = f"only {VERSION} AdmissionReview is spoken here"
            raise ReviewError(message)
        found = Review(
            uid=request["uid"],
            operation=request["operation"],
            kind=request["kind"]["kind"],
            namespace=request.get("namespace", ""),
            name=request.get("name", ""),
            value=request["object"],
            old=request.get("oldObject"),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as exc:
        message = f"no AdmissionReview: {type(exc).__name__}: {exc}"
        raise ReviewError(message) from exc
    _check_types(found)
    return found


def _check_types(review: Review) -> None:
    texts = (review.uid, review.operation, review.kind, review.namespace, review.name)
    if not (all(isinstance(text, str) for text in texts) and isinstance(review.value, dict)):
        raise ReviewError("no AdmissionReview: a field has another type")
    if not isinstance(review.old, dict | None):
        raise ReviewError("no AdmissionReview: oldObject is no object")


def answer(uid: str, kind: str, name: str, problems: Sequence[Problem], warnings: Sequence[Problem]) -> bytes:
    """The answer: refused with every problem at once, or allowed; with warnings either way."""
    response: dict[str, Any] = {"uid": uid, "allowed": not problems}
    if warnings:
        response["warnings"] = [_cut(f"{warning.path}: {warning.message}", MAX_WARNING) for warning in warnings]
    if problems:
        response["status"] = {
            "code": 422,
            "reason": "Invalid",
            "message": _message(kind, problems),
            "details": {"kind": kind, "group": "stepwell.dev", "name": name, "causes": _causes(problems)},
        }
    return orjson.dumps({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response})


def _message(kind: str, problems: Sequence[Problem]) -> str:
    if len(problems) == 1:
        return _cut(str(problems[0]), MAX_MESSAGE)
    lines = [f"this {kind} has {len(problems)} problems:"]
    room = MAX_MESSAGE
    for count, problem in enumerate(problems):
        room -= len(str(problem))
        if room < 0 or count == MOST:
            lines.append(_more(len(problems) - count))
            break
        lines.append(f"{problem.path}: {problem.message}" if problem.path else problem.message)
    return "\n  ".join(lines)


def _causes(problems: Sequence[Problem]) -> list[dict[str, str]]:
    """What kubectl shows, in the place of the message, as it shows what the schema refuses."""
    shown = list(problems[:MOST])
    if len(problems) > MOST:
        shown.append(Problem("spec", _more(len(problems) - MOST)))
    return [
        {"reason": "FieldValueInvalid", "field": problem.path, "message": _cut(problem.message, 1024)}
        for problem in shown
    ]


def _more(count: int) -> str:
    return f"and {count} more; `stepwell validate` shows them all"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
