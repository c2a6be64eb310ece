-- Jobs: their progress and how they ended; `errors` has the first errors by item number.
CREATE TABLE jobs (
    workspace_id   uuid        NOT NULL,
    id             uuid        NOT NULL,
    kind           text        NOT NULL,
    status         text        NOT NULL,
    parameters     jsonb       NOT NULL,
    total          integer,
    processed      integer     NOT NULL,
    succeeded      integer     NOT NULL,
    failed         integer     NOT NULL,
    counts         jsonb       NOT NULL,
    errors         jsonb       NOT NULL,
    errors_total   integer     NOT NULL,
    failure        jsonb,
    command_id     text,
    requested_by   jsonb       NOT NULL,
    created_at     timestamptz NOT NULL,
    started_at     timestamptz,
    ended_at       timestamptz,
    updated_at     timestamptz NOT NULL,
    version        integer     NOT NULL
);

-- indexes
ALTER TABLE jobs ADD PRIMARY KEY (workspace_id, id);
CREATE INDEX ON jobs (workspace_id, created_at, id);
CREATE INDEX ON jobs (workspace_id, status, created_at, id);
CREATE INDEX ON jobs (workspace_id, kind, created_at, id);
