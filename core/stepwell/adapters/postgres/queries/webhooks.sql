-- What a gateway reads beside intake.

-- name: ended
-- Those of some runs that ended, with what they made.
SELECT r.id::text, r.status,
  CASE WHEN r.output_from IS NULL THEN r.output_data ELSE handed_on(r.id, r.output_from) END, r.error
FROM runs r
WHERE r.id = ANY(%(ids)s::uuid[]) AND r.finished_at IS NOT NULL;

-- name: statuses
SELECT r.id::text, r.status FROM runs r WHERE r.id = ANY(%(ids)s::uuid[]);

-- name: queued
-- How many runs of a namespace are queued, counted no further than needed.
SELECT count(*) FROM (
  SELECT 1 FROM runs r WHERE r.namespace = %(namespace)s AND r.finished_at IS NULL AND r.status = 'queued'
  LIMIT %(limit)s) AS q;
