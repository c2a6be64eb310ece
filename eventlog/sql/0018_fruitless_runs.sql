-- A job whose runs end again and again before they have done anything fails instead of being run for
-- ever; see commands/jobs/runs.py.
ALTER TABLE open_jobs ADD COLUMN fruitless_runs integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN open_jobs.fruitless_runs IS
    'Consecutive runs that have not done anything, the present one included.';
GRANT UPDATE (fruitless_runs) ON open_jobs TO annals_app;
