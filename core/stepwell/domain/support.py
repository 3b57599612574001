"""Which features of the language a spec uses, and which of them this version does not run yet.

Whoever implements a feature deletes its line from ``NOT_YET``. A worker claims only runs whose features it knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.domain.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stepwell.domain.http_spec import HttpCall
    from stepwell.domain.spec import WorkflowSpec
    from stepwell.domain.steps import Step

NOT_YET = frozenset(
    {
        "workflow",
        "action",
        "concurrency",
    }
)


def features(spec: WorkflowSpec, path: str = "spec") -> Iterator[tuple[str, str]]:
    """Every feature that is used, with the path of the field that uses it."""
    if spec.concurrency is not None:
        yield "concurrency", f"{path}.concurrency"
    if spec.on_failure:
        yield "onFailure", f"{path}.onFailure"
    if spec.finally_:
        yield "finally", f"{path}.finally"
    yield from _steps(spec.steps, f"{path}.steps")
    yield from _steps(spec.on_failure, f"{path}.onFailure")
    yield from _steps(spec.finally_, f"{path}.finally")


def language_features(spec: WorkflowSpec) -> list[str]:
    """The names of the features that a worker must know to run this, sorted."""
    return sorted({name for name, _ in features(spec)})


def unsupported(spec: WorkflowSpec, path: str = "spec") -> list[Problem]:
    """A problem for each use of what this version does not run yet."""
    message = "{} is not supported yet by this version of Stepwell; take it away"
    return [Problem(place, message.format(name)) for name, place in features(spec, path) if name in NOT_YET]


def _steps(steps: Sequence[Step], path: str) -> Iterator[tuple[str, str]]:
    for index, step in enumerate(steps):
        below = f"{path}[{index}]"
        yield step.kind, f"{below}.{step.kind}"
        if step.for_each is not None:
            yield "forEach", f"{below}.forEach"
        if step.http_call is not None:
            yield from _http(step.http_call, f"{below}.httpCall")
        if step.approval is not None and step.approval.link == "Enabled":
            yield "approval.link", f"{below}.approval.link"


def _http(call: HttpCall, path: str) -> Iterator[tuple[str, str]]:
    uses = {"urlFrom": call.url_from, "auth": call.auth, "tls": call.tls, "expect.if": call.expect.if_}
    yield from ((f"httpCall.{name}", f"{path}.{name}") for name, value in uses.items() if value is not None)
