"""What a Workflow's status is to be: pure, from what was observed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from stepwell.adapters.postgres.resource_store import ResourceName
    from stepwell.domain.errors import Problem
    from stepwell.domain.secrets import Trouble
    from stepwell_operator.workflows.resource import TriggerName
    from stepwell_operator.workflows.tally import RunCounts

MAX_MESSAGE = 1_000  # characters

Status: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True, slots=True)
class Synced:
    """The spec stands in the database."""

    revision: int
    triggers: tuple[TriggerName, ...]
    suspended: bool


@dataclass(frozen=True, slots=True)
class Invalid:
    """The spec cannot be used; ``standing`` is the revision of the same object that goes on, None where it never had one.

    Not the one that the status names: a late write may have brought it from an object that had this name before.
    """

    problems: tuple[Problem, ...]
    standing: int | None = None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The database did not answer; syncing goes on by itself."""


Outcome: TypeAlias = Synced | Invalid | Unavailable


@dataclass(frozen=True, slots=True)
class Facts:
    """What changes without the spec. None: not known now, so what the status says stays."""

    runs: RunCounts | None = None
    ticks: Mapping[str, datetime] | None = None
    troubles: Sequence[Trouble] | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """One Workflow: its generation, the status that it has, and what syncing its spec came to."""

    name: ResourceName
    generation: int
    status: Status
    outcome: Outcome
    facts: Facts = field(default_factory=Facts)


class Announcement(NamedTuple):
    """An Event."""

    reason: str
    message: str
    warning: bool


def decide(observed: Observed, base_url: str, now: datetime) -> Status:
    """The status that is to stand; equal to the present one where there is nothing to write. Never holds a null."""
    before, outcome = observed.status, observed.outcome
    stood = {condition["type"]: condition for condition in before.get("conditions") or ()}
    wanted = [_ready(outcome), _secrets(observed.facts, stood), _suspended(outcome, stood)]
    status: Status = {
        "observedGeneration": observed.generation,
        "conditions": [_condition(each, stood.get(each[0]), observed.generation, now) for each in wanted if each],
    }
    revision = _revision(outcome, before)
    if revision is not None:
        status["revision"] = revision
    triggers = _triggers(observed, base_url)
    if triggers:
        status["triggers"] = triggers
    runs = before.get("runs") or {}
    if observed.facts.runs is not None:  # the latest run is shown even after its history is gone
        runs = {**runs, **observed.facts.runs.document()}
    if runs:
        status["runs"] = runs
    return status


def announcements(before: Status, after: Status) -> Iterator[Announcement]:
    """The Events that a change of status is worth."""
    old, new = ({c["type"]: c for c in status.get("conditions") or ()} for status in (before, after))
    ready, was_ready = new["Ready"], old.get("Ready", {})
    if ready["status"] == "True":
        if was_ready.get("status") != "True" or before.get("revision") != after.get("revision"):
            yield Announcement(ready["reason"], ready["message"], warning=False)
    elif (ready["reason"], ready["message"]) != (was_ready.get("reason"), was_ready.get("message")):
        yield Announcement(ready["reason"], ready["message"], warning=True)
    secrets, had_secrets = new.get("SecretsAvailable", {}), old.get("SecretsAvailable", {})
    if secrets.get("status") == "False" and secrets.get("message") != had_secrets.get("message"):
        yield Announcement(secrets["reason"], secrets["message"], warning=True)
    asleep, was_asleep = new.get("Suspended", {}), old.get("Suspended", {})
    if was_asleep and asleep and asleep["status"] != was_asleep["status"]:
        suspended = asleep.get("status") == "True"
        yield Announcement("Suspended" if suspended else "Resumed", asleep["message"], warning=False)


_Wanted: TypeAlias = tuple[str, str, str, str]  # type, status, reason, message


def _revision(outcome: Outcome, before: Status) -> int | None:
    if isinstance(outcome, Synced):
        return outcome.revision
    return outcome.standing if isinstance(outcome, Invalid) else before.get("revision")


