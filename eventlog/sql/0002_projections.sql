-- The state of projections: checkpoint, coverage ledger, parked entities and rebuilds.
-- The read tables themselves belong to the projector's role (schema read).

CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE EXTENSION IF NOT EXISTS btree_gin;

CREATE SCHEMA read;
GRANT USAGE ON SCHEMA read TO annals_app;
GRANT USAGE, CREATE ON SCHEMA read TO annals_projector;
DO $$ BEGIN
    EXECUTE format('GRANT CREATE ON DATABASE %I TO annals_projector', current_database());
END $$;

CREATE TABLE projections (
    name           text        PRIMARY KEY,
    version        text        NOT NULL,
    wanted_version text        NOT NULL,
    position       bigint      NOT NULL DEFAULT 0,
    epoch          bigint      NOT NULL DEFAULT 0,
    state          text        NOT NULL DEFAULT 'live' CHECK (state IN ('live', 'handover')),
    holder         text,
    updated_at     timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

COMMENT ON COLUMN projections.version IS 'Digest of code and table definition by which the rows were made.';
COMMENT ON COLUMN projections.wanted_version IS 'The same of the code that runs; where they differ, rebuild.';
COMMENT ON COLUMN projections.position IS 'All events up to here are in the rows, exactly once.';
COMMENT ON COLUMN projections.epoch IS 'Counts what changes the work from outside: a retry, a swap.';
COMMENT ON COLUMN projections.state IS 'handover: whoever works on it is asked to let go, a swap is at hand.';

-- The coverage ledger: count and digests of the events consumed, by range of positions.
CREATE TABLE projection_coverage (
    projection text    NOT NULL,
    bucket     bigint  NOT NULL,
    n          bigint  NOT NULL,
    digest     numeric NOT NULL,
    weighted   numeric NOT NULL,
    PRIMARY KEY (projection, bucket)
) WITH (fillfactor = 50);

COMMENT ON COLUMN projection_coverage.bucket IS 'Range of 1,000 positions: position / 1000.';
COMMENT ON COLUMN projection_coverage.digest IS 'Sum of the digests of the events.';
COMMENT ON COLUMN projection_coverage.weighted IS 'Sum of digest times (position % 1000 + 1): locates one fault.';

-- Entities whose events a projector could not process, by position. The events stay in the log.
CREATE TABLE projection_parked (
    projection   text        NOT NULL,
    workspace_id uuid        NOT NULL,
    entity_id    uuid        NOT NULL,
    position     bigint      NOT NULL,
    events       bigint      NOT NULL,
    error        text        NOT NULL,
    parked_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (projection, workspace_id, entity_id)
);

COMMENT ON COLUMN projection_parked.position IS 'The first event that is not in the rows.';

CREATE TABLE projection_rebuilds (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    projection  text        NOT NULL,
    version     text        NOT NULL,
    state       text        NOT NULL,
    total       bigint      NOT NULL DEFAULT 0,
    processed   bigint      NOT NULL DEFAULT 0,
    position    bigint      NOT NULL DEFAULT 0,
    message     text        NOT NULL DEFAULT '',
    requested_by text       NOT NULL DEFAULT '',
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at    timestamptz
);

GRANT SELECT ON projections, projection_coverage, projection_parked, projection_rebuilds
    TO annals_app;
GRANT SELECT, INSERT, UPDATE, DELETE
    ON projections, projection_coverage, projection_parked, projection_rebuilds
    TO annals_projector;

-- The lag of a reader at `since`: the number of events (counted up to `most`), and the seconds since
-- the first of them was recorded. It covers all workspaces, because it reveals only numbers.
CREATE FUNCTION log_behind(since bigint, upto bigint, most integer)
RETURNS TABLE (n bigint, seconds double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public AS $$
    SELECT (SELECT count(*) FROM (
                SELECT FROM events WHERE position > since AND position <= upto LIMIT most) AS behind),
           (SELECT extract(epoch FROM clock_timestamp() - recorded_at)::double precision
              FROM events WHERE position > since AND position <= upto ORDER BY position LIMIT 1)
$$;

CREATE POLICY owner_reads ON events FOR SELECT TO CURRENT_USER USING (true);
