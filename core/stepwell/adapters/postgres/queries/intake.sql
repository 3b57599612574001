-- How runs get in: the transaction that a caller's 202 stands for.

-- name: accept
-- A batch of starts: keys (sorted, so that batches of two gateways cannot deadlock), then events and runs. A start whose
-- workflow changed its active revision, is suspended or deleted is absent from the answer. A batch whose answer was lost
-- is sent again as it was: the ids are the caller's, so nothing is doubled.
WITH wanted AS MATERIALIZED (
  SELECT * FROM json_to_recordset(%(runs)s::json) AS n (
    id uuid, workflow_id bigint, revision_id bigint, namespace text, trigger text, priority smallint,
    created_at bigint, key text, input_hash text, event_id uuid, input json)
), live AS MATERIALIZED (
  SELECT n.* FROM wanted n JOIN workflows w ON w.id = n.workflow_id
  WHERE w.active_revision_id = n.revision_id AND NOT w.suspended AND w.deleted_at IS NULL
), keys AS (
  INSERT INTO idempotency_keys AS k (workflow_id, door, key, run_id, input_hash, expires_at)
  SELECT n.workflow_id, n.trigger, n.key, n.id, decode(n.input_hash, 'hex'), clock_timestamp() + %(keep)s::interval
  FROM live n WHERE n.key IS NOT NULL
  ORDER BY n.workflow_id, n.trigger, n.key
  ON CONFLICT (workflow_id, door, key) DO UPDATE SET
    run_id = CASE WHEN k.expires_at <= clock_timestamp() THEN excluded.run_id ELSE k.run_id END,
    input_hash = CASE WHEN k.expires_at <= clock_timestamp() THEN excluded.input_hash ELSE k.input_hash END,
    expires_at = CASE WHEN k.expires_at <= clock_timestamp() THEN excluded.expires_at ELSE k.expires_at END
  RETURNING k.workflow_id, k.door, k.key, k.run_id, k.input_hash
), decided AS MATERIALIZED (
  SELECT n.*, coalesce(k.run_id, n.id) AS run_id, k.input_hash <> decode(n.input_hash, 'hex') AS differs
  FROM live n LEFT JOIN keys k ON k.workflow_id = n.workflow_id AND k.door = n.trigger AND k.key = n.key
), events AS (
  INSERT INTO trigger_events (id, workflow_id, trigger, run_id, received_at)
  SELECT d.event_id, d.workflow_id, d.trigger, d.run_id, to_timestamp(d.created_at / 1e6)
  FROM decided d WHERE d.event_id IS NOT NULL AND d.run_id = d.id
  ON CONFLICT DO NOTHING
), inserted AS (
  INSERT INTO runs (id, workflow_id, revision_id, namespace, trigger, priority, created_at, input_data)
  SELECT d.id, d.workflow_id, d.revision_id, d.namespace, d.trigger, d.priority, to_timestamp(d.created_at / 1e6), d.input
  FROM decided d WHERE d.run_id = d.id
  ON CONFLICT DO NOTHING
)
SELECT d.id::text, d.run_id::text, coalesce(d.differs, false) FROM decided d;