def _ready(outcome: Outcome) -> _Wanted:
    if isinstance(outcome, Synced):
        return "Ready", "True", "Synced", f"revision {outcome.revision} is active"
    if isinstance(outcome, Invalid):
        goes_on = "" if outcome.standing is None else f"; revision {outcome.standing} goes on"
        text = "; ".join(map(str, outcome.problems))
        return "Ready", "False", "InvalidSpec", shortened(text, MAX_MESSAGE) + goes_on
    message = "PostgreSQL does not answer; the spec takes effect once it does"
    return "Ready", "False", "DatabaseUnavailable", message


def _suspended(outcome: Outcome, stood: Mapping[str, Status]) -> _Wanted | None:
    if isinstance(outcome, Invalid) and outcome.standing is None:
        return None
    if not isinstance(outcome, Synced):
        return _as_it_stood(stood.get("Suspended"))
    if outcome.suspended:
        return "Suspended", "True", "Suspended", "no trigger starts a run; what runs goes on"
    return "Suspended", "False", "NotSuspended", "triggers start runs"


def _secrets(facts: Facts, stood: Mapping[str, Status]) -> _Wanted | None:
    """As workers and gateways met them; until it is known that they met trouble they are taken to be there."""
    if facts.troubles:
        text = "; ".join(trouble.message for trouble in facts.troubles)
        return "SecretsAvailable", "False", facts.troubles[0].reason, shortened(text, MAX_MESSAGE)
    if facts.troubles is None and "SecretsAvailable" in stood:
        return _as_it_stood(stood["SecretsAvailable"])
    return "SecretsAvailable", "True", "Available", "no worker and no gateway was refused a secret"


def _as_it_stood(condition: Status | None) -> _Wanted | None:
    if condition is None:
        return None
    return condition["type"], condition["status"], condition["reason"], condition["message"]


def _condition(wanted: _Wanted, stood: Status | None, generation: int, now: datetime) -> Status:
    """A condition; the time is of the last change of its status, not of its reason."""
    kind, status, reason, message = wanted
    kept = stood is not None and stood["status"] == status
    return {
        "type": kind,
        "status": status,
        "observedGeneration": generation,
        "lastTransitionTime": stood["lastTransitionTime"] if kept and stood else rfc3339(now),
        "reason": reason,
        "message": message,
    }


def _triggers(observed: Observed, base_url: str) -> list[Status]:
    outcome = observed.outcome
    shown: list[Status] = observed.status.get("triggers") or []
    if isinstance(outcome, Invalid) and outcome.standing is None:
        return []
    stood = {each["name"]: each for each in shown}
    if not isinstance(outcome, Synced):
        return [_going_on(each, observed.facts, stood) for each in shown]
    found: list[Status] = []
    for trigger in outcome.triggers:
        entry = {"name": trigger.name}
        if trigger.webhook:
            entry["url"] = "/".join((base_url.rstrip("/"), "hooks", *observed.name, trigger.name))
        elif not outcome.suspended:
            tick = _tick(trigger.name, observed.facts, stood)
            entry |= {} if tick is None else {"nextRunTime": tick}
        found.append(entry)
    return found


def _going_on(trigger: Status, facts: Facts, stood: Mapping[str, Status]) -> Status:
    """As the revision that stands has it; its schedule goes on."""
    tick = _tick(trigger["name"], facts, stood) if "nextRunTime" in trigger else None
    return trigger if tick is None else {**trigger, "nextRunTime": tick}


def _tick(trigger: str, facts: Facts, stood: Mapping[str, Status]) -> str | None:
    if facts.ticks is None:
        return stood.get(trigger, {}).get("nextRunTime")
    return rfc3339(facts.ticks[trigger]) if trigger in facts.ticks else None


def rfc3339(moment: datetime) -> str:
    """As the API server writes times: UTC, whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def shortened(text: str, characters: int) -> str:
    """A text, cut where it is longer."""
    return text if len(text) <= characters else f"{text[: characters - 1]}…"
