-- How many runs of each workflow are retained, without reading any of them twice.

-- name: count
-- A page of runs between two ids: the ended ones as numbers, by the moment until which they are counted (their expiry,
-- rounded up to the 48th part of their retention), the live ones by id. `last` is the largest id of a group.
WITH page AS MATERIALIZED (
  SELECT p.id, p.workflow_id, p.status, p.expires_at,
         greatest(60, extract(epoch FROM p.expires_at - p.finished_at) / 48)::bigint AS width
  FROM runs_between(%(after)s::uuid, %(until)s::uuid, %(page)s) AS p
), kept AS MATERIALIZED (
  SELECT g.id, g.workflow_id, g.status,
         (ceil(extract(epoch FROM g.expires_at) / g.width) * g.width)::bigint AS until
  FROM page g WHERE g.expires_at IS NULL OR g.expires_at > now()
)
SELECT k.workflow_id, k.status, k.until, count(*), max(k.id::text) FROM kept k WHERE k.until IS NOT NULL
GROUP BY k.workflow_id, k.status, k.until
UNION ALL
SELECT k.workflow_id, k.status, NULL, 1, k.id::text FROM kept k WHERE k.until IS NULL
UNION ALL
SELECT NULL, NULL, NULL, count(*), max(g.id::text) FROM page g;

-- name: recount
-- What became of runs that were live.
SELECT r.workflow_id, r.status,
       (ceil(extract(epoch FROM r.expires_at) / w.width) * w.width)::bigint, 1, r.id::text
FROM runs r, LATERAL (
  SELECT greatest(60, extract(epoch FROM r.expires_at - r.finished_at) / 48)::bigint AS width) AS w
WHERE r.id = ANY(%(ids)s::uuid[]);
