-- Cron: what the leader asks and writes of schedules. Moments are microseconds of the leader's clock.

-- name: look
-- One question every two seconds, answered by two small indexes: the time and whether schedules are to be brought up to date (a row
-- without a workflow), what is due, and when the next one is (a row without a tick).
(SELECT NULL::bigint, NULL, NULL::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
   (SELECT 1::bigint FROM schedule_changes LIMIT 1))
UNION ALL
(SELECT s.workflow_id, s.trigger, s.revision_id, (extract(epoch FROM s.tick_at) * 1000000)::bigint,
   (extract(epoch FROM s.live_since) * 1000000)::bigint
 FROM due_schedules(to_timestamp(%(now)s / 1e6), %(limit)s, %(unsupported)s::bigint[]) AS s)
UNION ALL
(SELECT s.workflow_id, NULL, NULL, (extract(epoch FROM s.due_at) * 1000000)::bigint, NULL
 FROM schedules s WHERE s.due_at > to_timestamp(%(now)s / 1e6) ORDER BY s.due_at LIMIT 1);

-- name: has_partition
-- Whether runs and events of this day have a place: after weeks without a leader they may not yet.
SELECT to_regclass('runs_' || %(day)s) IS NOT NULL AND to_regclass('trigger_events_' || %(day)s) IS NOT NULL;

-- name: changes
-- Workflows whose schedules are to be brought up to date: their cron triggers as they shall be (none where no start is
-- accepted).
SELECT c.workflow_id, c.number, (extract(epoch FROM c.changed_at) * 1000000)::bigint,
  w.namespace, w.name, coalesce(w.active_revision_id, 0),
  CASE WHEN NOT w.suspended AND w.deleted_at IS NULL THEN (
    SELECT json_agg(t.value) FROM workflow_revisions v, json_array_elements(v.spec -> 'triggers') AS t
    WHERE v.id = w.active_revision_id AND t.value -> 'cron' IS NOT NULL)::text END
FROM (SELECT * FROM schedule_changes WHERE number > %(after)s ORDER BY number LIMIT %(limit)s) AS c
JOIN workflows w ON w.id = c.workflow_id
ORDER BY c.number;

-- name: bring_up_to_date
-- Only what did not change again meanwhile; a change that is being committed right now is left for the next look.
WITH seen AS MATERIALIZED (
  SELECT c.workflow_id FROM schedule_changes c
  WHERE c.workflow_id = ANY(%(workflows)s::bigint[])
    AND (c.workflow_id, c.number) IN (
      SELECT w.workflow_id, w.number FROM json_to_recordset(%(changes)s::json) AS w (workflow_id bigint, number bigint))
  ORDER BY c.workflow_id
  FOR UPDATE SKIP LOCKED
), done AS (
  DELETE FROM schedule_changes WHERE workflow_id IN (SELECT workflow_id FROM seen)
), wanted AS MATERIALIZED (
  SELECT * FROM json_to_recordset(%(schedules)s::json) AS n (
    workflow_id bigint, trigger text, revision_id bigint, timing text, tick_at bigint, due_at bigint)
  WHERE workflow_id IN (SELECT workflow_id FROM seen)
), gone AS (
  DELETE FROM schedules s
  WHERE s.workflow_id IN (SELECT workflow_id FROM seen)
    AND NOT EXISTS (SELECT FROM wanted n WHERE n.workflow_id = s.workflow_id AND n.trigger = s.trigger)
), put AS (
  INSERT INTO schedules AS s (workflow_id, trigger, revision_id, timing, tick_at, due_at)
  SELECT n.workflow_id, n.trigger, n.revision_id, n.timing, to_timestamp(n.tick_at / 1e6), to_timestamp(n.due_at / 1e6)
  FROM wanted n
  ORDER BY n.workflow_id, n.trigger
  ON CONFLICT (workflow_id, trigger) DO UPDATE SET revision_id = excluded.revision_id, timing = excluded.timing,
    tick_at = CASE WHEN s.timing = excluded.timing THEN s.tick_at ELSE excluded.tick_at END,
    due_at = CASE WHEN s.timing = excluded.timing THEN s.due_at ELSE excluded.due_at END
)
SELECT count(*) FROM seen;

-- name: started
-- The runs that ticks of these schedules started, newest first, from where the schedule says that older ones have ended.
SELECT n.workflow_id, n.trigger, (extract(epoch FROM t.tick_at) * 1000000)::bigint, t.run_id::text
FROM json_to_recordset(%(schedules)s::json) AS n (workflow_id bigint, trigger text, live_since bigint),
  LATERAL (
    SELECT t.tick_at, t.run_id FROM schedule_ticks t
    WHERE t.workflow_id = n.workflow_id AND t.trigger = n.trigger AND t.run_id IS NOT NULL
      AND t.tick_at >= to_timestamp(coalesce(n.live_since, 0) / 1e6)
    ORDER BY t.tick_at DESC LIMIT %(limit)s) AS t;

-- name: live
SELECT r.id::text FROM runs r WHERE r.id = ANY(%(ids)s::uuid[]) AND r.finished_at IS NULL;

