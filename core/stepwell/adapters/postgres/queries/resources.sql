-- Workflow resources of a cluster, synced in batches.

-- name: known
-- What was synced and still stands.
SELECT w.namespace, w.name, s.uid, s.digest, w.id, w.active_revision_id
FROM synced_workflows s JOIN workflows w ON w.id = s.workflow_id
WHERE w.deleted_at IS NULL AND w.active_revision_id IS NOT NULL;

-- name: add_revisions
-- The rows that `activate` joins; by themselves they change nothing that stands.
WITH wanted AS MATERIALIZED (
  SELECT * FROM json_to_recordset(%(resources)s::json) AS n (
    namespace text, name text, suspended boolean, hash text, spec json, features json, retain_succeeded float8,
    retain_failed float8)
), added AS (
  INSERT INTO workflows AS w (namespace, name, suspended)
  SELECT n.namespace, n.name, n.suspended FROM wanted n ORDER BY n.namespace, n.name
  ON CONFLICT (namespace, name) DO NOTHING
  RETURNING w.id, w.namespace, w.name
), there AS (
  SELECT a.id, a.namespace, a.name FROM added a
  UNION ALL
  SELECT w.id, w.namespace, w.name FROM wanted n JOIN workflows w ON w.namespace = n.namespace AND w.name = n.name
)
INSERT INTO workflow_revisions (workflow_id, hash, spec, features, retain_succeeded, retain_failed)
SELECT t.id, decode(n.hash, 'hex'), n.spec, ARRAY(SELECT json_array_elements_text(n.features)),
       make_interval(secs => n.retain_succeeded), make_interval(secs => n.retain_failed)
FROM wanted n JOIN there t ON t.namespace = n.namespace AND t.name = n.name
ORDER BY t.id
ON CONFLICT (workflow_id, hash) DO NOTHING;

-- name: activate
-- Revision, suspension and origin change together. An object that was made anew under its name ended another one, unheard
-- perhaps: whatever that one asked to be cancelled at its deletion is. Who sends this again finds nothing more to do.
WITH wanted AS MATERIALIZED (
  SELECT * FROM json_to_recordset(%(resources)s::json) AS n (
    namespace text, name text, suspended boolean, hash text, uid text, digest text, cancels boolean)
), target AS MATERIALIZED (
  SELECT w.id, v.id AS revision, n.suspended, n.uid, decode(n.digest, 'hex') AS digest, n.cancels,
         s.uid <> n.uid AND s.cancels AND w.deleted_at IS NULL AS ended
  FROM wanted n
  JOIN workflows w ON w.namespace = n.namespace AND w.name = n.name
  JOIN workflow_revisions v ON v.workflow_id = w.id AND v.hash = decode(n.hash, 'hex')
  LEFT JOIN synced_workflows s ON s.workflow_id = w.id
  ORDER BY w.id
  FOR NO KEY UPDATE OF w
), cancelled AS (
  INSERT INTO workflow_cancels (workflow_id, before) SELECT t.id, now() FROM target t WHERE t.ended
  ON CONFLICT (workflow_id) DO UPDATE SET before = excluded.before
), origin AS (
  INSERT INTO synced_workflows (workflow_id, uid, digest, cancels) SELECT t.id, t.uid, t.digest, t.cancels FROM target t
  ON CONFLICT (workflow_id) DO UPDATE SET uid = excluded.uid, digest = excluded.digest, cancels = excluded.cancels
)
UPDATE workflows w SET active_revision_id = t.revision, suspended = t.suspended, deleted_at = NULL, updated_at = now()
FROM target t WHERE w.id = t.id
RETURNING w.namespace, w.name, w.id, w.active_revision_id;

-- name: withdraw
-- Objects that are gone: nothing starts their workflows any more. One that was made anew under the same name is another.
WITH gone AS MATERIALIZED (
  SELECT * FROM json_to_recordset(%(resources)s::json) AS n (namespace text, name text, uid text, cancels boolean)
), target AS MATERIALIZED (
  SELECT w.id, coalesce(n.cancels, s.cancels) AS cancels
  FROM gone n
  JOIN workflows w ON w.namespace = n.namespace AND w.name = n.name
  JOIN synced_workflows s ON s.workflow_id = w.id AND s.uid = n.uid
  WHERE w.deleted_at IS NULL
  ORDER BY w.id
  FOR NO KEY UPDATE OF w
), cancelled AS (
  INSERT INTO workflow_cancels (workflow_id, before) SELECT t.id, now() FROM target t WHERE t.cancels
  ON CONFLICT (workflow_id) DO UPDATE SET before = excluded.before
)
UPDATE workflows w SET deleted_at = now(), updated_at = now()
FROM target t WHERE w.id = t.id
RETURNING w.namespace, w.name;

-- name: cancels
SELECT c.workflow_id, w.namespace, w.name, c.before FROM workflow_cancels c JOIN workflows w ON w.id = c.workflow_id
ORDER BY c.workflow_id;

-- name: to_cancel
SELECT r.id::text FROM runs r
WHERE r.finished_at IS NULL AND r.namespace = %(namespace)s AND r.id < uuid_floor(%(before)s)
  AND r.workflow_id = %(workflow)s AND r.cancel_requested_at IS NULL
ORDER BY r.id LIMIT %(limit)s;

-- name: cancelled
DELETE FROM workflow_cancels WHERE workflow_id = %(workflow)s AND before = %(before)s;

-- name: next_ticks
SELECT s.workflow_id, s.trigger, s.tick_at FROM schedules s WHERE s.tick_at IS NOT NULL;
