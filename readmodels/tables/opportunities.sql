-- Opportunities, and the pipeline by stage in opportunity_counts.
CREATE TABLE opportunities (
    workspace_id   uuid        NOT NULL,
    id             uuid        NOT NULL,
    account_id     uuid,
    name           text        NOT NULL,
    name_key       text        NOT NULL GENERATED ALWAYS AS (lower(name)) STORED,
    name_folded    text        NOT NULL,
    stage          text        NOT NULL,
    value          numeric(18,2),
    engaged_on     date,
    expected_close_on date,
    closed_on      date,
    assigned_to    uuid,
    custom_fields  jsonb       NOT NULL,
    custom_fields_key bigint   GENERATED ALWAYS AS (CASE WHEN custom_fields <> '{}' THEN
        jsonb_hash_extended(jsonb_path_query_array(custom_fields, '$.keyvalue().key'), 0) END) STORED,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    version        integer     NOT NULL
);

CREATE TABLE opportunity_counts (
    workspace_id uuid NOT NULL,
    stage text NOT NULL,
    assigned_to uuid,
    n bigint NOT NULL,
    value numeric NOT NULL
);

-- indexes
ALTER TABLE opportunities ADD PRIMARY KEY (workspace_id, id);
CREATE INDEX ON opportunities (workspace_id, custom_fields_key) WHERE custom_fields_key IS NOT NULL;
ALTER TABLE opportunity_counts ADD UNIQUE NULLS NOT DISTINCT (workspace_id, stage, assigned_to);
CREATE INDEX ON opportunities (workspace_id, created_at, id);
CREATE INDEX ON opportunities (workspace_id, account_id, created_at, id);
CREATE INDEX ON opportunities (workspace_id, assigned_to, created_at, id);
CREATE INDEX ON opportunities (workspace_id, updated_at, id);
CREATE INDEX ON opportunities (workspace_id, name_key, id);
CREATE INDEX ON opportunities (workspace_id, stage, created_at, id);
CREATE INDEX ON opportunities USING gin (workspace_id, stage, assigned_to);
CREATE INDEX ON opportunities USING gin (workspace_id, public.letter_groups(name_folded));

-- functions
-- Row-level security keeps leaky operators such as @@ from using an index, so this function runs
-- as the tables' owner and checks the workspace.
CREATE OR REPLACE FUNCTION search_opportunities(workspace uuid, pattern text) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1000 SET search_path = read, public, pg_temp AS $$
    SELECT id FROM opportunities
     WHERE workspace_id = workspace AND workspace = public.current_workspace()
       AND public.letter_groups(name_folded) @@ public.letter_query(pattern)
       AND name_folded LIKE pattern
$$;
