-- What workers and gateways met when they used Secrets.

-- name: note
-- Of the revision that is active: what an older one named may not be in the spec any more. In one order, so that two
-- processes do not wait for each other.
INSERT INTO secret_troubles AS t (workflow_id, reader, secret, revision_id, reason, message)
SELECT w.id, %(reader)s, n.secret, w.active_revision_id, n.reason, n.message
FROM json_to_recordset(%(rows)s::json) AS n(namespace text, workflow text, secret text, reason text, message text)
JOIN workflows w ON w.namespace = n.namespace AND w.name = n.workflow
WHERE w.deleted_at IS NULL AND w.active_revision_id IS NOT NULL
ORDER BY w.id, n.secret
ON CONFLICT (workflow_id, reader, secret) DO UPDATE
SET revision_id = excluded.revision_id, reason = excluded.reason, message = excluded.message, noted_at = now();

-- name: settle
WITH fine AS MATERIALIZED (
  SELECT t.workflow_id, t.secret
  FROM json_to_recordset(%(rows)s::json) AS n(namespace text, workflow text, secret text)
  JOIN workflows w ON w.namespace = n.namespace AND w.name = n.workflow
  JOIN secret_troubles t ON t.workflow_id = w.id AND t.reader = %(reader)s AND t.secret = n.secret
  ORDER BY t.workflow_id, t.secret
  FOR UPDATE OF t
)
DELETE FROM secret_troubles t USING fine f
WHERE t.workflow_id = f.workflow_id AND t.reader = %(reader)s AND t.secret = f.secret;

-- name: standing
SELECT w.namespace, w.name, t.secret, t.reason, extract(epoch FROM now() - t.noted_at)::float8
FROM secret_troubles t JOIN workflows w ON w.id = t.workflow_id AND w.active_revision_id = t.revision_id
WHERE t.reader = %(reader)s
ORDER BY t.workflow_id, t.secret LIMIT %(limit)s;

-- name: troubles
SELECT t.workflow_id, t.reason, t.message
FROM secret_troubles t JOIN workflows w ON w.id = t.workflow_id AND w.active_revision_id = t.revision_id
WHERE w.deleted_at IS NULL AND t.noted_at > now() - make_interval(secs => %(age)s)
ORDER BY t.workflow_id, t.secret, t.reader;

-- name: tidy
DELETE FROM secret_troubles t USING workflows w
WHERE w.id = t.workflow_id AND (
  t.noted_at < now() - make_interval(secs => %(age)s) OR w.deleted_at IS NOT NULL
  OR w.active_revision_id IS DISTINCT FROM t.revision_id
);
