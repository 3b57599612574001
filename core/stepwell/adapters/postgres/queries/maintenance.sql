-- What the leader among the workers does. Every job is level-triggered and guarded, so that two leaders do no harm.

-- name: lead
-- The lease belongs to whoever renewed it last; another takes over once it stood still for its time.
INSERT INTO leases AS l (name, holder, renewed_at) VALUES (%(name)s, %(holder)s, clock_timestamp())
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, renewed_at = excluded.renewed_at
  WHERE l.holder = excluded.holder OR l.renewed_at < clock_timestamp() - %(term)s::interval
RETURNING l.holder;

-- name: resign
DELETE FROM leases WHERE name = %(name)s AND holder = %(holder)s;

-- name: wake_due
-- The timer goes and the run wakes in one transaction. `horizon` looks ahead, for the time of the next one.
WITH due AS MATERIALIZED (
  DELETE FROM timers t WHERE t.run_id IN (
    SELECT run_id FROM timers WHERE due_at <= clock_timestamp() ORDER BY due_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
  RETURNING t.run_id
), locked AS MATERIALIZED (
  SELECT r.id FROM runs r JOIN due d ON d.run_id = r.id WHERE r.finished_at IS NULL ORDER BY r.id FOR NO KEY UPDATE OF r
)
UPDATE runs AS r
SET wakes = r.wakes + 1, status = CASE WHEN r.status = 'waiting' THEN 'queued' ELSE r.status END
FROM locked l
WHERE r.id = l.id
RETURNING r.id::text, r.namespace, r.priority, (extract(epoch FROM r.created_at) * 1000)::bigint, r.status;

-- name: next_timer
SELECT (extract(epoch FROM min(due_at) - clock_timestamp()))::double precision FROM timers;

-- name: counters
SELECT id, counter FROM workers WHERE dead_at IS NULL;

-- name: declare_dead
-- Only while the counter is still the one that was watched: a beat in between saves the worker.
UPDATE workers SET dead_at = clock_timestamp()
WHERE id = %(worker)s AND counter = %(counter)s AND dead_at IS NULL
RETURNING id;

-- name: reap
-- Running runs whose worker is missing or dead go back. Without a durable step since its claim, a run is a suspect from
-- now on; it was claimed as one, so this death counts, and the last one ends it.
WITH orphans AS MATERIALIZED (
  SELECT r.id FROM runs r
  WHERE r.finished_at IS NULL AND r.status = 'running'
    AND NOT EXISTS (SELECT FROM workers w WHERE w.id = r.worker_id AND w.dead_at IS NULL)
  ORDER BY r.id LIMIT %(limit)s
  FOR NO KEY UPDATE OF r SKIP LOCKED
), judged AS MATERIALIZED (
  SELECT r.id, r.namespace, r.priority, r.created_at, v.retain_failed,
    r.suspicion + CASE WHEN EXISTS (SELECT FROM run_steps s WHERE s.run_id = r.id AND s.fence = r.fence) THEN 0 ELSE 1 END
      AS suspicion
  FROM orphans o JOIN runs r ON r.id = o.id JOIN workflow_revisions v ON v.id = r.revision_id
)
UPDATE runs AS r
SET suspicion = j.suspicion,
    status = CASE WHEN r.cancel_requested_at IS NOT NULL THEN 'cancelled'
                  WHEN j.suspicion > %(deaths)s THEN 'failed' ELSE 'queued' END,
    finished_at = CASE WHEN r.cancel_requested_at IS NOT NULL OR j.suspicion > %(deaths)s THEN clock_timestamp() END,
    expires_at = CASE WHEN r.cancel_requested_at IS NOT NULL OR j.suspicion > %(deaths)s
                      THEN clock_timestamp() + j.retain_failed END,
    error = CASE WHEN r.cancel_requested_at IS NOT NULL THEN '{"reason":"Cancelled","message":"the run was cancelled"}'::json
                 WHEN j.suspicion > %(deaths)s THEN json_build_object('reason', 'PoisonPill', 'message',
                   format('%%s workers died while they executed this run; it is not tried again', %(deaths)s)) END
FROM judged j
WHERE r.id = j.id AND r.status = 'running'
RETURNING r.id::text, r.namespace, r.priority, (extract(epoch FROM r.created_at) * 1000)::bigint, r.status, r.suspicion;

-- name: forget_workers
-- Rows of workers that are long dead and own nothing.
DELETE FROM workers w WHERE w.dead_at < clock_timestamp() - interval '1 day'
  AND NOT EXISTS (SELECT FROM runs r WHERE r.finished_at IS NULL AND r.status = 'running' AND r.worker_id = w.id);

-- name: queued_after
-- A page of queued runs older than two seconds, for comparison with Redis.
SELECT r.id::text, r.namespace, r.priority, (extract(epoch FROM r.created_at) * 1000)::bigint, r.status
FROM runs r
WHERE r.finished_at IS NULL AND r.status = 'queued' AND r.suspicion = 0
  AND (r.namespace, r.id) > (%(namespace)s, %(id)s::uuid)
  AND r.created_at < clock_timestamp() - interval '2 seconds'
ORDER BY r.namespace, r.id LIMIT %(limit)s;

-- name: wake_stranded
-- The audit: a waiting run always has a timer. One without lost its wake, which must never happen.
WITH stranded AS MATERIALIZED (
  SELECT r.id FROM runs r
  WHERE r.finished_at IS NULL AND r.status = 'waiting' AND NOT EXISTS (SELECT FROM timers t WHERE t.run_id = r.id)
  ORDER BY r.id LIMIT %(limit)s FOR NO KEY UPDATE OF r SKIP LOCKED
)
UPDATE runs AS r SET wakes = r.wakes + 1, status = 'queued'
FROM stranded s WHERE r.id = s.id AND r.status = 'waiting'
RETURNING r.id::text, r.namespace, r.priority, (extract(epoch FROM r.created_at) * 1000)::bigint, r.status;

-- name: add_partitions
SELECT add_partitions((clock_timestamp() AT TIME ZONE 'UTC')::date, %(days)s);

-- name: tomorrow_exists
SELECT to_regclass('runs_' || tomorrow) IS NOT NULL AND to_regclass('run_steps_' || tomorrow) IS NOT NULL
   AND to_regclass('trigger_events_' || tomorrow) IS NOT NULL
FROM to_char((clock_timestamp() AT TIME ZONE 'UTC')::date + 1, 'YYYYMMDD') AS tomorrow;

-- name: expired_runs
-- A page of the run history by id, with which of it has expired: no index names expires_at.
SELECT r.id::text, r.expires_at <= clock_timestamp() AND r.finished_at IS NOT NULL
FROM runs r WHERE r.id > %(after)s::uuid AND r.id < uuid_floor(clock_timestamp())
ORDER BY r.id LIMIT %(limit)s;

-- name: delete_runs
WITH gone AS (
  DELETE FROM runs r WHERE r.id = ANY(%(ids)s::uuid[]) AND r.expires_at <= clock_timestamp() RETURNING r.id
), steps AS (
  DELETE FROM run_steps s USING gone g WHERE s.run_id = g.id AND s.run_id = ANY(%(ids)s::uuid[])
)
SELECT count(*) FROM gone;

-- name: delete_keys
DELETE FROM idempotency_keys WHERE ctid IN (
  SELECT ctid FROM idempotency_keys WHERE expires_at <= clock_timestamp() LIMIT %(limit)s)
RETURNING 1;

-- name: past_days
-- The days of the partitions that are over, oldest first.
SELECT to_char(to_date(right(c.relname, 8), 'YYYYMMDD'), 'YYYYMMDD')
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'runs'::regclass AND to_date(right(c.relname, 8), 'YYYYMMDD') < (clock_timestamp() AT TIME ZONE 'UTC')::date - 1
ORDER BY 1;

-- name: drop_day
-- Drops a day that holds no run any more (events go with it). The locks are waited for shortly: readers come first.
SELECT drop_day(%(day)s);
