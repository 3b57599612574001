"""Specs of workflows, scripted effects and readable records, for tests of the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from engine_life import World

from stepwell.domain.retry import StepFailure

if TYPE_CHECKING:
    from stepwell.domain.action import Call
    from stepwell.engine.ports import AttemptRecord

CONTINUE = {"onError": "Continue"}
BODY = {"input": "{{ input }}", "now": "{{ now() }}"}


def effect(name: str, **fields: Any) -> dict[str, Any]:
    """A step with an effect; its request is its input and ``now()``."""
    return {"name": name, "httpCall": {"url": "https://a.example", "body": BODY}, **fields}


def value(name: str, template: Any, **fields: Any) -> dict[str, Any]:
    return {"name": name, "transform": {"value": template}, **fields}


def failing(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "fail": {"message": "no"}, **fields}


def retry(limit: int, initial: str = "1s", **more: Any) -> dict[str, Any]:
    return {"limit": limit, "backoff": {"initial": initial, "jitter": "None", "max": "1h"}, **more}


def scripted(*results: Any) -> World:
    """An effect that does one thing after the other: returns a value or raises an exception."""
    script = list(results)

    async def perform(call: Call, body: Any) -> Any:
        result = script.pop(0)
        if isinstance(result, BaseException):
            raise result
        return result

    return World(perform)


def failure(**more: Any) -> StepFailure:
    return StepFailure("Broken", "it broke", **more)


def document(raw: bytes | None) -> Any:
    return None if raw is None else orjson.loads(raw)


def shown(records: list[AttemptRecord]) -> dict[str, Any]:
    return {r.step: document(r.output) for r in records}


def inputs(records: list[AttemptRecord]) -> dict[str, tuple[Any, Any]]:
    return {r.step: (document(r.input_from), document(r.input)) for r in records}
