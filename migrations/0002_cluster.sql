-- What the operator and the cluster's Secrets need.

-- The WorkflowRun objects that a run was accepted for, until the object is gone. So a run is known to have been started after
-- retention removed it, and an object that was deleted while no operator was there is found by the sweep.
CREATE TABLE workflow_run_objects (
  uid       text PRIMARY KEY,
  run_id    uuid NOT NULL,
  namespace text NOT NULL,
  name      text NOT NULL
);

-- Which object of the cluster a workflow is, as it was synced last.
CREATE TABLE synced_workflows (
  workflow_id bigint PRIMARY KEY REFERENCES workflows (id),
  uid         text NOT NULL,
  digest      bytea NOT NULL,       -- of all that syncing it depends on: while it stays, there is nothing to do
  cancels     boolean NOT NULL      -- its annotation stepwell.dev/on-delete says Cancel: known here when the object is gone
);

-- Deletions that cancel what was accepted before them, until that is done.
CREATE TABLE workflow_cancels (
  workflow_id bigint PRIMARY KEY REFERENCES workflows (id),
  before      timestamptz NOT NULL
);

-- A page of the runs between two ids, in their order: like history_page, it walks the index and stops early.
CREATE FUNCTION runs_between(after_id uuid, until_id uuid, page integer)
RETURNS TABLE (id uuid, workflow_id bigint, status text, finished_at timestamptz, expires_at timestamptz)
LANGUAGE sql STABLE SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
  SELECT r.id, r.workflow_id, r.status, r.finished_at, r.expires_at FROM runs r
  WHERE r.id > after_id AND r.id <= until_id ORDER BY r.id LIMIT page
$$;

-- Secrets that a worker or a gateway could not use, as the one that used it last met it. A row is about the revision that was
-- active then: another spec may name other Secrets.
CREATE TABLE secret_troubles (
  workflow_id bigint NOT NULL REFERENCES workflows (id),
  reader      text NOT NULL,        -- worker or gateway: they have rights of their own
  secret      text NOT NULL,
  revision_id bigint NOT NULL REFERENCES workflow_revisions (id),
  reason      text NOT NULL,        -- SecretMissing, SecretForbidden, SecretNotLabelled, …
  message     text NOT NULL,
  noted_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (workflow_id, reader, secret)
);
