-- The role of KEDA's PostgreSQL scaler: it reads one view. Run by the owner of Stepwell's tables, in its database, after
-- `stepwell migrate`: psql -v password=… -f role.sql
CREATE ROLE stepwell_scaler LOGIN PASSWORD :'password' CONNECTION LIMIT 5;
ALTER ROLE stepwell_scaler SET default_transaction_read_only = on;
ALTER ROLE stepwell_scaler SET statement_timeout = '5s';
GRANT SELECT ON worker_demand TO stepwell_scaler;
GRANT EXECUTE ON FUNCTION measure_demand() TO stepwell_scaler;
