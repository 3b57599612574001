-- Cron: schedules and their ticks.

-- A row for each cron trigger of an active, unsuspended workflow: which tick is to be decided on next, and when. The leader
-- makes the rows from what `schedule_changes` names, and moves them on in the transaction that accepts the tick's run.
CREATE TABLE schedules (
  workflow_id bigint NOT NULL,
  trigger     text NOT NULL,
  revision_id bigint NOT NULL,      -- of which the trigger is; a tick is fired only while it is the active one
  timing      text NOT NULL,        -- fields, zone and jitter: while they stay, so does the next tick
  tick_at     timestamptz,          -- the first tick that is not decided yet; null: it is never due again
  due_at      timestamptz,          -- with its jitter
  live_since  timestamptz,          -- runs of ticks before this one have ended (kept where concurrencyPolicy asks for it)
  PRIMARY KEY (workflow_id, trigger)
) WITH (fillfactor = 70);
CREATE INDEX schedules_due ON schedules (due_at);

-- The schedules that are due, in order. It walks the index and stops early, whatever the planner knows of a table that was
-- filled within a minute.
CREATE FUNCTION due_schedules(moment timestamptz, page integer, unsupported bigint[]) RETURNS SETOF schedules
LANGUAGE sql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
  SELECT s.* FROM schedules s JOIN workflows w ON w.id = s.workflow_id
  WHERE s.due_at <= moment AND s.revision_id <> ALL(unsupported)
    AND w.active_revision_id = s.revision_id AND NOT w.suspended AND w.deleted_at IS NULL
  ORDER BY s.due_at LIMIT page
$$;

-- What became of each tick that was looked at. Not partitioned, so that the primary key holds over all days.
CREATE TABLE schedule_ticks (
  workflow_id bigint NOT NULL,
  run_id      uuid,                 -- the run that it started, or led to by its idempotency key
  tick_at     timestamptz NOT NULL,
  decided_at  timestamptz NOT NULL,
  trigger     text NOT NULL,
  reason      text,                 -- why it started none
  message     text,
  PRIMARY KEY (workflow_id, trigger, tick_at)
);
CREATE INDEX schedule_ticks_by_age ON schedule_ticks (decided_at);

-- Workflows whose schedules are not what they ought to be, until the leader has seen to them. Filled by the database itself,
-- so that no way of applying a manifest can pass it by.
CREATE SEQUENCE schedule_change_numbers;
CREATE TABLE schedule_changes (
  workflow_id bigint PRIMARY KEY,
  number      bigint NOT NULL DEFAULT nextval('schedule_change_numbers'),  -- another one for each change
  changed_at  timestamptz NOT NULL DEFAULT now()                           -- ticks are counted from here on
);

-- Suspended and deleted workflows lose their schedules at once: what is due meanwhile was not missed.
CREATE FUNCTION note_schedule_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO schedule_changes (workflow_id) VALUES (NEW.id)
  ON CONFLICT (workflow_id) DO UPDATE SET number = excluded.number, changed_at = excluded.changed_at;
  IF NEW.suspended OR NEW.deleted_at IS NOT NULL THEN
    DELETE FROM schedules WHERE workflow_id = NEW.id;
  END IF;
  RETURN NULL;
END $$;

CREATE TRIGGER schedules_follow AFTER UPDATE ON workflows FOR EACH ROW
  WHEN ((OLD.active_revision_id, OLD.suspended, OLD.deleted_at IS NULL)
    IS DISTINCT FROM (NEW.active_revision_id, NEW.suspended, NEW.deleted_at IS NULL))
  EXECUTE FUNCTION note_schedule_change();

INSERT INTO schedule_changes (workflow_id) SELECT id FROM workflows WHERE active_revision_id IS NOT NULL;
