-- What is known of each projection: the version that its rows were made by, and how far it has read.

CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE EXTENSION IF NOT EXISTS btree_gin;

CREATE TABLE projections (
    name       text        PRIMARY KEY,
    version    text        NOT NULL,
    position   bigint      NOT NULL DEFAULT 0,
    state      text        NOT NULL DEFAULT 'live',
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

COMMENT ON COLUMN projections.position IS 'All events up to here are in the rows, exactly once.';
COMMENT ON COLUMN projections.version IS 'Digest of code and table definition by which the rows were made.';

GRANT SELECT ON projections TO annals_app;
GRANT SELECT, UPDATE ON projections TO annals_projector;

-- How far behind a reader at `since` is: events (counted up to `most`) and seconds since the first
-- of them was recorded. It tells numbers and nothing of what the events say, so it looks at all
-- workspaces.
CREATE FUNCTION log_behind(since bigint, upto bigint, most integer)
RETURNS TABLE (n bigint, seconds double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public AS $$
    SELECT (SELECT count(*) FROM (
                SELECT FROM events WHERE position > since AND position <= upto LIMIT most) AS behind),
           (SELECT extract(epoch FROM clock_timestamp() - recorded_at)::double precision
              FROM events WHERE position > since AND position <= upto ORDER BY position LIMIT 1)
$$;

CREATE POLICY owner_reads ON events FOR SELECT TO CURRENT_USER USING (true);
