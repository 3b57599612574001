-- The run protocol: who owns a run, what is written of it, how it ends, parks and wakes. One page; each rule is held by
-- a test that interleaves two connections (tests/integration/test_protocol_races.py).
--
-- Every statement over a set of ids carries `id = ANY(…::uuid[])`, so that partitions are pruned while planning, and
-- is sent unprepared, so that it is planned for its values. It locks runs in the order of their ids before it changes
-- them, and changes timers after runs, so that no two statements wait for each other.
--
-- `(…) IN (…) IS TRUE` keeps a comparison a hashed look-up, whatever the planner believes of the number of rows: a join
-- estimated at one row would become a nested loop over thousands. Where an update must join, nothing lowers the estimate
-- of either side, and ids are compared as text, so that the list of ids is read once and not searched for each row.

-- name: claim
-- Queued runs among the offered ids become this worker's, under a new fence. Nothing of their history is returned: this
-- statement's snapshot may be older than the lock that it waited for. Suspects are claimed apart, below.
WITH picked AS MATERIALIZED (
  SELECT r.id FROM runs r
  WHERE r.id = ANY(%(ids)s::uuid[]) AND r.status = 'queued' AND r.suspicion = 0
    AND r.revision_id <> ALL(%(unsupported)s::bigint[])
  ORDER BY r.id
  FOR NO KEY UPDATE OF r
)
UPDATE runs AS r
SET status = 'running', worker_id = %(worker)s, claim_token = %(token)s, fence = nextval('run_fences'),
    claims = r.claims + 1, started_at = coalesce(r.started_at, clock_timestamp())
WHERE r.id = ANY(%(ids)s::uuid[]) AND (r.id IN (SELECT p.id FROM picked p)) IS TRUE
RETURNING r.id::text, r.fence, r.workflow_id, r.revision_id, r.namespace, r.trigger, r.input_data::text,
  (extract(epoch FROM r.created_at) * 1000000)::bigint, r.wakes, r.claims, r.suspicion,
  r.cancel_requested_at IS NOT NULL, r.retry_of IS NOT NULL OR r.rerun_of IS NOT NULL,
  CASE WHEN r.outcome IS NOT NULL THEN json_build_array(r.outcome, r.error, r.handlers,
    (extract(epoch FROM r.handlers_at) * 1000000)::bigint, (extract(epoch FROM r.handlers_until) * 1000000)::bigint)::text END;

-- name: claim_oldest
-- The way without Redis: the oldest queued runs, an equal share of each namespace that has live runs, past locked ones.
-- The bounds let the executor prune partitions, where a list of ids that is not known while planning cannot.
WITH picked AS MATERIALIZED (
  SELECT id FROM oldest_queued(%(limit)s, %(unsupported)s::bigint[], %(token)s) AS id
)
UPDATE runs AS r
SET status = 'running', worker_id = %(worker)s, claim_token = %(token)s, fence = nextval('run_fences'),
    claims = r.claims + 1, started_at = coalesce(r.started_at, clock_timestamp())
WHERE r.id = ANY(ARRAY(SELECT p.id FROM picked p)) AND r.status = 'queued'
  AND r.id >= (SELECT p.id FROM picked p ORDER BY p.id LIMIT 1)
  AND r.id <= (SELECT p.id FROM picked p ORDER BY p.id DESC LIMIT 1)
RETURNING r.id::text, r.fence, r.workflow_id, r.revision_id, r.namespace, r.trigger, r.input_data::text,
  (extract(epoch FROM r.created_at) * 1000000)::bigint, r.wakes, r.claims, r.suspicion,
  r.cancel_requested_at IS NOT NULL, r.retry_of IS NOT NULL OR r.rerun_of IS NOT NULL,
  CASE WHEN r.outcome IS NOT NULL THEN json_build_array(r.outcome, r.error, r.handlers,
    (extract(epoch FROM r.handlers_at) * 1000000)::bigint, (extract(epoch FROM r.handlers_until) * 1000000)::bigint)::text END;

-- name: claim_suspects
-- The oldest suspect alone, if a worker died of it or of its group before; else a group of those of the first time. The
-- bounds are as in claim_oldest.
WITH oldest AS MATERIALIZED (
  SELECT id, suspicion FROM runs WHERE suspicion > 0 AND finished_at IS NULL AND status = 'queued'
  ORDER BY id LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED
), picked AS MATERIALIZED (
  SELECT o.id FROM oldest o, (SELECT f.id, f.suspicion FROM oldest f ORDER BY f.id LIMIT 1) AS first
  WHERE o.id = first.id OR o.suspicion = 1 AND first.suspicion = 1
)
UPDATE runs AS r
SET status = 'running', worker_id = %(worker)s, claim_token = %(token)s, fence = nextval('run_fences'),
    claims = r.claims + 1, started_at = coalesce(r.started_at, clock_timestamp())
