"""The names of a status. What a manifest says there is thrown away by the API server, but an unknown name is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from stepwell.domain.errors import Problem
from stepwell.domain.schema_rules import hint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.domain.documents import JsonValue

Names: TypeAlias = "dict[str, Names | None]"
"""The fields of a map, or of each map of a list; None: whatever is in it."""


def _plain(words: str) -> Names:
    return dict.fromkeys(words.split())


_CONDITIONS = _plain("type status observedGeneration lastTransitionTime reason message")
STATUS: dict[str, Names] = {
    "Workflow": {
        **_plain("observedGeneration revision"),
        "conditions": _CONDITIONS,
        "triggers": _plain("name url nextRunTime"),
        "runs": _plain("active succeeded failed lastRunTime lastRunId lastRunStatus"),
    },
    "WorkflowRun": {
        **_plain("phase runId startTime completionTime message output outputTruncated outputUrl"),
        "conditions": _CONDITIONS,
        "steps": _plain("name status attempts startTime completionTime message"),
    },
}


def status_problems(status: JsonValue, kind: str) -> Iterator[Problem]:
    """Every name in the status of a ``kind`` that is not known there."""
    yield from _unknown(status, STATUS[kind], "status")


def _unknown(value: JsonValue, names: Names | None, path: str) -> Iterator[Problem]:
    if names is None:
        return
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(item, names, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, child in value.items():
            if key in names:
                yield from _unknown(child, names[key], f"{path}.{key}")
            else:
                advice = hint(key, sorted(names)) or "; leave the status out, it is the operator's"
                yield Problem(f"{path}.{key}", f"unknown field {key!r}{advice}")