-- name: fire
-- Ticks, their runs, and the schedules' next ticks, in one transaction. It begins by locking the schedules that still stand
-- where they were read: of two leaders the second finds none, and who sends this again after a lost answer neither. So a tick
-- is decided on once; its row holds that should the clock go back.
WITH moves AS MATERIALIZED (
  SELECT * FROM json_to_recordset(%(moves)s::json) AS m (
    workflow_id bigint, trigger text, revision_id bigint, was_at bigint, tick_at bigint, due_at bigint, live_since bigint)
), held AS MATERIALIZED (
  SELECT s.workflow_id, s.trigger
  FROM schedules s JOIN moves m ON m.workflow_id = s.workflow_id AND m.trigger = s.trigger
  WHERE s.workflow_id = ANY(%(workflows)s::bigint[])
    AND s.tick_at = to_timestamp(m.was_at / 1e6) AND s.revision_id = m.revision_id
    AND EXISTS (SELECT FROM workflows w WHERE w.id = s.workflow_id AND w.active_revision_id = s.revision_id
                AND NOT w.suspended AND w.deleted_at IS NULL)
  ORDER BY s.workflow_id, s.trigger
  FOR NO KEY UPDATE OF s
), moved AS (
  UPDATE schedules s SET tick_at = to_timestamp(m.tick_at / 1e6), due_at = to_timestamp(m.due_at / 1e6),
    live_since = to_timestamp(m.live_since / 1e6)
  FROM moves m
  WHERE m.workflow_id = s.workflow_id AND m.trigger = s.trigger
    AND (s.workflow_id, s.trigger) IN (SELECT h.workflow_id, h.trigger FROM held h)
), fresh AS MATERIALIZED (
  SELECT n.* FROM json_to_recordset(%(ticks)s::json) AS n (
    workflow_id bigint, trigger text, tick_at bigint, reason text, message text, run_id uuid, revision_id bigint,
    namespace text, priority smallint, key text, input_hash text, event_id uuid, input json)
  WHERE (n.workflow_id, n.trigger) IN (SELECT h.workflow_id, h.trigger FROM held h)
    AND NOT EXISTS (SELECT FROM schedule_ticks t WHERE t.workflow_id = n.workflow_id AND t.trigger = n.trigger
                    AND t.tick_at = to_timestamp(n.tick_at / 1e6))
), keys AS (
  INSERT INTO idempotency_keys AS k (workflow_id, door, key, run_id, input_hash, expires_at)
  SELECT DISTINCT ON (n.workflow_id, n.trigger, n.key)
    n.workflow_id, n.trigger, n.key, n.run_id, decode(n.input_hash, 'hex'), now() + %(keep)s::interval
  FROM fresh n WHERE n.key IS NOT NULL
  ORDER BY n.workflow_id, n.trigger, n.key, n.tick_at
  ON CONFLICT (workflow_id, door, key) DO UPDATE SET
    run_id = CASE WHEN k.expires_at <= now() THEN excluded.run_id ELSE k.run_id END,
    input_hash = CASE WHEN k.expires_at <= now() THEN excluded.input_hash ELSE k.input_hash END,
    expires_at = CASE WHEN k.expires_at <= now() THEN excluded.expires_at ELSE k.expires_at END
  RETURNING k.workflow_id, k.door, k.key, k.run_id
), decided AS MATERIALIZED (
  SELECT n.*, coalesce(k.run_id, n.run_id) AS leads_to, k.run_id IS NULL OR k.run_id = n.run_id AS starts
  FROM fresh n LEFT JOIN keys k ON k.workflow_id = n.workflow_id AND k.door = n.trigger AND k.key = n.key
), recorded AS (
  INSERT INTO schedule_ticks (workflow_id, trigger, tick_at, decided_at, run_id, reason, message)
  SELECT d.workflow_id, d.trigger, to_timestamp(d.tick_at / 1e6), to_timestamp(%(now)s / 1e6), d.leads_to,
    CASE WHEN d.starts THEN d.reason ELSE 'Duplicate' END, d.message
  FROM decided d
), events AS (
  INSERT INTO trigger_events (id, workflow_id, trigger, run_id, received_at)
  SELECT d.event_id, d.workflow_id, d.trigger, d.run_id, to_timestamp(%(now)s / 1e6)
  FROM decided d WHERE d.starts AND d.run_id IS NOT NULL
  ON CONFLICT DO NOTHING
), inserted AS (
  INSERT INTO runs (id, workflow_id, revision_id, namespace, trigger, priority, created_at, input_data)
  SELECT d.run_id, d.workflow_id, d.revision_id, d.namespace, d.trigger, d.priority, to_timestamp(%(now)s / 1e6), d.input
  FROM decided d WHERE d.starts AND d.run_id IS NOT NULL
  ON CONFLICT DO NOTHING
)
SELECT h.workflow_id, h.trigger, NULL::bigint, false FROM held h
UNION ALL
SELECT d.workflow_id, d.trigger, d.tick_at, d.starts FROM decided d;

-- name: old_ticks
-- A page of the ticks that were decided on long ago, oldest first.
SELECT t.workflow_id, t.trigger, (extract(epoch FROM t.tick_at) * 1000000)::bigint,
  (extract(epoch FROM t.decided_at) * 1000000)::bigint, t.run_id::text
FROM schedule_ticks t
WHERE (t.decided_at, t.workflow_id, t.trigger, t.tick_at)
    > (to_timestamp(%(decided_at)s / 1e6), %(workflow)s::bigint, %(trigger)s::text, to_timestamp(%(tick_at)s / 1e6))
  AND t.decided_at < to_timestamp(%(before)s / 1e6)
ORDER BY t.decided_at, t.workflow_id, t.trigger, t.tick_at LIMIT %(limit)s;

-- name: delete_ticks
DELETE FROM schedule_ticks t USING json_to_recordset(%(ticks)s::json) AS n (workflow_id bigint, trigger text, tick_at bigint)
WHERE t.workflow_id = ANY(%(workflows)s::bigint[])
  AND t.workflow_id = n.workflow_id AND t.trigger = n.trigger AND t.tick_at = to_timestamp(n.tick_at / 1e6);
