-- What happened, for people: pages of runs, one run, its steps.

-- name: of_workflow
-- A page of one workflow's runs, newest first: a walk along the index (workflow_id, id), from the cursor down. It reads the
-- table below the view, whose join would hide that order, and is given the workflow's id, so that the planner knows
-- whether its runs are rare.
SELECT r.id::text, %(namespace)s, %(workflow)s, r.status, r.trigger, r.created_at, r.started_at, r.finished_at
FROM runs r
WHERE r.workflow_id = %(workflow_id)s::bigint
  AND r.id < %(before)s::uuid AND r.id >= uuid_floor(%(since)s::timestamptz)
  AND (%(status)s::text IS NULL OR r.status = %(status)s::text)
  AND (r.expires_at IS NULL OR r.expires_at > now())
ORDER BY r.id DESC
LIMIT %(limit)s;

-- name: workflow_id
SELECT w.id FROM workflows w WHERE w.namespace = %(namespace)s AND w.name = %(workflow)s;

-- name: page
-- The same over all workflows, of one namespace or of all, along the primary key.
SELECT r.id::text, r.namespace, r.workflow, r.status, r.trigger, r.created_at, r.started_at, r.finished_at
FROM workflow_runs r
WHERE r.id < %(before)s::uuid AND r.id >= uuid_floor(%(since)s::timestamptz)
  AND (%(namespace)s::text IS NULL OR r.namespace = %(namespace)s::text)
  AND (%(status)s::text IS NULL OR r.status = %(status)s::text)
ORDER BY r.id DESC
LIMIT %(limit)s;

-- name: run
SELECT r.id::text, r.namespace, r.workflow, r.status, r.trigger, r.created_at, r.started_at, r.finished_at,
  r.input_data, r.output_data, r.error, r.revision_id
FROM workflow_runs r
WHERE r.id = %(run)s::uuid;

-- name: state
-- The same without its documents.
SELECT r.id::text, r.namespace, r.workflow, r.status, r.trigger, r.created_at, r.started_at, r.finished_at
FROM workflow_runs r
WHERE r.id = %(run)s::uuid;

-- name: steps
-- Every attempt, in the order in which they ended.
SELECT s.step, s.item_index, s.attempt, s.status, s.started_at, s.finished_at, s.retry_at, s.error, s.http,
  s.items, s.input_data, s.output_data
FROM step_runs s
WHERE s.run_id = %(run)s::uuid
ORDER BY s.finished_at, s.step, s.item_index, s.attempt;

-- name: step_states
-- The same without inputs and outputs.
SELECT s.step, s.item_index, s.attempt, s.status, s.started_at, s.finished_at, s.retry_at, s.error, s.http, s.items
FROM step_runs s
WHERE s.run_id = %(run)s::uuid
ORDER BY s.finished_at, s.step, s.item_index, s.attempt;

-- name: spec
SELECT v.spec FROM workflow_revisions v WHERE v.id = %(revision)s;
