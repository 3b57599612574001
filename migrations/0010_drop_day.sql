-- Dropping a day locked its table of runs first, then, as DROP does, the parents one after the other. Whoever starts a run holds
-- `trigger_events` and wants `runs`, whoever claims holds `runs` and wants its days: each waited for the other until the lock
-- timed out, and with them all who start, claim or record, 200 ms. Now the parents come first, in the order of those statements:
-- what is under way is over in milliseconds, and nothing of it waits for the one that drops.
-- oldest: 0006

CREATE OR REPLACE FUNCTION drop_day(day text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  left_over boolean;
BEGIN
  SET LOCAL lock_timeout = '200ms';
  LOCK TABLE ONLY trigger_events, ONLY runs, ONLY run_steps IN ACCESS EXCLUSIVE MODE;
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
