-- What the handlers of a run need. `outcome` (0001) says how its steps ended, from the flush that ends them on: together with
-- the run's error or output. These say which list of handlers has its turn; a run without handlers leaves them null.
-- oldest: 0006

ALTER TABLE runs
  ADD COLUMN handlers       smallint,      -- 1 onFailure, 2 finally
  ADD COLUMN handlers_at    timestamptz,   -- since when
  ADD COLUMN handlers_until timestamptz,   -- when their time is over
  ADD COLUMN recoveries     smallint;      -- how often a dead worker left them

ALTER TABLE runs
  ADD CONSTRAINT run_outcome_is_final CHECK (outcome IN ('succeeded', 'failed', 'cancelled', 'timed_out')) NOT VALID,
  ADD CONSTRAINT run_handlers_follow_an_outcome CHECK (handlers IS NULL OR outcome IS NOT NULL AND handlers_at IS NOT NULL
    AND handlers_until IS NOT NULL) NOT VALID;
