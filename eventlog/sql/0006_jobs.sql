-- Jobs: open jobs, their items and their errors. A job's request, progress and end are events; these
-- tables are written in the transactions of those events.

-- One row per job that has not ended. Workers find their jobs here.
CREATE TABLE open_jobs (
    workspace_id uuid        NOT NULL,
    job_id       uuid        NOT NULL,
    work         text        NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    turn_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (workspace_id, job_id)
) WITH (fillfactor = 50);
COMMENT ON COLUMN open_jobs.turn_at IS 'When a worker last took it up: who waits longest is next.';
CREATE INDEX open_jobs_by_turn ON open_jobs (turn_at);

-- The items of a job, in chunks. They are deleted when the job ends.
CREATE TABLE job_items (
    workspace_id uuid    NOT NULL,
    job_id       uuid    NOT NULL,
    first        integer NOT NULL CHECK (first >= 0),
    n            integer NOT NULL CHECK (n > 0),
    items        json    NOT NULL,
    PRIMARY KEY (workspace_id, job_id, first)
);
COMMENT ON COLUMN job_items.first IS 'The first item of the chunk, counted from 0.';

-- Every failed item. The job itself contains the first ones.
CREATE TABLE job_errors (
    workspace_id uuid        NOT NULL,
    job_id       uuid        NOT NULL,
    number       integer     NOT NULL CHECK (number > 0),
    error        json        NOT NULL,
    kept         json,
    recorded_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (workspace_id, job_id, number)
);
COMMENT ON COLUMN job_errors.number IS 'Counts the errors of the job, from 1.';
COMMENT ON COLUMN job_errors.kept IS 'What the kind of work keeps of the item, such as the row of a file.';
CREATE INDEX job_errors_by_time ON job_errors (recorded_at);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['open_jobs', 'job_items', 'job_errors'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY own_workspace ON %I TO annals_app
                        USING (workspace_id = current_workspace())
                        WITH CHECK (workspace_id = current_workspace())', name);
    END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE (turn_at), DELETE ON open_jobs TO annals_app;
GRANT SELECT, INSERT, DELETE ON job_items TO annals_app;
GRANT SELECT, INSERT ON job_errors TO annals_app;

-- A worker runs the jobs of all workspaces, each as the API's role in the job's workspace. This
-- function lists the open jobs for it: ids and kinds of work, but no content.
CREATE POLICY owner_works ON open_jobs TO CURRENT_USER USING (true);
CREATE POLICY owner_purges ON job_errors TO CURRENT_USER USING (true);

CREATE FUNCTION jobs_to_do(works text[], most integer)
RETURNS TABLE (workspace_id uuid, job_id uuid, work text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT o.workspace_id, o.job_id, o.work FROM open_jobs AS o
     WHERE o.work = ANY(works) ORDER BY o.turn_at LIMIT most
$$;
COMMENT ON FUNCTION jobs_to_do IS 'Open jobs of these kinds of work, who waits longest first.';

CREATE FUNCTION jobs_open(OUT n bigint, OUT oldest_s double precision, OUT idle_s double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(requested_at)), 0),
           coalesce(extract(epoch FROM clock_timestamp() - max(turn_at)), 0)
      FROM open_jobs
$$;
COMMENT ON FUNCTION jobs_open IS
    'How many jobs are open, since when the oldest is, and when a worker last took one up.';

CREATE FUNCTION purge_job_errors(days integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH gone AS (
        DELETE FROM job_errors
         WHERE recorded_at < now() - make_interval(days => greatest(days, 1)) RETURNING 1)
    SELECT count(*) FROM gone
$$;

REVOKE ALL ON FUNCTION jobs_to_do, jobs_open, purge_job_errors FROM PUBLIC;
GRANT EXECUTE ON FUNCTION jobs_to_do, jobs_open, purge_job_errors TO annals_app, annals_projector;
