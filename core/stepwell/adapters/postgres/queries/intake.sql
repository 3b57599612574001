-- How runs get in: the transaction that a caller's 202 stands for.
--
-- A start whose workflow changed its active revision, is suspended or deleted is absent from the answer. A batch whose
-- answer was lost is sent again as it was: the ids are the caller's, so nothing is doubled, and what was committed then is
-- answered now, whatever became of the workflow meanwhile.

-- name: accept
-- A batch that is sent for the first time, under ids that nobody else can have made. The function is in the migrations.
SELECT * FROM accept_runs(%(runs)s::json, %(workflows)s::bigint[], %(keep)s::interval)

-- name: again
-- A batch of which something may be there already: the same, and an answer for that, too. It is followed by `answer`, and
-- planned for its ids.
WITH wanted AS (
  SELECT * FROM json_to_recordset(%(runs)s::json) AS n (
    id uuid, workflow_id bigint, revision_id bigint, namespace text, trigger text, priority smallint,
    created_at bigint, key text, input_hash text, event_id uuid, run_object text, input json)
), live AS MATERIALIZED (
  -- of the batch, what is for a revision that is still active, or is there from the first time
  SELECT n.* FROM wanted n
  WHERE ((n.workflow_id, n.revision_id) IN (
      SELECT w.id, w.active_revision_id FROM workflows w
      WHERE w.id = ANY(%(workflows)s::bigint[]) AND NOT w.suspended AND w.deleted_at IS NULL)) IS TRUE
    OR (n.id IN (SELECT r.id FROM runs r WHERE r.id = ANY(%(ids)s::uuid[]))) IS TRUE
), keys AS (
  -- keys come first, and sorted, so that batches of two gateways cannot deadlock
  INSERT INTO idempotency_keys AS k (workflow_id, door, key, run_id, input_hash, expires_at)
  SELECT n.workflow_id, n.trigger, n.key, n.id, decode(n.input_hash, 'hex'), now() + %(keep)s::interval
  FROM live n WHERE n.key IS NOT NULL
  ORDER BY n.workflow_id, n.trigger, n.key
  ON CONFLICT (workflow_id, door, key) DO UPDATE SET
    run_id = CASE WHEN k.expires_at <= now() THEN excluded.run_id ELSE k.run_id END,
    input_hash = CASE WHEN k.expires_at <= now() THEN excluded.input_hash ELSE k.input_hash END,
    expires_at = CASE WHEN k.expires_at <= now() THEN excluded.expires_at ELSE k.expires_at END
  RETURNING k.workflow_id, k.door, k.key, k.run_id, k.input_hash
), fresh AS MATERIALIZED (
  -- without a key, or with one that leads to themselves
  SELECT n.* FROM live n WHERE n.key IS NULL OR (n.id IN (SELECT k.run_id FROM keys k)) IS TRUE
), events AS (
  -- the deliveries behind them
  INSERT INTO trigger_events (id, workflow_id, trigger, run_id, received_at)
  SELECT n.event_id, n.workflow_id, n.trigger, n.id, to_timestamp(n.created_at / 1e6)
  FROM fresh n WHERE n.event_id IS NOT NULL
  ON CONFLICT DO NOTHING
), inserted AS (
  INSERT INTO runs (id, workflow_id, revision_id, namespace, trigger, priority, created_at, input_data)
  SELECT n.id, n.workflow_id, n.revision_id, n.namespace, n.trigger, n.priority, to_timestamp(n.created_at / 1e6), n.input
  FROM fresh n
  ON CONFLICT DO NOTHING
)

-- name: objects
-- Between the two, where WorkflowRuns ask: one commit says that a run exists, and that it was ever started.
, objects AS (
  INSERT INTO workflow_run_objects (uid, run_id, namespace, name)
  SELECT n.trigger, n.id, n.namespace, n.run_object FROM fresh n WHERE n.run_object IS NOT NULL
  ON CONFLICT DO NOTHING
)

-- name: answer
-- A row for each accepted start without a key, and one for each key, with the run that it leads to: a join with the starts
-- would be a nested loop.
SELECT n.id::text, NULL::bigint, NULL, NULL, NULL FROM live n WHERE n.key IS NULL
UNION ALL
SELECT k.run_id::text, k.workflow_id, k.door, k.key, encode(k.input_hash, 'hex') FROM keys k
