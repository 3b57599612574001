-- What the API shows of a namespace. Rows are always selected by (namespace, id).

-- name: page
-- The ids of a page of runs, newest first, of one workflow or of all of a namespace: a page of each, of which the newest
-- are taken.
SELECT p.id::text
FROM workflows w, LATERAL workflow_page(w.id, %(before)s::uuid, uuid_floor(%(since)s::timestamptz), %(status)s, %(limit)s)
  AS p (id)
WHERE w.namespace = %(namespace)s AND (%(workflow)s::text IS NULL OR w.name = %(workflow)s)
ORDER BY p.id DESC
LIMIT %(limit)s;

-- name: page_of_gone_wrong
-- The same where `status` is of runs that ended otherwise than well.
SELECT p.id::text
FROM workflows w, LATERAL gone_wrong_page(w.id, %(before)s::uuid, uuid_floor(%(since)s::timestamptz), %(status)s, %(limit)s)
  AS p (id)
WHERE w.namespace = %(namespace)s AND (%(workflow)s::text IS NULL OR w.name = %(workflow)s)
ORDER BY p.id DESC
LIMIT %(limit)s;

-- name: page_of_live
-- The same where `status` is of runs that have not ended.
SELECT p.id::text
FROM live_runs_page(%(namespace)s,
  (SELECT w.id FROM workflows w WHERE w.namespace = %(namespace)s AND w.name = %(workflow)s),
  %(before)s::uuid, uuid_floor(%(since)s::timestamptz), %(status)s, %(limit)s) AS p (id)
WHERE %(workflow)s::text IS NULL
   OR EXISTS (SELECT FROM workflows w WHERE w.namespace = %(namespace)s AND w.name = %(workflow)s)
ORDER BY p.id DESC;

-- name: runs
SELECT r.id::text, r.namespace, w.name, r.status, r.trigger, r.priority, r.created_at, r.started_at, r.finished_at,
  r.cancel_requested_at IS NOT NULL, r.retry_of::text, r.rerun_of::text, r.error->>'reason', r.error->>'step'
FROM runs r, LATERAL (SELECT w.name FROM workflows w WHERE w.id = r.workflow_id OFFSET 0) AS w  -- looked up, not joined
WHERE r.id = ANY(%(ids)s::uuid[]) AND r.namespace = %(namespace)s AND (r.expires_at IS NULL OR r.expires_at > now())
ORDER BY r.id DESC;

-- name: documents
SELECT r.input_data, r.output_data, r.error FROM workflow_runs r
WHERE r.id = %(run)s::uuid AND r.namespace = %(namespace)s;

-- name: steps
-- Attempts that ended, in the order in which they were recorded: claim after claim, and within one by time. A row never
-- comes before one that was there earlier, so a count is a place. A page ends early where its documents become large.
SELECT p.step, p.item_index, p.attempt, p.status, p.started_at, p.finished_at, p.retry_at, p.fence = 0,
  p.items, p.error, p.http, p.input_data::json, p.output_data::json
FROM (
  SELECT q.*, sum(coalesce(octet_length(q.input_data), 0) + coalesce(octet_length(q.output_data), 0)) OVER (
      ORDER BY q.place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
  FROM (
    SELECT s.fence, s.step, s.item_index, s.attempt, s.status, s.started_at, s.finished_at, s.retry_at, s.items, s.error, s.http,
      row_number() OVER (ORDER BY s.fence, s.finished_at, s.step, s.item_index, s.attempt) AS place,
      CASE WHEN NOT %(documents)s THEN NULL WHEN s.input_from IS NULL THEN s.input_data::text
        ELSE resolve_input(s.run_id, s.input_from)::text END AS input_data,
      CASE WHEN NOT %(documents)s THEN NULL
        WHEN s.output_data IS NULL AND s.item_index = -1 AND s.items IS NOT NULL AND s.status = 'succeeded'
        THEN item_outputs(s.run_id, s.step, s.items)::text
        ELSE s.output_data::text END AS output_data
    FROM run_steps s
    WHERE s.run_id = %(run)s::uuid
    ORDER BY place
    OFFSET %(seen)s LIMIT %(limit)s
  ) AS q
) AS p
WHERE coalesce(p.bytes_before, 0) < %(bytes)s
ORDER BY p.place;

-- name: progress
-- Of watched runs: their status, and how many attempts were recorded, as of one moment.
SELECT r.id::text, r.status, r.started_at, r.finished_at, coalesce(s.recorded, 0)
FROM runs r LEFT JOIN (
  SELECT s.run_id, count(*) AS recorded FROM run_steps s WHERE s.run_id = ANY(%(ids)s::uuid[]) GROUP BY s.run_id
) AS s ON s.run_id = r.id
WHERE r.id = ANY(%(ids)s::uuid[]);

-- name: workflows
SELECT w.name, w.suspended, w.created_at, w.updated_at, w.active_revision_id, v.spec->>'description'
FROM workflows w JOIN workflow_revisions v ON v.id = w.active_revision_id
WHERE w.namespace = %(namespace)s AND w.deleted_at IS NULL AND w.name > %(after)s
ORDER BY w.name
LIMIT %(limit)s;

-- name: workflow
SELECT w.name, w.suspended, w.created_at, w.updated_at, w.active_revision_id, v.spec->>'description', v.spec
FROM workflows w JOIN workflow_revisions v ON v.id = w.active_revision_id
WHERE w.namespace = %(namespace)s AND w.name = %(name)s AND w.deleted_at IS NULL;
