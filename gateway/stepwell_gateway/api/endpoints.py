"""Every route of the API, with who may call it and what it answers."""

from __future__ import annotations

from stepwell_gateway.api import approvals as a
from stepwell_gateway.api import handlers as h
from stepwell_gateway.api.events import run_events
from stepwell_gateway.api.models import (
    NoBody,
    RerunBody,
    RunDetail,
    RunPage,
    RunReference,
    StartBody,
    StepPage,
    WorkflowDetail,
    WorkflowPage,
)
from stepwell_gateway.api.queries import PageQuery, RunsQuery
from stepwell_gateway.api.rules import APPROVE, CONTROL, GET, LIST, START
from stepwell_gateway.api.table import Endpoint

_ACCEPTED = {202: RunReference, 200: RunReference}

ENDPOINTS = (
    Endpoint("GET", "/workflows", LIST, h.list_workflows, "List workflows", {200: WorkflowPage}, query=PageQuery),
    Endpoint("GET", "/workflows/{name}", GET, h.get_workflow, "Show a workflow", {200: WorkflowDetail, 404: None}),
    Endpoint(
        "POST", "/workflows/{name}/runs", START, h.start_run, "Start a run", _ACCEPTED | {404: None, 429: None},
        body=StartBody, keyed=True,
    ),
    Endpoint("GET", "/runs", LIST, h.list_runs, "List runs, newest first", {200: RunPage}, query=RunsQuery),
    Endpoint("GET", "/runs/{run}", GET, h.get_run, "Show a run", {200: RunDetail, 404: None}),
    Endpoint(
        "GET", "/runs/{run}/steps", GET, h.list_steps, "List the attempts of a run's steps", {200: StepPage, 404: None},
        query=PageQuery,
    ),
    Endpoint(
        "GET", "/runs/{run}/events", GET, run_events, "Follow a run", {200: None, 204: None, 404: None}, streams=True,
        headers={"Last-Event-ID": "The id of the last event that arrived: the stream goes on after it."},
    ),
    Endpoint(
        "POST", "/runs/{run}:cancel", CONTROL, h.cancel_run, "Cancel a run", {202: RunReference, 404: None, 409: None},
        body=NoBody,
    ),
    Endpoint(
        "POST", "/runs/{run}:retry", CONTROL, h.retry_run, "Go on where a run failed, as a new run",
        _ACCEPTED | {404: None, 409: None, 429: None}, body=NoBody, keyed=True,
    ),
    Endpoint(
        "POST", "/runs/{run}:rerun", START, h.rerun_run, "Run it again, as a new run",
        _ACCEPTED | {404: None, 409: None, 429: None}, body=RerunBody, keyed=True,
    ),
    Endpoint(
        "GET", "/approvals", LIST, a.list_approvals, "List what waits for a decision", {200: a.ApprovalPage},
        query=a.ApprovalsQuery,
    ),
    Endpoint(
        "POST", "/runs/{run}/steps/{step}:approve", APPROVE, a.approve_step, "Approve what a run waits for",
        {200: a.DecisionDocument, 404: None, 409: None}, body=a.DecisionBody,
    ),
    Endpoint(
        "POST", "/runs/{run}/steps/{step}:reject", APPROVE, a.reject_step, "Reject what a run waits for",
        {200: a.DecisionDocument, 404: None, 409: None}, body=a.DecisionBody,
    ),
)  # fmt: skip
