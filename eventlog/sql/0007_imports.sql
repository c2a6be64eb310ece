-- Imports: the uploaded files, the mapping of their columns, and the rows that failed.
-- The log has what an import recorded, and its job has the progress; these rows expire.

CREATE TABLE imports (
    workspace_id uuid        NOT NULL,
    id           uuid        NOT NULL,
    kind         text        NOT NULL,
    file_name    text        NOT NULL,
    options      json        NOT NULL,
    orders       json        NOT NULL DEFAULT '{}',
    columns      json,
    version      integer     NOT NULL DEFAULT 0,
    findings     integer     NOT NULL DEFAULT 0,
    handed_in_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (workspace_id, id)
) WITH (fillfactor = 70);
COMMENT ON COLUMN imports.kind IS 'The name of the collection: accounts, contacts, …';
COMMENT ON COLUMN imports.columns IS 'The columns of the file, each with examples; null while it is handed in.';
COMMENT ON COLUMN imports.orders IS 'How dates are written, by column: found out when it was started.';
COMMENT ON COLUMN imports.version IS 'Counts the changes of the options.';
COMMENT ON COLUMN imports.findings IS 'How many findings are kept.';
CREATE INDEX imports_by_time ON imports (handed_in_at);

-- The file itself, and each file with corrected rows: round 1, 2, …
CREATE TABLE import_files (
    workspace_id uuid        NOT NULL,
    import_id    uuid        NOT NULL,
    round        integer     NOT NULL CHECK (round > 0),
    size_bytes   bigint      NOT NULL DEFAULT 0,
    encoding     text        NOT NULL DEFAULT '',
    delimiter    text        NOT NULL DEFAULT '',
    columns      json,
    rows         integer     NOT NULL DEFAULT 0,
    job_id       uuid,
    PRIMARY KEY (workspace_id, import_id, round),
    FOREIGN KEY (workspace_id, import_id) REFERENCES imports ON DELETE CASCADE
);
COMMENT ON COLUMN import_files.job_id IS 'The job that takes its rows; null before it is started.';

-- Parts of a fixed length, so that any worker can continue reading at any byte.
CREATE TABLE import_parts (
    workspace_id uuid    NOT NULL,
    import_id    uuid    NOT NULL,
    round        integer NOT NULL,
    number       integer NOT NULL CHECK (number >= 0),
    content      bytea   NOT NULL,
    PRIMARY KEY (workspace_id, import_id, round, number),
    FOREIGN KEY (workspace_id, import_id, round) REFERENCES import_files ON DELETE CASCADE
);

-- Failed rows as they were in the file. A row that was corrected is deleted.
CREATE TABLE import_failures (
    workspace_id uuid    NOT NULL,
    import_id    uuid    NOT NULL,
    row          integer NOT NULL CHECK (row > 0),
    cells        json    NOT NULL,
    findings     json    NOT NULL,
    PRIMARY KEY (workspace_id, import_id, row),
    FOREIGN KEY (workspace_id, import_id) REFERENCES imports ON DELETE CASCADE
);
COMMENT ON COLUMN import_failures.row IS 'As a spreadsheet counts in the first file: the header is row 1.';

-- The issues of rows: why they failed, and how doubtful values were read.
CREATE TABLE import_findings (
    workspace_id uuid    NOT NULL,
    import_id    uuid    NOT NULL,
    number       bigint  GENERATED ALWAYS AS IDENTITY,
    finding      json    NOT NULL,
    PRIMARY KEY (workspace_id, import_id, number),
    FOREIGN KEY (workspace_id, import_id) REFERENCES imports ON DELETE CASCADE
);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['imports', 'import_files', 'import_parts', 'import_failures',
                                'import_findings'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY own_workspace ON %I TO annals_app
                        USING (workspace_id = current_workspace())
                        WITH CHECK (workspace_id = current_workspace())', name);
    END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE (file_name, options, orders, columns, version, findings), DELETE ON imports TO annals_app;
GRANT SELECT, INSERT, UPDATE (size_bytes, encoding, delimiter, columns, rows, job_id), DELETE
    ON import_files TO annals_app;
GRANT SELECT, INSERT ON import_parts, import_findings TO annals_app;
GRANT SELECT, INSERT, UPDATE (cells, findings), DELETE ON import_failures TO annals_app;
GRANT USAGE ON SEQUENCE import_findings_number_seq TO annals_app;

-- Deletes old imports of all workspaces.
CREATE POLICY owner_purges ON imports TO CURRENT_USER USING (true);

CREATE FUNCTION purge_imports(keep_s integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH gone AS (
        DELETE FROM imports
         WHERE handed_in_at < now() - make_interval(secs => greatest(keep_s, 3600)) RETURNING 1)
    SELECT count(*) FROM gone
$$;
COMMENT ON FUNCTION purge_imports IS
    'Drops imports that were handed in longer ago, with their files and failed rows.';
REVOKE ALL ON FUNCTION purge_imports FROM PUBLIC;
GRANT EXECUTE ON FUNCTION purge_imports TO annals_app;
