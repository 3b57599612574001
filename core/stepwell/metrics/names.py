"""The metrics' names and meanings (docs/metrics.md), and the bounds of the histograms."""

from __future__ import annotations

from stepwell.metrics.instruments import Description

_WORKFLOW = ("namespace", "workflow")

RUNS = Description("stepwell_runs_total", "Runs that ended on this worker, by how they ended.", (*_WORKFLOW, "status"))
STEPS = Description(
    "stepwell_steps_total",
    "Attempts of steps that were recorded: succeeded, failed for good, skipped, or failed and retried.",
    (*_WORKFLOW, "action", "status"),
)
RUN_DURATION = Description(
    "stepwell_run_duration_seconds", "From a run's creation to its end, queue and waits included.", ("status",)
)
STEP_DURATION = Description("stepwell_step_duration_seconds", "How long one attempt of a step took.", ("action",))
TRIGGER_TO_START = Description("stepwell_trigger_to_start_seconds", "From a run's creation to its first execution.")
QUEUE_DEPTH = Description(
    "stepwell_queue_depth", "Live runs by status, as the leader counted them in the database.", ("namespace", "status")
)
QUEUE_OLDEST = Description(
    "stepwell_queue_oldest_seconds", "The age of the oldest queued run that never started; 0 without one.",
    ("namespace",),
)  # fmt: skip
SLOTS = Description("stepwell_slots", "How many runs this worker may execute at once.")
SLOTS_BUSY = Description("stepwell_slots_busy", "How many it executes.")
JOURNAL_FLUSH = Description("stepwell_journal_flush_seconds", "How long a flush of the journal took to commit.")
JOURNAL_BATCH = Description("stepwell_journal_batch_size", "Runs that shared a flush.")
JOURNAL_BACKLOG = Description("stepwell_journal_backlog", "Runs that wait for the next flush.")
RECOVERIES = Description("stepwell_recoveries_total", "Runs that this worker, as the leader, took from dead workers.")
POISON_PILLS = Description(
    "stepwell_poison_pills_total", "Runs that it ended because worker after worker died while executing them."
)
STRANDED = Description("stepwell_stranded_total", "Runs that waited for nothing and were woken: each is a defect.")
SCHEDULE_SKIPPED = Description(
    "stepwell_schedule_skipped_total", "Ticks of cron triggers that started no run, by why.", (*_WORKFLOW, "reason")
)
SCHEDULE_LATENESS = Description(
    "stepwell_schedule_lateness_seconds", "From when a tick was due, jitter included, to the acceptance of its run."
)
LEADER = Description("stepwell_leader", "1 on the worker that leads maintenance.")
REDIS_AVAILABLE = Description("stepwell_redis_available", "0 while runs are claimed without Redis.")
HEARTBEAT_TRUSTED = Description("stepwell_heartbeat_trusted", "0 while no effect starts for want of a heartbeat.")
LOOP_LAG = Description(
    "stepwell_event_loop_lag_seconds", "By how much the event loop was late, looked at every second."
)
WEBHOOK_REQUESTS = Description(
    "stepwell_webhook_requests_total", "Requests to webhooks, by the status of the answer.", (*_WORKFLOW, "code")
)
WEBHOOK_ACCEPTED = Description(
    "stepwell_webhook_accepted_seconds", "From the arrival of a webhook's request to its 202, the run being durable."
)
WEBHOOK_FILTERED = Description(
    "stepwell_webhook_filtered_total", "Deliveries that a trigger's condition turned away.", _WORKFLOW
)
WEBHOOK_SUSPENDED = Description(
    "stepwell_webhook_suspended_total",
    "Deliveries that were answered 503 because their workflow is suspended.",
    _WORKFLOW,
)
OPERATOR_WORKFLOWS = Description(
    "stepwell_operator_workflows", "Workflow resources, by the status of their condition Ready.", ("ready",)
)
OPERATOR_UNSYNCED = Description(
    "stepwell_operator_unsynced", "Workflow resources whose newest state is not in the database yet."
)
OPERATOR_SYNC = Description("stepwell_operator_sync_seconds", "From seeing a changed Workflow to its commit.")
OPERATOR_STATUS_WRITES = Description(
    "stepwell_operator_status_writes_total", "Status writes: written, or failed.", ("kind", "result")
)
OPERATOR_EVENTS = Description("stepwell_operator_events_total", "Events of the cluster: posted, dropped.", ("result",))
OPERATOR_SWEPT = Description(
    "stepwell_operator_swept_total", "What sweeps found: missed_delete, missed_change.", ("found",)
)
KUBE_REQUESTS = Description(
    "stepwell_kube_requests_total", "Calls to the API server, by what was asked for and the answer.", ("kind", "code")
)
BUILD_INFO = Description("stepwell_build_info", "1; the labels say what runs.", ("version", "python"))

START_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 30, 60, 300, 1800)
ACCEPT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
LATE_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 30, 60, 300, 3600, 86400)
STEP_SECONDS = (0.0001, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
RUN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 30, 60, 300, 1800, 3600)
FLUSH_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SYNC_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BATCH_ROWS = (1, 2, 5, 10, 25, 50, 100, 200, 500, 1000, 2000)
