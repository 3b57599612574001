-- Approvals: what a run waits for until a person decided. A row stands from the moment a step asks until its run is removed.

CREATE TABLE approvals (
  run_id     uuid NOT NULL,
  step       text NOT NULL,
  namespace  text NOT NULL,
  workflow   text NOT NULL,
  message    text,
  opened_at  timestamptz NOT NULL,
  due_at     timestamptz,               -- when it is decided by itself
  decided_at timestamptz,
  approved   boolean,
  decided_by text,                      -- nobody where its time ran out
  comment    text,
  data       json,
  PRIMARY KEY (run_id, step),
  CONSTRAINT approval_decided_once CHECK ((decided_at IS NULL) = (approved IS NULL))
);

CREATE INDEX approvals_open ON approvals (namespace, run_id, step) WHERE decided_at IS NULL;
