-- What an autoscaler asks: how much there is for workers to do. Whoever asks needs no right on any table.

-- Runs that are queued and that are executed, and the seconds since the oldest one was made that never started. It walks the
-- index of live runs, whatever the planner believes (0001), and stops at 50,000: by then every autoscaler is at its limit.
-- It runs with its owner's rights, so the search path is fixed, and nobody's temporary tables come before the owner's.
DO $do$ BEGIN
  EXECUTE format($create$
    CREATE FUNCTION measure_demand() RETURNS TABLE (depth bigint, running bigint, oldest_seconds double precision)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = %I, pg_temp
    SET enable_seqscan = off SET enable_bitmapscan = off AS $$
      SELECT count(*) FILTER (WHERE l.status = 'queued'), count(*) FILTER (WHERE l.status = 'running'),
        greatest(0, coalesce(extract(epoch FROM clock_timestamp()
          - min(l.created_at) FILTER (WHERE l.status = 'queued' AND l.started_at IS NULL)), 0))::double precision
      FROM (SELECT r.status, r.created_at, r.started_at FROM runs r
            WHERE r.finished_at IS NULL AND r.status IN ('queued', 'running') LIMIT 50000) AS l
    $$ $create$, current_schema());
END $do$;
REVOKE EXECUTE ON FUNCTION measure_demand() FROM PUBLIC;

CREATE VIEW worker_demand AS SELECT d.depth, d.running, d.oldest_seconds FROM measure_demand() AS d;
