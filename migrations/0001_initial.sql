-- The tables of Stepwell. PostgreSQL is the truth: a run that was accepted is a committed row here.
--
-- `workflow_runs` and `step_runs` are views: the tables behind them store a document once and refer to it from
-- wherever else it stands (the input of a step is nearly always the output of the one before it).

CREATE TABLE workflows (
  id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  namespace          text NOT NULL,
  name               text NOT NULL,
  active_revision_id bigint,
  suspended          boolean NOT NULL DEFAULT false,
  created_at         timestamptz NOT NULL DEFAULT now(),
  updated_at         timestamptz NOT NULL DEFAULT now(),
  deleted_at         timestamptz,           -- the resource is gone; its history stays, and goes on when applied again
  UNIQUE (namespace, name)
);

CREATE TABLE workflow_revisions (
  id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  workflow_id      bigint NOT NULL REFERENCES workflows (id),
  hash             bytea NOT NULL,          -- of the spec without the fields that equal their default
  spec             json NOT NULL,
  features         text[] NOT NULL,         -- what of the language it uses: a worker claims only what it knows
  retain_succeeded interval NOT NULL,
  retain_failed    interval NOT NULL,
  created_at       timestamptz NOT NULL DEFAULT now(),
  UNIQUE (workflow_id, hash)
);

ALTER TABLE workflows ADD FOREIGN KEY (active_revision_id) REFERENCES workflow_revisions (id);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is final', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TRIGGER revisions_are_immutable BEFORE UPDATE ON workflow_revisions
  FOR EACH ROW EXECUTE FUNCTION refuse_change('a revision');

-- Runs ---------------------------------------------------------------------------------------------------------------
-- Partitioned by day through the time in their UUIDv7. No index names what a claim, a park or a step changes, and over half
-- of each page stays free: so these updates stay on their page and touch no index. (A claim makes a row longer: at half,
-- a batch that claims all of a page found place for 84 % of it, at 45 % for all.)

CREATE SEQUENCE run_fences;

