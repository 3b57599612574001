-- What the gateway and its API need.

-- Which run this one repeats, as `:rerun` made it (`retry_of` is of `:retry`). Results that were taken over from it stand
-- in run_steps under fence 0, which no claim ever has.
ALTER TABLE runs ADD COLUMN rerun_of uuid;

-- Runs that did not succeed, for lists of them: rare, and far apart in a long history. It names what is written with the
-- end only, whose update touches an index anyway; so claims and parks stay on their page, and a success costs nothing.
CREATE INDEX runs_gone_wrong ON runs (workflow_id, id) WHERE error IS NOT NULL;

CREATE OR REPLACE VIEW workflow_runs AS
  SELECT r.id, r.namespace, w.name AS workflow, r.revision_id, r.status, r.trigger, r.priority,
    r.input_data,
    CASE WHEN r.output_from IS NULL THEN r.output_data ELSE handed_on(r.id, r.output_from) END AS output_data,
    r.error, r.created_at, r.started_at, r.finished_at, r.expires_at, r.cancel_requested_at, r.retry_of, r.parent_id,
    r.worker_id, r.claims, r.rerun_of
  FROM runs r JOIN workflows w ON w.id = r.workflow_id
  WHERE r.expires_at IS NULL OR r.expires_at > now();

CREATE OR REPLACE VIEW step_runs AS
  SELECT s.run_id, s.step, s.item_index, s.attempt, s.status,
    CASE WHEN s.input_from IS NULL THEN s.input_data ELSE resolve_input(s.run_id, s.input_from) END AS input_data,
    s.output_data, s.error, s.http, s.started_at, s.finished_at, s.retry_at, s.fence = 0 AS copied
  FROM run_steps s JOIN runs r ON r.id = s.run_id
  WHERE r.expires_at IS NULL OR r.expires_at > now();

-- Pages of runs, newest first. Like the walks of 0001 these follow an index in its order and stop early, whatever the
-- planner believes of a partition that nobody has analysed. The comparison of rows keeps it from the primary key, on which
-- it would pass by all runs of all others.

-- Of one workflow.
CREATE FUNCTION workflow_page(of_workflow bigint, before uuid, since uuid, wanted text, page integer)
RETURNS SETOF uuid
LANGUAGE sql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
  SELECT r.id FROM runs r
  WHERE (r.workflow_id, r.id) < (of_workflow, before) AND (r.workflow_id, r.id) >= (of_workflow, since)
    AND r.id < before AND r.id >= since
    AND (wanted IS NULL OR r.status = wanted) AND (r.expires_at IS NULL OR r.expires_at > now())
  ORDER BY r.workflow_id DESC, r.id DESC LIMIT page
$$;

-- Of those of one workflow that did not succeed.
CREATE FUNCTION gone_wrong_page(of_workflow bigint, before uuid, since uuid, wanted text, page integer)
RETURNS SETOF uuid
LANGUAGE sql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
  SELECT r.id FROM runs r
  WHERE (r.workflow_id, r.id) < (of_workflow, before) AND (r.workflow_id, r.id) >= (of_workflow, since)
    AND r.id < before AND r.id >= since
    AND r.error IS NOT NULL AND r.status = wanted AND (r.expires_at IS NULL OR r.expires_at > now())
  ORDER BY r.workflow_id DESC, r.id DESC LIMIT page
$$;

-- Of the live ones of a namespace, or (`of_workflow`) of one workflow of it.
CREATE FUNCTION live_runs_page(of_namespace text, of_workflow bigint, before uuid, since uuid, wanted text, page integer)
RETURNS SETOF uuid
LANGUAGE sql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
  SELECT r.id FROM runs r
  WHERE (r.namespace, r.id) < (of_namespace, before) AND (r.namespace, r.id) >= (of_namespace, since)
    AND r.id < before AND r.id >= since
    AND r.finished_at IS NULL AND r.status = wanted AND (of_workflow IS NULL OR r.workflow_id = of_workflow)
  ORDER BY r.namespace DESC, r.id DESC LIMIT page
$$;