WHERE r.id = ANY(ARRAY(SELECT p.id FROM picked p)) AND r.status = 'queued'
  AND r.id >= (SELECT p.id FROM picked p ORDER BY p.id LIMIT 1)
  AND r.id <= (SELECT p.id FROM picked p ORDER BY p.id DESC LIMIT 1)
RETURNING r.id::text, r.fence, r.workflow_id, r.revision_id, r.namespace, r.trigger, r.input_data::text,
  (extract(epoch FROM r.created_at) * 1000000)::bigint, r.wakes, r.claims, r.suspicion,
  r.cancel_requested_at IS NOT NULL, r.retry_of IS NOT NULL OR r.rerun_of IS NOT NULL,
  CASE WHEN r.outcome IS NOT NULL THEN json_build_array(r.outcome, r.error, r.handlers,
    (extract(epoch FROM r.handlers_at) * 1000000)::bigint, (extract(epoch FROM r.handlers_until) * 1000000)::bigint)::text END;

-- name: claimed
-- What a claim took whose answer was lost, by the token that its client made.
SELECT r.id::text, r.fence, r.workflow_id, r.revision_id, r.namespace, r.trigger, r.input_data::text,
  (extract(epoch FROM r.created_at) * 1000000)::bigint, r.wakes, r.claims, r.suspicion, r.cancel_requested_at IS NOT NULL,
  r.retry_of IS NOT NULL OR r.rerun_of IS NOT NULL,
  CASE WHEN r.outcome IS NOT NULL THEN json_build_array(r.outcome, r.error, r.handlers,
    (extract(epoch FROM r.handlers_at) * 1000000)::bigint, (extract(epoch FROM r.handlers_until) * 1000000)::bigint)::text END
FROM runs r
WHERE r.finished_at IS NULL AND r.status = 'running' AND r.worker_id = %(worker)s AND r.claim_token = %(token)s;

-- name: attempts
-- A claimed run's history, in a statement of its own: its snapshot is newer than the claim.
SELECT s.run_id::text, s.step, s.attempt, s.status, s.output_data::text, s.error::text, s.http::text,
  (extract(epoch FROM s.finished_at) * 1000000)::bigint, (extract(epoch FROM s.retry_at) * 1000000)::bigint,
  s.item_index, s.items
FROM run_steps s
WHERE s.run_id = ANY(%(ids)s::uuid[])
ORDER BY s.run_id, s.finished_at, s.attempt;

