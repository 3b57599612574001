-- Steps that run for each item of a list. A row a item has its index and its own output; the step's own row (index -1) has
-- no output, for that is the list of those: it is put together where it is read, and stored once.
-- oldest: 0006

ALTER TABLE run_steps ADD COLUMN items integer;  -- how many items the step has; null where it is not run for each of several

-- The outputs of a step's first `count` items, in order; null for one that failed.
CREATE FUNCTION item_outputs(of_run uuid, of_step text, count integer) RETURNS json LANGUAGE sql STABLE AS $$
  SELECT coalesce(json_agg(s.output_data ORDER BY s.item_index), '[]') FROM run_steps s
  WHERE s.run_id = of_run AND s.step = of_step AND s.item_index >= 0 AND s.item_index < count AND s.retry_at IS NULL
$$;

CREATE OR REPLACE FUNCTION handed_on(of_run uuid, source text) RETURNS json LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN source = '$run' THEN (SELECT r.input_data FROM runs r WHERE r.id = of_run)
    ELSE (SELECT CASE WHEN s.output_data IS NULL AND s.items IS NOT NULL THEN item_outputs(s.run_id, s.step, s.items)
                      ELSE s.output_data END
          FROM run_steps s
          WHERE s.run_id = of_run AND s.step = source AND s.item_index = -1 AND s.status = 'succeeded') END
$$;

CREATE OR REPLACE VIEW step_runs AS
  SELECT s.run_id, s.step, s.item_index, s.attempt, s.status,
    CASE WHEN s.input_from IS NULL THEN s.input_data ELSE resolve_input(s.run_id, s.input_from) END AS input_data,
    CASE WHEN s.output_data IS NULL AND s.item_index = -1 AND s.items IS NOT NULL AND s.status = 'succeeded'
         THEN item_outputs(s.run_id, s.step, s.items) ELSE s.output_data END AS output_data,
    s.error, s.http, s.started_at, s.finished_at, s.retry_at, s.fence = 0 AS copied, s.items
  FROM run_steps s JOIN runs r ON r.id = s.run_id
  WHERE r.expires_at IS NULL OR r.expires_at > now();
