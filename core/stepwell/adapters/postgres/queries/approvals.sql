-- Approvals: opened by a step, decided once, by whoever comes first: a person or the clock.

-- name: find
SELECT a.approved, a.decided_by, a.comment, a.data::text FROM approvals a
WHERE a.run_id = %(run)s::uuid AND a.step = %(step)s;

-- name: open
INSERT INTO approvals (run_id, step, namespace, workflow, message, opened_at, due_at)
VALUES (%(run)s::uuid, %(step)s, %(namespace)s, %(workflow)s, %(message)s, to_timestamp(%(opened)s / 1e6),
        to_timestamp(%(due)s::bigint / 1e6))
ON CONFLICT DO NOTHING;

-- name: expire
-- Its time ran out: decided by nobody, unless somebody was faster.
UPDATE approvals a
SET decided_at = clock_timestamp(), approved = %(approved)s, comment = %(comment)s
WHERE a.run_id = %(run)s::uuid AND a.step = %(step)s AND a.decided_at IS NULL;

-- name: decide
-- The decision and the wake of its run are one transaction. The run is locked first, as everywhere: one that is being
-- parked right now sees that `wakes` moved. Where handlers run, what was asked before them waits for nothing any more.
WITH live AS MATERIALIZED (
  SELECT r.id, r.handlers_at FROM runs r
  WHERE r.id = ANY(%(ids)s::uuid[]) AND r.namespace = %(namespace)s AND r.status IN ('queued', 'running', 'waiting')
  FOR NO KEY UPDATE OF r
), decided AS (
  UPDATE approvals a
  SET decided_at = clock_timestamp(), approved = %(approved)s, decided_by = %(by)s, comment = %(comment)s,
      data = %(data)s::json
  WHERE a.run_id = ANY(%(ids)s::uuid[]) AND a.step = %(step)s AND a.decided_at IS NULL
    AND (a.run_id IN (SELECT l.id FROM live l WHERE l.handlers_at IS NULL OR a.opened_at >= l.handlers_at)) IS TRUE
  RETURNING a.run_id
)
UPDATE runs AS r
SET wakes = r.wakes + 1, status = CASE WHEN r.status = 'waiting' THEN 'queued' ELSE r.status END
WHERE r.id = ANY(%(ids)s::uuid[]) AND (r.id IN (SELECT d.run_id FROM decided d)) IS TRUE
RETURNING r.id::text, r.namespace, r.priority, (extract(epoch FROM r.created_at) * 1000)::bigint, r.status;

-- name: state
-- An approval and whether its run can still go on, for whoever could not decide it, or wants to look.
SELECT a.workflow, a.step, a.message, a.opened_at, a.due_at, a.decided_at, a.approved, a.decided_by, a.comment,
  r.finished_at IS NULL AND (r.handlers_at IS NULL OR a.opened_at >= r.handlers_at)
FROM approvals a JOIN runs r ON r.id = a.run_id
WHERE a.run_id = ANY(%(ids)s::uuid[]) AND r.id = ANY(%(ids)s::uuid[]) AND a.namespace = %(namespace)s AND a.step = %(step)s;

-- name: namespace
SELECT a.namespace FROM approvals a WHERE a.run_id = %(run)s::uuid AND a.step = %(step)s;

-- name: pending
-- The open approvals of a namespace whose run is alive, oldest run first, after a place.
SELECT a.run_id::text, a.workflow, a.step, a.message, a.opened_at, a.due_at
FROM approvals a, LATERAL (
  SELECT FROM runs r WHERE r.id = a.run_id AND r.finished_at IS NULL
    AND (r.handlers_at IS NULL OR a.opened_at >= r.handlers_at) OFFSET 0) AS alive
WHERE a.decided_at IS NULL AND a.namespace = %(namespace)s
  AND (%(workflow)s::text IS NULL OR a.workflow = %(workflow)s)
  AND (a.run_id, a.step) > (%(after_run)s::uuid, %(after_step)s)
ORDER BY a.run_id, a.step
LIMIT %(limit)s;