-- name: flush
-- Everything that this worker's runs have to say, in one statement. It begins by locking the runs that are still owned;
-- every write joins that lock, so a worker that lost a run writes nothing of it. A success is void once a cancel is
-- acknowledged, and so is every park, of a draining worker too: the answer tells the worker, which ends the run. A turn of
-- handlers comes with the ends: it writes the outcome, if that is not written yet, and the run goes on. From then on no cancel
-- reaches it, and what was written with the outcome is kept.
WITH owned AS MATERIALIZED (
  SELECT r.id, r.fence, r.wakes, r.cancel_requested_at IS NOT NULL AND r.outcome IS NULL AS cancelled
  FROM runs r
  WHERE r.id = ANY(%(ids)s::uuid[])
    AND ((r.id, r.fence, r.worker_id, r.status) IN (
      SELECT e.id, e.fence, %(worker)s::bigint, 'running' FROM json_to_recordset(%(runs)s::json) AS e (id uuid, fence bigint)
    )) IS TRUE
  ORDER BY r.id
  FOR NO KEY UPDATE OF r
), recorded AS (
  INSERT INTO run_steps (run_id, fence, step, attempt, status, started_at, finished_at, retry_at,
                         input_from, input_data, output_data, error, http, item_index, items)
  SELECT o.id, o.fence, s.step, s.attempt, s.status,
         to_timestamp(s.started_at / 1e6), to_timestamp(s.finished_at / 1e6), to_timestamp(s.retry_at / 1e6),
         s.input_from, s.input, s.output, s.error, s.http, coalesce(s.item, -1), s.items
  FROM json_to_recordset(%(attempts)s::json) AS s (
    run_id uuid, step text, attempt smallint, status text, started_at bigint, finished_at bigint, retry_at bigint,
    input_from json, input json, output json, error json, http json, item integer, items integer)
  JOIN owned o ON o.id = s.run_id
  ON CONFLICT DO NOTHING
), ending AS MATERIALIZED (
  SELECT * FROM json_to_recordset(%(ends)s::json) AS e (
    id text, status text, finished_at bigint, retain double precision, output json, output_from text, error json,
    kept boolean, outcome text, handlers smallint, handlers_at bigint, handlers_until bigint)
  WHERE (e.id IN (SELECT o.id::text FROM owned o WHERE NOT o.cancelled)) IS TRUE
     OR coalesce(e.outcome, e.status) <> 'succeeded' AND (e.id IN (SELECT o.id::text FROM owned o)) IS TRUE
), ended AS (
  UPDATE runs AS r
  SET status = e.status, finished_at = to_timestamp(e.finished_at / 1e6),
      expires_at = to_timestamp(e.finished_at / 1e6 + e.retain),
      output_data = CASE WHEN e.kept THEN r.output_data ELSE e.output END,
      output_from = CASE WHEN e.kept THEN r.output_from ELSE e.output_from END,
      error = CASE WHEN e.kept THEN r.error ELSE e.error END,
      outcome = coalesce(r.outcome, e.outcome), handlers = e.handlers, recoveries = NULL,
      handlers_at = to_timestamp(e.handlers_at / 1e6), handlers_until = to_timestamp(e.handlers_until / 1e6)
  FROM ending e
  WHERE r.id = ANY(%(ids)s::uuid[]) AND r.id::text = e.id
  RETURNING r.id, r.finished_at IS NOT NULL AS over
), parking AS MATERIALIZED (
  SELECT p.id, p.due_at, p.until, CASE WHEN p.due_at IS NOT NULL AND o.wakes = p.wakes THEN 'waiting' ELSE 'queued' END AS status
  FROM json_to_recordset(%(parks)s::json) AS p (id text, wakes integer, due_at bigint, until bigint)
  JOIN owned o ON o.id::text = p.id
  WHERE NOT o.cancelled
), parked AS (
  UPDATE runs AS r SET status = p.status, handlers_until = to_timestamp(p.until / 1e6)
  FROM parking p
  WHERE r.id = ANY(%(ids)s::uuid[]) AND r.id::text = p.id
  RETURNING r.id, r.status, p.due_at
), timed AS (
  INSERT INTO timers (run_id, due_at)
  SELECT p.id, to_timestamp(p.due_at / 1e6) FROM parked p WHERE p.status = 'waiting'
  ON CONFLICT (run_id) DO UPDATE SET due_at = excluded.due_at
)
SELECT o.id::text, o.cancelled, o.wakes,
  (o.id IN (SELECT e.id FROM ended e WHERE e.over)) IS TRUE,
  CASE WHEN (o.id IN (SELECT p.id FROM parked p WHERE p.status = 'waiting')) IS TRUE THEN 'waiting'
       WHEN (o.id IN (SELECT p.id FROM parked p WHERE p.status = 'queued')) IS TRUE THEN 'queued' END
FROM owned o;

-- name: cancel
-- Acknowledged by its commit. What no worker holds ends here, or goes back into the queue where it was claimed before and
-- handlers are due; a running run hears of it with its next flush or beat. Handlers go on as they were.
WITH locked AS MATERIALIZED (
  SELECT r.id, r.status <> 'running' AND r.outcome IS NULL AS idle, r.status <> 'running' AND r.outcome IS NULL
    AND (r.started_at IS NULL OR (SELECT v.features && '{onFailure,finally}' FROM workflow_revisions v
                                  WHERE v.id = r.revision_id) IS NOT TRUE) AS ends
  FROM runs r
  WHERE r.id = ANY(%(ids)s::uuid[]) AND r.namespace = %(namespace)s AND r.status IN ('queued', 'running', 'waiting')
  ORDER BY r.id
  FOR NO KEY UPDATE OF r
), untimed AS (
  DELETE FROM timers t
  WHERE t.run_id = ANY(%(ids)s::uuid[]) AND (t.run_id IN (SELECT l.id FROM locked l WHERE l.idle)) IS TRUE
)
UPDATE runs AS r
SET cancel_requested_at = coalesce(r.cancel_requested_at, clock_timestamp()),
    wakes = r.wakes + CASE WHEN r.status = 'waiting' AND r.outcome IS NULL THEN 1 ELSE 0 END,
    status = CASE WHEN (r.id IN (SELECT l.id FROM locked l WHERE l.ends)) IS TRUE THEN 'cancelled'
                  WHEN r.status = 'waiting' AND r.outcome IS NULL THEN 'queued' ELSE r.status END,
    finished_at = CASE WHEN (r.id IN (SELECT l.id FROM locked l WHERE l.ends)) IS TRUE THEN clock_timestamp() END,
    expires_at = CASE WHEN (r.id IN (SELECT l.id FROM locked l WHERE l.ends)) IS TRUE THEN clock_timestamp()
      + (SELECT v.retain_failed FROM workflow_revisions v WHERE v.id = r.revision_id) END,
    error = CASE WHEN (r.id IN (SELECT l.id FROM locked l WHERE l.ends)) IS TRUE
                 THEN '{"reason":"Cancelled","message":"the run was cancelled"}'::json ELSE r.error END
