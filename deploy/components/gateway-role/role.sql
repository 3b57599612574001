-- The role of gateways: what webhooks, approvals and the API need, and nothing else. It changes no Workflow and no schema, and
-- removes no run. Run by the owner of Stepwell's tables (who may make roles), in its database, after every `stepwell migrate` of a
-- new version: psql -v password=… -f role.sql
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'stepwell_gateway') AS missing \gset
\if :missing
CREATE ROLE stepwell_gateway LOGIN;
\endif
ALTER ROLE stepwell_gateway PASSWORD :'password';

BEGIN;
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM stepwell_gateway;

-- what is read
GRANT SELECT ON schema_migrations, workflows, workflow_revisions, runs, run_steps, workflow_runs, step_runs, timers, approvals,
  idempotency_keys, secret_troubles TO stepwell_gateway;

-- starts, retries and reruns
GRANT INSERT ON runs, run_steps, trigger_events TO stepwell_gateway;
GRANT INSERT, UPDATE ON idempotency_keys TO stepwell_gateway;

-- cancels and decisions: the columns that they write, neither a run's input, nor its revision, nor whose it is
GRANT UPDATE (status, wakes, cancel_requested_at, finished_at, expires_at, error) ON runs TO stepwell_gateway;
GRANT UPDATE (decided_at, approved, decided_by, comment, data) ON approvals TO stepwell_gateway;
GRANT DELETE ON timers TO stepwell_gateway;

-- Secrets that it could not use
GRANT INSERT, UPDATE, DELETE ON secret_troubles TO stepwell_gateway;
COMMIT;
