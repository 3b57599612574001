-- The transaction that a caller's 202 stands for, as a function: sessions keep its plan, and to plan it was a third of the cost
-- of a start that comes alone. One plan serves every batch, since nothing but `workflows` is read; what a batch does not need
-- (keys, events) costs little in a plan that is there. A batch that may be there already goes by `again` of the queries.
-- oldest: 0006

CREATE FUNCTION accept_runs(starts json, workflow_ids bigint[], keep interval)
RETURNS TABLE (run_id text, workflow_id bigint, door text, key text, input_hash text)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH wanted AS (
    SELECT * FROM json_to_recordset(starts) AS n (
      id uuid, workflow_id bigint, revision_id bigint, namespace text, trigger text, priority smallint,
      created_at bigint, key text, input_hash text, event_id uuid, run_object text, input json)
  ), live AS MATERIALIZED (
    SELECT n.* FROM wanted n
    WHERE ((n.workflow_id, n.revision_id) IN (
        SELECT w.id, w.active_revision_id FROM workflows w
        WHERE w.id = ANY(workflow_ids) AND NOT w.suspended AND w.deleted_at IS NULL)) IS TRUE
  ), keys AS (
    INSERT INTO idempotency_keys AS k (workflow_id, door, key, run_id, input_hash, expires_at)
    SELECT n.workflow_id, n.trigger, n.key, n.id, decode(n.input_hash, 'hex'), now() + keep
    FROM live n WHERE n.key IS NOT NULL
    ORDER BY n.workflow_id, n.trigger, n.key
    ON CONFLICT (workflow_id, door, key) DO UPDATE SET
      run_id = CASE WHEN k.expires_at <= now() THEN excluded.run_id ELSE k.run_id END,
      input_hash = CASE WHEN k.expires_at <= now() THEN excluded.input_hash ELSE k.input_hash END,
      expires_at = CASE WHEN k.expires_at <= now() THEN excluded.expires_at ELSE k.expires_at END
    RETURNING k.workflow_id, k.door, k.key, k.run_id, k.input_hash
  ), fresh AS MATERIALIZED (
    SELECT n.* FROM live n WHERE n.key IS NULL OR (n.id IN (SELECT k.run_id FROM keys k)) IS TRUE
  ), events AS (
    INSERT INTO trigger_events (id, workflow_id, trigger, run_id, received_at)
    SELECT n.event_id, n.workflow_id, n.trigger, n.id, to_timestamp(n.created_at / 1e6)
    FROM fresh n WHERE n.event_id IS NOT NULL
  ), inserted AS (
    INSERT INTO runs (id, workflow_id, revision_id, namespace, trigger, priority, created_at, input_data)
    SELECT n.id, n.workflow_id, n.revision_id, n.namespace, n.trigger, n.priority, to_timestamp(n.created_at / 1e6), n.input
    FROM fresh n
  )
  SELECT n.id::text, NULL::bigint, NULL::text, NULL::text, NULL::text FROM live n WHERE n.key IS NULL
  UNION ALL
  SELECT k.run_id::text, k.workflow_id, k.door, k.key, encode(k.input_hash, 'hex') FROM keys k;
END $$;
