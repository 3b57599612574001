-- What the operator and the cluster's Secrets need.

-- The WorkflowRun objects that a run was accepted for, until the object is gone. So a run is known to have been started after
-- retention removed it, and an object that was deleted while no operator was there is found by the sweep.
CREATE TABLE workflow_run_objects (
  uid       text PRIMARY KEY,
  run_id    uuid NOT NULL,
  namespace text NOT NULL,
  name      text NOT NULL
);
