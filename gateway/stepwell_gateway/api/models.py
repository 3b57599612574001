"""The documents of the API. What is sent and what ``/openapi.json`` says of it come from here."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from stepwell.domain.states import RunStatus, StepStatus

HIDDEN = "payloads are left out: reading them takes the right to get workflows/payloads"


class Document(BaseModel):
    """In camelCase, without unknown fields."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    def json_bytes(self) -> bytes:
        """As it is sent: fields that were not set are left out."""
        return orjson.dumps(self.model_dump(by_alias=True, exclude_unset=True))


# -- what clients send -----------------------------------------------------------------------------------------------------


class StartBody(Document):
    """What a run is started with."""

    input: Annotated[dict[str, Any], Field(description="The run's input, as the workflow's inputSchema wants it.")] = {}
    priority: Literal["Low", "Normal", "High"] | None = None


class RerunBody(Document):
    """How a run is run again: on the active revision with the same or another input, or from a step on its own."""

    input: dict[str, Any] | None = Field(None, description="Another input. It goes with no fromStep.")
    from_step: str | None = Field(None, max_length=63, description="Keep the results of what does not follow from it.")


class NoBody(Document):
    """Nothing is sent, or {}."""


# -- what they get ---------------------------------------------------------------------------------------------------------


class RunReference(Document):
    """A run that was accepted."""

    run_id: str
    status: RunStatus | None = Field(description="Null where a key led to a run that is no longer kept.")
    url: str
    input_differs: bool = Field(default=False, description="The key was used before, with another request.")


class RunError(Document):
    """Why a run or an attempt did not succeed. ``message`` and further details take the right to payloads."""

    model_config = ConfigDict(extra="allow")

    reason: str | None = None
    step: str | None = None


class RunDocument(Document):
    """A run."""

    id: str
    namespace: str
    workflow: str
    status: RunStatus
    trigger: str
    priority: Literal["Low", "Normal", "High"]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    retry_of: str | None = Field(description="The run that this one retries.")
    rerun_of: str | None = Field(description="The run that this one is a rerun of.")
    error: RunError | None


class RunDetail(RunDocument):
    """A run with its payloads, or a note where the caller may not read them."""

    input: dict[str, Any] = Field(default_factory=dict)
    output: Any = None
    note: str = ""


class RunPage(Document):
    """Runs, newest first."""

    runs: list[RunDocument]
    cursor: str | None = Field(description="Leads to the next page; null: this is the last.")


class StepDocument(Document):
    """An attempt of a step that ended."""

    step: str
    item_index: int | None = Field(description="The item that it is of, from 0 on; null: the step itself.")
    items: int | None = Field(description="How many items the step has; null: it has no forEach.")
    attempt: int
    status: StepStatus
    started_at: datetime
    finished_at: datetime
    retry_at: datetime | None = Field(description="When the next attempt is due, if there is one.")
    copied: bool = Field(description="Taken over from the run that this one repeats.")
    error: RunError | None = None
    http: dict[str, Any] | None = None
    input: Any = None
    output: Any = None


class StepPage(Document):
    """Attempts in the order in which they were recorded."""

    steps: list[StepDocument]
    cursor: str | None
    note: str = ""


class WorkflowDocument(Document):
    """A workflow."""

    namespace: str
    name: str
    description: str | None
    suspended: bool
    revision: int
    created_at: datetime
    updated_at: datetime


class TriggerDocument(Document):
    """A trigger."""

    name: str
    type: str


class StepOutline(Document):
    """A step of the active revision."""

    name: str
    action: str


class WorkflowDetail(WorkflowDocument):
    """A workflow with what its active revision consists of."""

    triggers: list[TriggerDocument]
    steps: list[StepOutline]
    on_failure: list[StepOutline]
    finally_: list[StepOutline] = Field(alias="finally")


class WorkflowPage(Document):
    """Workflows by name."""

    workflows: list[WorkflowDocument]
    cursor: str | None


class ProblemDocument(BaseModel):
    """An error (RFC 9457). ``detail`` says what was wrong, and what to do."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str = ""
