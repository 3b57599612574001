-- What the leader among the workers does. Every job is level-triggered and guarded, so that two leaders do no harm.
--
-- What is due is found by one statement, without a lock, and done by another to the ids that were found: so this one
-- prunes partitions, and it asks again under its locks. These are taken as in runs.sql: runs by id, then timers.
-- Conditions use `now()` where an index shall serve them: a volatile `clock_timestamp()` would read the whole of it.

-- name: lead
-- The lease belongs to whoever renewed it last; another takes over once it stood still for its time. It waits for no standby
-- (liveness.sql).
INSERT INTO leases AS l (name, holder, renewed_at)
SELECT %(name)s, %(holder)s, clock_timestamp() FROM set_config('synchronous_commit', 'local', true)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, renewed_at = excluded.renewed_at
  WHERE l.holder = excluded.holder OR l.renewed_at < clock_timestamp() - %(term)s::interval
RETURNING l.holder;

-- name: resign
DELETE FROM leases WHERE name = %(name)s AND holder = %(holder)s;

-- name: due
-- Timers that are due, oldest first, then the seconds until the next one.
(SELECT t.run_id::text, NULL::double precision FROM timers t WHERE t.due_at <= now() ORDER BY t.due_at LIMIT %(limit)s)
UNION ALL
(SELECT NULL, extract(epoch FROM t.due_at - clock_timestamp())::double precision
 FROM timers t WHERE t.due_at > now() ORDER BY t.due_at LIMIT 1);

-- name: wake_due
-- The timer goes and the run wakes in one transaction; a timer that was set anew meanwhile stays. Counting the locks
-- takes them first.
WITH locked AS MATERIALIZED (
  SELECT r.id FROM runs r
  WHERE r.id = ANY(%(ids)s::uuid[]) AND r.status IN ('queued', 'running', 'waiting')
  ORDER BY r.id
  FOR NO KEY UPDATE OF r
), due AS (
  DELETE FROM timers t
  WHERE t.run_id = ANY(%(ids)s::uuid[]) AND t.due_at <= now() AND (SELECT count(*) FROM locked) >= 0
  RETURNING t.run_id AS id
)
UPDATE runs AS r
SET wakes = r.wakes + 1, status = CASE WHEN r.status = 'waiting' THEN 'queued' ELSE r.status END
FROM unnest(ARRAY(SELECT d.id::text FROM due d WHERE (d.id IN (SELECT l.id FROM locked l)) IS TRUE)) AS d (id)
WHERE r.id = ANY(%(ids)s::uuid[]) AND r.id::text = d.id
RETURNING r.id::text, r.namespace, r.priority, (extract(epoch FROM r.created_at) * 1000)::bigint, r.status;

-- name: counters
SELECT id, counter FROM workers WHERE dead_at IS NULL;

-- name: declare_dead
-- Only while the counter is still the one that was watched: a beat in between saves the worker.
UPDATE workers SET dead_at = clock_timestamp()
WHERE id = %(worker)s AND counter = %(counter)s AND dead_at IS NULL
RETURNING id;

-- name: orphans
-- Running runs whose worker is missing or dead, with the fence of the claim that died: no other claim is meant.
SELECT r.id::text, r.fence FROM runs r
WHERE r.finished_at IS NULL AND r.status = 'running'
  AND (r.worker_id IN (SELECT w.id FROM workers w WHERE w.dead_at IS NULL)) IS NOT TRUE;

