-- WorkflowRun objects and their runs, for the operator. Rows of workflow_run_objects are written by `accept` (intake.sql).

-- name: started
-- Of these objects, those that a run was ever accepted for.
SELECT o.uid FROM workflow_run_objects o WHERE o.uid = ANY(%(uids)s::text[]);

-- name: states
-- How these runs stand: the poll. Also those that have expired, until retention removes them.
SELECT r.id::text, r.status, r.cancel_requested_at IS NOT NULL FROM runs r WHERE r.id = ANY(%(ids)s::uuid[]);

-- name: details
-- The runs as their statuses show them; an output larger than `max_output` bytes stays here.
WITH found AS MATERIALIZED (
  SELECT r.id, r.status, r.started_at, r.finished_at, r.error,
    CASE WHEN r.status <> 'succeeded' THEN NULL WHEN r.output_from IS NULL THEN r.output_data::text
      ELSE handed_on(r.id, r.output_from)::text END AS output,
    CASE WHEN r.status = 'waiting' THEN (SELECT t.due_at FROM timers t WHERE t.run_id = r.id) END AS due_at,
    CASE WHEN r.status = 'waiting' THEN (SELECT a.step FROM approvals a
      WHERE a.run_id = r.id AND a.decided_at IS NULL AND (r.handlers_at IS NULL OR a.opened_at >= r.handlers_at)
      ORDER BY a.step LIMIT 1) END AS approval
  FROM runs r WHERE r.id = ANY(%(ids)s::uuid[])
)
SELECT f.id::text, f.status, f.started_at, f.finished_at, f.error,
  CASE WHEN octet_length(f.output) <= %(max_output)s THEN f.output::json END,
  coalesce(octet_length(f.output) > %(max_output)s, false), f.due_at, f.approval
FROM found f;

-- name: steps
-- The attempts of these runs' steps; of a forEach the step itself, and the items that the run waits for.
SELECT s.run_id::text, s.step, s.attempt, s.status, s.started_at, s.finished_at, s.retry_at, left(s.error ->> 'message', 400),
  s.item_index
FROM run_steps s
WHERE s.run_id = ANY(%(ids)s::uuid[])
  AND (s.item_index = -1 OR s.retry_at = (SELECT t.due_at FROM timers t WHERE t.run_id = s.run_id));

-- name: objects_page
-- A page of all objects that a run was ever accepted for, for the sweep.
SELECT o.uid, o.run_id::text, o.namespace, o.name FROM workflow_run_objects o
WHERE o.uid > %(after)s ORDER BY o.uid LIMIT %(limit)s;

-- name: forget
-- The objects are gone, and their runs are cancelled or over.
DELETE FROM workflow_run_objects o WHERE o.uid = ANY(%(uids)s::text[]);

-- name: make_days
-- Partitions for runs of days that have none (any more, or yet).
SELECT add_partitions(d.day, 1) FROM unnest(%(days)s::date[]) AS d (day);
