-- The life of a worker: one row, one counter.

-- name: register
INSERT INTO workers (host, process, version) VALUES (%(host)s, %(process)s, %(version)s) RETURNING id;

-- name: beat
UPDATE workers SET counter = counter + 1, beat_at = clock_timestamp()
WHERE id = %(worker)s AND dead_at IS NULL
RETURNING id;

-- name: cancelling
-- Runs of this worker whose cancel was acknowledged.
SELECT r.id::text FROM runs r
WHERE r.cancel_requested_at IS NOT NULL AND r.finished_at IS NULL AND r.status = 'running'
  AND r.worker_id = %(worker)s;

-- name: unregister
UPDATE workers SET dead_at = clock_timestamp() WHERE id = %(worker)s;