WHERE r.id = ANY(%(ids)s::uuid[]) AND (r.id IN (SELECT l.id FROM locked l)) IS TRUE
RETURNING r.id::text, r.status;

-- name: cancel_requested
-- Of these runs, those whose cancel was acknowledged: what a hint says is true if the database says so.
SELECT r.id::text FROM runs r WHERE r.id = ANY(%(ids)s::uuid[]) AND r.cancel_requested_at IS NOT NULL;

-- name: wake
-- The cause of a wake and the wake are one transaction; a run that is being parked right now sees that `wakes` moved.
WITH locked AS MATERIALIZED (
  SELECT r.id FROM runs r
  WHERE r.id = ANY(%(ids)s::uuid[]) AND r.status IN ('queued', 'running', 'waiting')
  ORDER BY r.id
  FOR NO KEY UPDATE OF r
)
UPDATE runs AS r
SET wakes = r.wakes + 1, status = CASE WHEN r.status = 'waiting' THEN 'queued' ELSE r.status END
WHERE r.id = ANY(%(ids)s::uuid[]) AND (r.id IN (SELECT l.id FROM locked l)) IS TRUE
RETURNING r.id::text, r.namespace, r.priority, (extract(epoch FROM r.created_at) * 1000)::bigint, r.status;

-- name: owned
-- What the database says that this worker owns; it compares that with its memory.
SELECT r.id::text, r.fence FROM runs r
WHERE r.finished_at IS NULL AND r.status = 'running' AND r.worker_id = %(worker)s;

-- name: hand_back
-- Runs that the worker owns on paper only go back into the queue, with no recovery counted. One whose cancel was
-- acknowledged ends instead, unless handlers are due: nobody may start anything else of it. What could not be executed
-- here, and nowhere before, was not started: it goes on counting among those that wait for it.
WITH owned AS MATERIALIZED (
  SELECT r.id, r.cancel_requested_at IS NOT NULL AND r.outcome IS NULL
    AND (SELECT v.features && '{onFailure,finally}' FROM workflow_revisions v WHERE v.id = r.revision_id) IS NOT TRUE AS ends
  FROM runs r
  WHERE r.id = ANY(%(ids)s::uuid[])
    AND ((r.id, r.fence, r.worker_id, r.status) IN (
      SELECT e.id, e.fence, %(worker)s::bigint, 'running' FROM json_to_recordset(%(runs)s::json) AS e (id uuid, fence bigint)
    )) IS TRUE
  ORDER BY r.id
  FOR NO KEY UPDATE OF r
)
UPDATE runs AS r
SET status = CASE WHEN (r.id IN (SELECT o.id FROM owned o WHERE o.ends)) IS TRUE THEN 'cancelled' ELSE 'queued' END,
    started_at = CASE WHEN %(begun)s OR r.wakes > 0 OR ((r.id IN (
      SELECT s.run_id FROM run_steps s WHERE s.run_id = ANY(%(ids)s::uuid[]) AND s.fence > 0)) IS TRUE) THEN r.started_at END,
    finished_at = CASE WHEN (r.id IN (SELECT o.id FROM owned o WHERE o.ends)) IS TRUE THEN clock_timestamp() END,
    expires_at = CASE WHEN (r.id IN (SELECT o.id FROM owned o WHERE o.ends)) IS TRUE THEN clock_timestamp()
      + (SELECT v.retain_failed FROM workflow_revisions v WHERE v.id = r.revision_id) END,
    error = CASE WHEN (r.id IN (SELECT o.id FROM owned o WHERE o.ends)) IS TRUE
                 THEN '{"reason":"Cancelled","message":"the run was cancelled"}'::json ELSE r.error END
WHERE r.id = ANY(%(ids)s::uuid[]) AND (r.id IN (SELECT o.id FROM owned o)) IS TRUE
RETURNING r.id::text;

-- name: run_status
SELECT r.id::text, r.status FROM runs r WHERE r.id = ANY(%(ids)s::uuid[]);
