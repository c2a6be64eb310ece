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