-- name: reap
-- Orphans go back. Without a durable step since its claim, a run is a suspect from now on; if it was claimed as one,
-- this death counts, and the last one ends its steps. Deaths in a list of handlers are counted apart, and give the list its
-- time anew; the last one ends the list. Whose part is over goes on with the next handlers that it has, or ends. What is
-- locked is being changed right now and looked at again later.
WITH orphans AS MATERIALIZED (
  SELECT r.id, r.revision_id, r.outcome, coalesce(r.handlers, 0) AS part, coalesce(r.recoveries, 0) + 1 AS recoveries,
    r.cancel_requested_at IS NOT NULL AS cancelled,
    r.suspicion + CASE WHEN ((r.id, r.fence) IN (
      SELECT s.run_id, s.fence FROM run_steps s WHERE s.run_id = ANY(%(ids)s::uuid[]))) IS TRUE THEN 0 ELSE 1 END AS suspicion
  FROM runs r
  WHERE r.id = ANY(%(ids)s::uuid[])
    AND ((r.id, r.fence, r.status) IN (
      SELECT e.id, e.fence, 'running' FROM json_to_recordset(%(runs)s::json) AS e (id uuid, fence bigint))) IS TRUE
  ORDER BY r.id
  FOR NO KEY UPDATE OF r SKIP LOCKED
), judged AS MATERIALIZED (
  SELECT o.id::text AS id, o.suspicion, o.recoveries, v.retain_failed,
    o.outcome IS NULL AND NOT o.cancelled AND o.suspicion > %(deaths)s AS poisonous,
    coalesce(o.outcome, CASE WHEN o.cancelled THEN 'cancelled' ELSE 'failed' END) AS outcome,
    CASE WHEN o.outcome IS NOT NULL THEN o.recoveries > %(recoveries)s
         ELSE o.suspicion > %(deaths)s OR o.cancelled AND NOT v.features && '{onFailure,finally}' END AS over,
    CASE WHEN o.part = 0 AND 'onFailure' = ANY(v.features) THEN 1 WHEN o.part < 2 AND 'finally' = ANY(v.features) THEN 2 END
      AS following
  FROM orphans o, LATERAL (
    SELECT v.retain_failed, v.features FROM workflow_revisions v WHERE v.id = o.revision_id OFFSET 0) AS v
), changes AS MATERIALIZED (
  SELECT j.*, j.over AND j.following IS NULL AS ends, j.over AND j.following IS NOT NULL AS turns,
    CASE WHEN NOT j.over OR j.following IS NOT NULL THEN 'queued' WHEN j.outcome = 'succeeded' THEN 'failed' ELSE j.outcome END
      AS status
  FROM judged j
)
UPDATE runs AS r
SET suspicion = c.suspicion, status = c.status,
    outcome = CASE WHEN c.turns THEN c.outcome ELSE r.outcome END,
    handlers = CASE WHEN c.turns THEN c.following ELSE r.handlers END,
    handlers_at = CASE WHEN c.turns THEN clock_timestamp() ELSE r.handlers_at END,
    handlers_until = CASE WHEN c.turns OR r.outcome IS NOT NULL THEN clock_timestamp() + %(budget)s::interval END,
    recoveries = CASE WHEN r.outcome IS NOT NULL AND NOT c.turns THEN c.recoveries END,
    finished_at = CASE WHEN c.ends THEN clock_timestamp() END,
    expires_at = CASE WHEN c.ends THEN clock_timestamp() + c.retain_failed END,
    output_data = CASE WHEN c.status <> 'failed' THEN r.output_data END,
    output_from = CASE WHEN c.status <> 'failed' THEN r.output_from END,
    error = CASE
      WHEN NOT c.over OR r.outcome <> 'succeeded' THEN r.error
      WHEN r.outcome IS NOT NULL THEN json_build_object('reason', 'PoisonPill', 'message',
        format('%%s workers died while they executed finally of this run; it is not tried again', %(recoveries)s + 1))
      WHEN c.outcome = 'cancelled' THEN '{"reason":"Cancelled","message":"the run was cancelled"}'::json
      ELSE json_build_object('reason', 'PoisonPill', 'message',
        format('%%s workers died while they executed this run; it is not tried again', %(deaths)s)) END
FROM changes c
WHERE r.id = ANY(%(ids)s::uuid[]) AND r.id::text = c.id
RETURNING r.id::text, r.namespace, r.priority, (extract(epoch FROM r.created_at) * 1000)::bigint, r.status, r.suspicion,
  c.poisonous;

-- name: forget_workers
-- Rows of workers that are long dead and own nothing.
DELETE FROM workers w WHERE w.dead_at < now() - interval '1 day'
  AND (w.id IN (SELECT r.worker_id FROM runs r WHERE r.finished_at IS NULL AND r.status = 'running')) IS NOT TRUE;

-- name: queued_page
-- A page of the live runs by namespace and id, for comparison with Redis: those of it that have been queued for two
-- seconds, and its last one as the place to go on from; `looked_at` tells whether the page was full.
SELECT l.id::text, l.namespace, l.priority, (extract(epoch FROM l.created_at) * 1000)::bigint,
  CASE WHEN l.offered THEN l.status ELSE '' END, l.looked_at
FROM (
  SELECT p.*, count(*) OVER () AS looked_at, row_number() OVER () AS place,
    p.status = 'queued' AND p.suspicion = 0 AND p.created_at < clock_timestamp() - interval '2 seconds' AS offered
  FROM live_page(%(namespace)s, %(id)s::uuid, %(limit)s) AS p
) AS l
WHERE l.offered OR l.place = l.looked_at
ORDER BY l.place;

