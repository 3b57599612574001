-- Runs that repeat others: `:retry` and `:rerun`.

-- name: source
-- The run that is to be repeated, and its workflow as it stands now. An ended run never changes again.
SELECT r.id::text, r.namespace, w.name, r.workflow_id, r.revision_id, r.status, r.priority, r.input_data::text,
  w.active_revision_id, w.suspended, w.deleted_at IS NOT NULL
FROM runs r JOIN workflows w ON w.id = r.workflow_id
WHERE r.id = %(run)s::uuid AND r.namespace = %(namespace)s AND (r.expires_at IS NULL OR r.expires_at > now());

-- name: results
-- How its steps ended: the attempts that no other follows.
SELECT s.step, s.status FROM run_steps s
WHERE s.run_id = %(run)s::uuid AND s.item_index = -1 AND s.retry_at IS NULL;

-- name: begin
-- The new run with the results that it takes over, and its key, in one transaction: of `steps` all, of `items` those of the
-- items that succeeded. The source and its steps are read in
-- one snapshot, so retention cannot come in between: both are there, or neither. Absent from the answer: the source, or
-- the workflow as it was read, is no more. `again`: the answer was lost; what was committed then is answered now.
WITH source AS MATERIALIZED (
  SELECT %(id)s::uuid AS id, r.workflow_id, r.namespace, r.trigger, r.input_data
  FROM runs r JOIN workflows w ON w.id = r.workflow_id
  WHERE r.id = %(source)s::uuid AND r.namespace = %(namespace)s AND r.finished_at IS NOT NULL AND r.expires_at > now()
    AND (NOT w.suspended AND w.deleted_at IS NULL AND (NOT %(active)s OR w.active_revision_id = %(revision)s)
      OR %(again)s AND EXISTS (SELECT FROM runs n WHERE n.id = %(id)s::uuid))
), keys AS (
  INSERT INTO idempotency_keys AS k (workflow_id, door, key, run_id, input_hash, expires_at)
  SELECT s.workflow_id, %(door)s, %(key)s, s.id, decode(%(input_hash)s, 'hex'), now() + %(keep)s::interval
  FROM source s WHERE %(key)s::text IS NOT NULL
  ON CONFLICT (workflow_id, door, key) DO UPDATE SET
    run_id = CASE WHEN k.expires_at <= now() THEN excluded.run_id ELSE k.run_id END,
    input_hash = CASE WHEN k.expires_at <= now() THEN excluded.input_hash ELSE k.input_hash END,
    expires_at = CASE WHEN k.expires_at <= now() THEN excluded.expires_at ELSE k.expires_at END
  RETURNING k.run_id, k.input_hash
), fresh AS MATERIALIZED (
  SELECT s.* FROM source s WHERE %(key)s::text IS NULL OR (s.id IN (SELECT k.run_id FROM keys k)) IS TRUE
), copied AS (
  INSERT INTO run_steps (run_id, fence, started_at, finished_at, item_index, items, attempt, step, status,
                         input_from, input_data, output_data, error, http)
  SELECT f.id, 0, s.started_at, s.finished_at, s.item_index, s.items, s.attempt, s.step, s.status,
         s.input_from, s.input_data, s.output_data, s.error, s.http
  FROM run_steps s, fresh f
  WHERE s.run_id = %(source)s::uuid AND s.retry_at IS NULL
    AND (s.step = ANY(%(steps)s::text[]) OR s.step = ANY(%(items)s::text[]) AND s.item_index >= 0 AND s.status = 'succeeded')
  ON CONFLICT DO NOTHING
), inserted AS (
  INSERT INTO runs (id, workflow_id, revision_id, namespace, trigger, priority, created_at, input_data, retry_of, rerun_of)
  SELECT f.id, f.workflow_id, %(revision)s, f.namespace, f.trigger, %(priority)s, to_timestamp(%(created_at)s / 1e6),
         coalesce(%(input)s::json, f.input_data), %(retry_of)s::uuid, %(rerun_of)s::uuid
  FROM fresh f
  ON CONFLICT DO NOTHING
)
SELECT coalesce(k.run_id, s.id)::text, encode(k.input_hash, 'hex') FROM source s LEFT JOIN keys k ON true;
