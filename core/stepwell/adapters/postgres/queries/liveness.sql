-- The life of a worker: one row, one counter. None of it is waited for until a standby has it: a sign of life that a failover
-- loses is given again, and while a synchronous standby is away, every statement that waits for it keeps a connection.

-- name: register
INSERT INTO workers (host, process, version)
SELECT %(host)s, %(process)s, %(version)s FROM set_config('synchronous_commit', 'local', true) RETURNING id;

-- name: beat
UPDATE workers SET counter = counter + 1, beat_at = clock_timestamp()
FROM set_config('synchronous_commit', 'local', true)
WHERE id = %(worker)s AND dead_at IS NULL
RETURNING id;

-- name: cancelling
-- Runs of this worker whose cancel was acknowledged.
SELECT r.id::text FROM runs r
WHERE r.cancel_requested_at IS NOT NULL AND r.finished_at IS NULL AND r.status = 'running'
  AND r.worker_id = %(worker)s;

-- name: unregister
UPDATE workers SET dead_at = clock_timestamp() FROM set_config('synchronous_commit', 'local', true) WHERE id = %(worker)s;