-- name: live_counts
-- A page of the live runs by namespace and id, counted; every row says where the page ends and whether it was full.
WITH page AS MATERIALIZED (
  SELECT * FROM live_page(%(namespace)s, %(id)s::uuid, %(limit)s)
), last AS MATERIALIZED (
  SELECT p.namespace, p.id FROM page p ORDER BY p.namespace DESC, p.id DESC LIMIT 1
)
SELECT p.namespace, p.status, count(*),
  coalesce(extract(epoch FROM clock_timestamp()
    - min(p.created_at) FILTER (WHERE p.status = 'queued' AND p.started_at IS NULL)), 0)::double precision,
  (SELECT count(*) FROM page) = %(limit)s, (SELECT l.namespace FROM last l), (SELECT l.id::text FROM last l)
FROM page p
GROUP BY p.namespace, p.status;

-- name: stranded
-- The audit: a waiting run always has a timer. One without lost its wake, which must never happen.
SELECT r.id::text FROM runs r
WHERE r.finished_at IS NULL AND r.status = 'waiting' AND NOT EXISTS (SELECT FROM timers t WHERE t.run_id = r.id);

-- name: wake_stranded
WITH stranded AS MATERIALIZED (
  SELECT r.id FROM runs r
  WHERE r.id = ANY(%(ids)s::uuid[]) AND r.status = 'waiting'
    AND (r.id IN (SELECT t.run_id FROM timers t WHERE t.run_id = ANY(%(ids)s::uuid[]))) IS NOT TRUE
  ORDER BY r.id
  FOR NO KEY UPDATE OF r SKIP LOCKED
)
UPDATE runs AS r SET wakes = r.wakes + 1, status = 'queued'
WHERE r.id = ANY(%(ids)s::uuid[]) AND (r.id IN (SELECT s.id FROM stranded s)) IS TRUE
RETURNING r.id::text, r.namespace, r.priority, (extract(epoch FROM r.created_at) * 1000)::bigint, r.status;

-- name: add_partitions
SELECT add_partitions((clock_timestamp() AT TIME ZONE 'UTC')::date, %(days)s);

-- name: tomorrow_exists
SELECT to_regclass('runs_' || tomorrow) IS NOT NULL AND to_regclass('run_steps_' || tomorrow) IS NOT NULL
   AND to_regclass('trigger_events_' || tomorrow) IS NOT NULL
FROM to_char((clock_timestamp() AT TIME ZONE 'UTC')::date + 1, 'YYYYMMDD') AS tomorrow;

-- name: expired_runs
-- A page of the run history by id, with which of it has expired: no index names expires_at.
SELECT p.id::text, coalesce(p.expires_at <= now(), false) FROM history_page(%(after)s::uuid, %(limit)s) AS p;

-- name: delete_runs
WITH gone AS (
  DELETE FROM runs r WHERE r.id = ANY(%(ids)s::uuid[]) AND r.expires_at <= now() RETURNING r.id::text AS id
), steps AS (
  DELETE FROM run_steps s 
  USING unnest(ARRAY(SELECT g.id FROM gone g)) AS g (id)
  WHERE s.run_id = ANY(%(ids)s::uuid[]) AND s.run_id::text = g.id
), asked AS (
  DELETE FROM approvals a USING gone g WHERE a.run_id = ANY(%(ids)s::uuid[]) AND a.run_id::text = g.id
)
SELECT count(*) FROM gone;

-- name: delete_keys
DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(
  SELECT k.ctid FROM idempotency_keys k WHERE k.expires_at <= now() ORDER BY k.expires_at LIMIT %(limit)s
  FOR UPDATE SKIP LOCKED))
RETURNING 1;

-- name: past_days
-- The days of the partitions that are over, oldest first. The partitions are found before their names are read as dates: the
-- planner would otherwise be free to try that with every relation of the database.
WITH days AS MATERIALIZED (
  SELECT right(c.relname, 8) AS day
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
  WHERE i.inhparent = 'runs'::regclass
)
SELECT d.day FROM days d
WHERE to_date(d.day, 'YYYYMMDD') < (clock_timestamp() AT TIME ZONE 'UTC')::date - 1
ORDER BY 1;

-- name: drop_day
-- Drops a day that holds no run any more (events go with it). The locks are waited for shortly: readers come first.
SELECT drop_day(%(day)s);
