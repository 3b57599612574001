"""The whole manifest language: ``Workflow`` and ``WorkflowRun``.

Parse with ``Workflow.model_validate(document)``; pydantic's ValidationError becomes Problems in ``manifest``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Strict, StringConstraints

from stepwell.domain.http_spec import Expect, HttpAuth, HttpCall, SecretHeader, SecretParameter, Tls, UrlFrom
from stepwell.domain.labels import Annotations, Labels
from stepwell.domain.model import (
    BasicAuth,
    BearerAuth,
    Flag,
    JsonMap,
    JsonTemplate,
    Label,
    Model,
    Number,
    ObjectName,
    Seconds,
    SecretKeyRef,
    TextTemplate,
    at_most,
)
from stepwell.domain.steps import (
    Approval,
    Backoff,
    ChildWorkflow,
    Fail,
    ForEach,
    PluginCall,
    Retry,
    Step,
    Transform,
    Wait,
)
from stepwell.domain.triggers import Cron, Hmac, Public, RateLimit, Respond, Trigger, Webhook, WebhookAuth

GROUP = "stepwell.dev"
API_VERSION = f"{GROUP}/v1alpha1"
Priority = Literal["Low", "Normal", "High"]


class Concurrency(Model):
    """At most ``limit`` runs at once, of the workflow or of each ``key``."""

    limit: Annotated[Number, Field(ge=1, le=100_000)]
    key: TextTemplate | None = None
    on_limit: Literal["Queue", "Skip", "CancelOldest"] = "Queue"


class Retention(Model):
    """How long a run is kept after its end."""

    succeeded: Seconds = 168 * 3600.0
    failed: Seconds = 720 * 3600.0


class WorkflowSpec(Model):
    """The ``spec`` of a Workflow."""

    description: Annotated[str, Strict(), StringConstraints(max_length=1024)] | None = None
    input_schema: JsonMap | None = None
    triggers: Annotated[tuple[Trigger, ...], at_most(16)] = ()
    steps: Annotated[tuple[Step, ...], at_most(200, at_least=1)]
    on_failure: Annotated[tuple[Step, ...], at_most(20)] = ()
    finally_: Annotated[tuple[Step, ...], at_most(20)] = Field(default=(), alias="finally")
    output: JsonTemplate = None
    timeout: Seconds = 720 * 3600.0
    retry: Retry | None = None
    concurrency: Concurrency | None = None
    priority: Priority = "Normal"
    suspend: Flag = False
    retention: Retention = Retention()


class WorkflowRef(Model):
    """The workflow to run, of the same namespace."""

    name: ObjectName


class WorkflowRunSpec(Model):
    """The ``spec`` of a WorkflowRun."""

    workflow_ref: WorkflowRef
    input: JsonMap | None = None
    priority: Priority | None = None
    cancel: Flag = False
    ttl_after_finished: Seconds | None = None


class Metadata(Model):
    """An object's metadata. Stepwell reads the first five; the others are the API server's."""

    name: ObjectName | None = None
    generate_name: Annotated[str, Strict(), StringConstraints(min_length=1, max_length=253)] | None = None
    namespace: Label = "default"
    labels: Labels | None = None
    annotations: Annotations | None = None
    creation_timestamp: Any = None
    deletion_grace_period_seconds: Any = None
    deletion_timestamp: Any = None
    finalizers: Any = None
    generation: Any = None
    managed_fields: Any = None
    owner_references: Any = None
    resource_version: Any = None
    self_link: Any = None
    uid: Any = None


class Workflow(Model):
    """A Workflow object. ``status`` is the operator's and is not read."""

    api_version: Literal["stepwell.dev/v1alpha1"]
    kind: Literal["Workflow"]
    metadata: Metadata
    spec: WorkflowSpec
    status: Any = None


class WorkflowRun(Model):
    """A WorkflowRun object. ``status`` is the operator's and is not read."""

    api_version: Literal["stepwell.dev/v1alpha1"]
    kind: Literal["WorkflowRun"]
    metadata: Metadata
    spec: WorkflowRunSpec
    status: Any = None


__all__ = [
    "API_VERSION",
    "GROUP",
    "Approval",
    "Backoff",
    "BasicAuth",
    "BearerAuth",
    "ChildWorkflow",
    "Concurrency",
    "Cron",
    "Expect",
    "Fail",
    "ForEach",
    "Hmac",
    "HttpAuth",
    "HttpCall",
    "Metadata",
    "PluginCall",
    "Priority",
    "Public",
    "RateLimit",
    "Respond",
    "Retention",
    "Retry",
    "SecretHeader",
    "SecretKeyRef",
    "SecretParameter",
    "Step",
    "Tls",
    "Transform",
    "Trigger",
    "UrlFrom",
    "Wait",
    "Webhook",
    "WebhookAuth",
    "Workflow",
    "WorkflowRef",
    "WorkflowRun",
    "WorkflowRunSpec",
    "WorkflowSpec",
]
