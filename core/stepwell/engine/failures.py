"""Failures of steps, whatever raised them, and their documents, whatever they hold."""

from __future__ import annotations

from stepwell.domain.documents import JsonObject, JsonValue, dumps
from stepwell.domain.errors import DocumentError, EvaluationError, StepwellError
from stepwell.domain.retry import StepFailure

MAX_MESSAGE = 4_000  # characters


def as_failure(exc: Exception) -> StepFailure:
    """Any error of a step, as the failure that its record shows. What is no StepwellError is a defect of the action."""
    if isinstance(exc, StepFailure):
        return exc
    if not isinstance(exc, StepwellError):
        message = f"the action failed unexpectedly: {type(exc).__name__}: {exc}"
        return StepFailure("InternalError", message, final=True)
    reason = "ExpressionFailed" if isinstance(exc, EvaluationError) else "InvalidResult"
    return StepFailure(reason, str(exc), final=True)


def error_document(failure: StepFailure) -> tuple[JsonObject, bytes]:
    """What is kept and what is stored of a failure."""
    return storable(failure.document())


def storable(shown: JsonObject) -> tuple[JsonObject, bytes]:
    """The same of an error's fields: a message of others may be long, or no text that can be stored."""
    if len(str(shown.get("message", ""))) <= MAX_MESSAGE:
        try:
            document = dumps(shown)
        except DocumentError:
            pass
        else:
            if b"\\u0000" not in document:
                return shown, document
    shown = {key: _plain(value) for key, value in shown.items()}
    return shown, dumps(shown)


def http_document(failure: StepFailure) -> tuple[JsonObject | None, bytes | None]:
    """``steps.<name>.http`` of a failure, and its document; nothing where that cannot be stored."""
    if failure.http is None:
        return None, None
    try:
        return failure.http, dumps(failure.http)
    except DocumentError:
        return None, None


def _plain(value: JsonValue) -> JsonValue:
    if isinstance(value, int):
        return value
    text = str(value).encode("utf-8", "replace").decode().replace("\0", "?")
    return text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE - 1]}…"
