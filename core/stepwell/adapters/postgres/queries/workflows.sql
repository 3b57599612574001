-- Workflows and their revisions.

-- name: apply_workflow
-- Applied again after a deletion, the row and so the history go on. A revision that stood before is used again.
WITH applied AS (
  INSERT INTO workflows AS w (namespace, name, suspended) VALUES (%(namespace)s, %(name)s, %(suspended)s)
  ON CONFLICT (namespace, name) DO UPDATE SET suspended = excluded.suspended, updated_at = now(), deleted_at = NULL
  RETURNING w.id
)
INSERT INTO workflow_revisions AS v (workflow_id, hash, spec, features, retain_succeeded, retain_failed)
SELECT a.id, %(hash)s, %(spec)s::json, %(features)s::text[],
       make_interval(secs => %(retain_succeeded)s), make_interval(secs => %(retain_failed)s)
FROM applied a
ON CONFLICT (workflow_id, hash) DO NOTHING;

-- name: activate_revision
UPDATE workflows w SET active_revision_id = v.id, updated_at = now()
FROM workflow_revisions v
WHERE w.namespace = %(namespace)s AND w.name = %(name)s AND v.workflow_id = w.id AND v.hash = %(hash)s
RETURNING w.id, v.id, w.suspended;

-- name: active_workflows
SELECT w.namespace, w.name, w.id, w.active_revision_id, w.suspended
FROM unnest(%(namespaces)s::text[], %(names)s::text[]) AS asked (namespace, name)
JOIN workflows w USING (namespace, name)
WHERE w.deleted_at IS NULL AND w.active_revision_id IS NOT NULL;

-- name: revision
SELECT v.id, v.workflow_id, w.namespace, w.name, v.features, v.spec::text
FROM workflow_revisions v JOIN workflows w ON w.id = v.workflow_id
WHERE v.id = %(revision)s;

-- name: standing
SELECT w.namespace, w.name, v.id, v.hash
FROM workflows w JOIN workflow_revisions v ON v.id = w.active_revision_id
WHERE w.deleted_at IS NULL
ORDER BY w.namespace, w.name;

-- name: name
SELECT w.namespace, w.name FROM workflows w WHERE w.id = %(workflow)s;

-- name: withdraw
-- The resource is gone: no start is accepted any more, runs that were go on, and the history stays.
UPDATE workflows SET deleted_at = now(), updated_at = now()
WHERE namespace = %(namespace)s AND name = %(name)s AND deleted_at IS NULL
RETURNING id;