CREATE TABLE runs (
  id                  uuid NOT NULL,
  workflow_id         bigint NOT NULL,
  revision_id         bigint NOT NULL,
  created_at          timestamptz NOT NULL,
  status              text NOT NULL DEFAULT 'queued',
  wakes               integer NOT NULL DEFAULT 0,   -- counts what woke the run, so that no wake is lost while it parks
  claims              integer NOT NULL DEFAULT 0,
  priority            smallint NOT NULL DEFAULT 0,  -- -1 low, 0 normal, 1 high
  suspicion           smallint NOT NULL DEFAULT 0,  -- 0 innocent, 1 suspect, n: n - 1 workers died of it while suspect
  fence               bigint,
  worker_id           bigint,                       -- who holds it, or held it last
  claim_token         bigint,
  started_at          timestamptz,
  finished_at         timestamptz,
  expires_at          timestamptz,
  cancel_requested_at timestamptz,
  namespace           text NOT NULL,
  trigger             text NOT NULL,                -- the door: a trigger's name, `api`, …
  outcome             text,                         -- how the main steps ended, while handlers still run
  retry_of            uuid,
  parent_id           uuid,
  output_from         text,                         -- the step whose output is the run's output
  error               json,
  input_data          json NOT NULL,
  output_data         json,
  PRIMARY KEY (id),
  CONSTRAINT run_status_is_known CHECK (
    status IN ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled', 'timed_out')),
  CONSTRAINT run_finished_iff_final CHECK (
    (finished_at IS NOT NULL) = (status IN ('succeeded', 'failed', 'cancelled', 'timed_out'))),
  CONSTRAINT run_expires_iff_finished CHECK ((expires_at IS NULL) = (finished_at IS NULL)),
  CONSTRAINT run_running_is_owned CHECK (status <> 'running' OR (worker_id IS NOT NULL AND fence IS NOT NULL))
) PARTITION BY RANGE (id);

CREATE INDEX runs_live ON runs (namespace, id) WHERE finished_at IS NULL;
CREATE INDEX runs_by_workflow ON runs (workflow_id, id);
CREATE INDEX runs_suspect ON runs (id) WHERE suspicion > 0 AND finished_at IS NULL;
CREATE INDEX runs_cancelling ON runs (id) WHERE cancel_requested_at IS NOT NULL AND finished_at IS NULL;

CREATE TRIGGER ended_runs_are_final BEFORE UPDATE ON runs
  FOR EACH ROW WHEN (OLD.finished_at IS NOT NULL) EXECUTE FUNCTION refuse_change('an ended run');

-- One row an attempt. `input_from` refers to what the input was taken from: "$run" for the run's input, else the name of
-- a step for its output; with several needs, an object of those by the needed step's name.
CREATE TABLE run_steps (
  run_id      uuid NOT NULL,
  fence       bigint NOT NULL,      -- of the claim that wrote it
  started_at  timestamptz NOT NULL,
  finished_at timestamptz NOT NULL,
  retry_at    timestamptz,          -- when the next attempt is due, if there is one
  item_index  integer NOT NULL DEFAULT -1,
  attempt     smallint NOT NULL,
  step        text NOT NULL,
  status      text NOT NULL,
  input_from  json,
  input_data  json,
  output_data json,
  error       json,
  http        json,
  PRIMARY KEY (run_id, step, item_index, attempt),
  CONSTRAINT step_status_is_known CHECK (status IN ('succeeded', 'failed', 'skipped'))
) PARTITION BY RANGE (run_id);

-- What started runs from outside: webhook deliveries and cron ticks.
CREATE TABLE trigger_events (
  id          uuid NOT NULL,
  workflow_id bigint NOT NULL,
  trigger     text NOT NULL,
  run_id      uuid NOT NULL,
  received_at timestamptz NOT NULL,
  PRIMARY KEY (id)
) PARTITION BY RANGE (id);

CREATE TABLE idempotency_keys (
  workflow_id bigint NOT NULL,
  run_id      uuid NOT NULL,
  expires_at  timestamptz NOT NULL,
  door        text NOT NULL,
  key         text NOT NULL CHECK (octet_length(key) <= 256),
  input_hash  bytea NOT NULL,
  PRIMARY KEY (workflow_id, door, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

-- Waking and liveness --------------------------------------------------------------------------------------------------

CREATE TABLE timers (
  run_id uuid PRIMARY KEY,
  due_at timestamptz NOT NULL
);
CREATE INDEX timers_due ON timers (due_at);

CREATE TABLE concurrency_groups (
  workflow_id bigint NOT NULL,
  key         text NOT NULL,
  PRIMARY KEY (workflow_id, key)
);

CREATE TABLE workers (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  counter    bigint NOT NULL DEFAULT 0,     -- raised by every heartbeat; the leader watches it with its own clock
  host       text NOT NULL,
  process    integer NOT NULL,
  version    text NOT NULL,
  started_at timestamptz NOT NULL DEFAULT now(),
  beat_at    timestamptz NOT NULL DEFAULT now(),  -- for people; nothing is decided by it
  dead_at    timestamptz
) WITH (fillfactor = 50);

CREATE TABLE leases (
  name       text PRIMARY KEY,
  holder     bigint NOT NULL,
  renewed_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Partitions -----------------------------------------------------------------------------------------------------------

-- The smallest UUIDv7 of a moment.
CREATE FUNCTION uuid_floor(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- LIKE and ATTACH take a weaker lock on the parent than CREATE … PARTITION OF does: intake goes on meanwhile.
CREATE FUNCTION add_partition(parent regclass, day date, fill integer) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  child text := format('%s_%s', parent::text, to_char(day, 'YYYYMMDD'));
  floor_of_day uuid := uuid_floor(day::timestamp AT TIME ZONE 'UTC');
  floor_of_next uuid := uuid_floor((day + 1)::timestamp AT TIME ZONE 'UTC');
BEGIN
  IF to_regclass(child) IS NOT NULL THEN
    RETURN false;
  END IF;
  EXECUTE format('CREATE TABLE %I (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES) '
    'WITH (fillfactor = %s, autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_insert_scale_factor = 0.5)',
    child, parent, fill);
  EXECUTE format('ALTER TABLE %s ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
    parent, child, floor_of_day, floor_of_next);
  RETURN true;
END $$;

-- One caller at a time: another waits, and finds them made.
CREATE FUNCTION add_partitions(first date, days integer) RETURNS integer LANGUAGE sql AS $$
  SELECT pg_advisory_xact_lock('runs'::regclass::oid::bigint);
  SELECT (count(*) FILTER (WHERE add_partition('runs', first + d, 45))
        + count(*) FILTER (WHERE add_partition('run_steps', first + d, 100))
        + count(*) FILTER (WHERE add_partition('trigger_events', first + d, 100)))::integer
  FROM generate_series(0, days - 1) AS d
$$;

-- Drops one day of history if no run of it is left. The lock is held before looking: nothing comes in between.
CREATE FUNCTION drop_day(day text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  left_over boolean;
BEGIN
  SET LOCAL lock_timeout = '200ms';
  EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', 'runs_' || day);
  EXECUTE format('SELECT EXISTS (SELECT FROM %I)', 'runs_' || day) INTO left_over;
  IF left_over THEN
    RETURN false;
  END IF;
  EXECUTE format('DROP TABLE %I', 'runs_' || day);
  EXECUTE format('DROP TABLE IF EXISTS %I', 'run_steps_' || day);
  EXECUTE format('DROP TABLE IF EXISTS %I', 'trigger_events_' || day);
  RETURN true;
EXCEPTION WHEN undefined_table THEN  -- another leader was faster
  RETURN false;
END $$;

-- Runs in order ----------------------------------------------------------------------------------------------------------
-- These walk an index in its order and stop early. A partition that was made this morning and filled within a minute has
-- no statistics; the planner would then collect and sort the whole backlog, so other ways are closed to it.

-- A page of all runs after a place.
CREATE FUNCTION history_page(after_id uuid, page integer) RETURNS TABLE (id uuid, expires_at timestamptz)
LANGUAGE sql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
  SELECT r.id, r.expires_at FROM runs r WHERE r.id > after_id ORDER BY r.id LIMIT page
$$;

-- A page of the live runs after a place.
CREATE FUNCTION live_page(after_namespace text, after_id uuid, page integer)
RETURNS TABLE (id uuid, namespace text, priority smallint, created_at timestamptz, started_at timestamptz, status text,
               suspicion smallint)
LANGUAGE sql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
  SELECT r.id, r.namespace, r.priority, r.created_at, r.started_at, r.status, r.suspicion FROM runs r
  WHERE r.finished_at IS NULL AND (r.namespace, r.id) > (after_namespace, after_id)
  ORDER BY r.namespace, r.id LIMIT page
$$;

-- Locks the oldest queued runs, an equal share of each namespace; `turn` shuffles who comes first.
CREATE FUNCTION oldest_queued(wanted integer, unsupported bigint[], turn bigint) RETURNS SETOF uuid
LANGUAGE sql VOLATILE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
  WITH RECURSIVE spaces AS (
    (SELECT r.namespace FROM runs r WHERE r.finished_at IS NULL ORDER BY r.namespace LIMIT 1)
    UNION ALL
    SELECT (SELECT r.namespace FROM runs r WHERE r.finished_at IS NULL AND r.namespace > s.namespace
            ORDER BY r.namespace LIMIT 1)
    FROM spaces s WHERE s.namespace IS NOT NULL
  ), shares AS MATERIALIZED (
    SELECT s.namespace, (wanted + count(*) OVER () - 1) / count(*) OVER () AS share
    FROM spaces s WHERE s.namespace IS NOT NULL
    ORDER BY hashtextextended(s.namespace, turn)
  )
  SELECT oldest.id FROM shares s, LATERAL (
    SELECT r.id FROM runs r
    WHERE r.finished_at IS NULL AND r.namespace = s.namespace AND r.status = 'queued' AND r.suspicion = 0
      AND r.revision_id <> ALL(unsupported)
    ORDER BY r.id LIMIT s.share
    FOR NO KEY UPDATE SKIP LOCKED) AS oldest
  LIMIT wanted
$$;

-- Two days back: an id is made by the process that accepts, whose clock may be a little behind.
SELECT add_partitions((now() AT TIME ZONE 'UTC')::date - 2, 10);

-- What people read -----------------------------------------------------------------------------------------------------

CREATE FUNCTION handed_on(of_run uuid, source text) RETURNS json LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN source = '$run' THEN (SELECT r.input_data FROM runs r WHERE r.id = of_run)
    ELSE (SELECT s.output_data FROM run_steps s
          WHERE s.run_id = of_run AND s.step = source AND s.item_index = -1 AND s.status = 'succeeded') END
$$;

CREATE FUNCTION resolve_input(of_run uuid, source json) RETURNS json LANGUAGE sql STABLE AS $$
  SELECT CASE json_typeof(source)
    WHEN 'string' THEN handed_on(of_run, source #>> '{}')
    WHEN 'object' THEN (SELECT json_object_agg(e.key, handed_on(of_run, e.value)) FROM json_each_text(source) AS e)
    END
$$;

CREATE VIEW workflow_runs AS
  SELECT r.id, r.namespace, w.name AS workflow, r.revision_id, r.status, r.trigger, r.priority,
    r.input_data,
    CASE WHEN r.output_from IS NULL THEN r.output_data ELSE handed_on(r.id, r.output_from) END AS output_data,
    r.error, r.created_at, r.started_at, r.finished_at, r.expires_at, r.cancel_requested_at, r.retry_of, r.parent_id,
    r.worker_id, r.claims
  FROM runs r JOIN workflows w ON w.id = r.workflow_id
  WHERE r.expires_at IS NULL OR r.expires_at > now();

CREATE VIEW step_runs AS
  SELECT s.run_id, s.step, s.item_index, s.attempt, s.status,
    CASE WHEN s.input_from IS NULL THEN s.input_data ELSE resolve_input(s.run_id, s.input_from) END AS input_data,
    s.output_data, s.error, s.http, s.started_at, s.finished_at, s.retry_at
  FROM run_steps s JOIN runs r ON r.id = s.run_id
  WHERE r.expires_at IS NULL OR r.expires_at > now();
