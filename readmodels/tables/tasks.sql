-- Tasks.
CREATE TABLE tasks (
    workspace_id   uuid        NOT NULL,
    id             uuid        NOT NULL,
    account_id     uuid        NOT NULL,
    title          text        NOT NULL,
    title_folded   text        NOT NULL,
    status         text        NOT NULL,
    due_date       date,
    due_date_key   date        NOT NULL GENERATED ALWAYS AS (coalesce(due_date, 'infinity')) STORED,
    description    text,
    assigned_to    uuid,
    custom_fields  jsonb       NOT NULL,
    custom_fields_key bigint   GENERATED ALWAYS AS (CASE WHEN custom_fields <> '{}' THEN
        jsonb_hash_extended(jsonb_path_query_array(custom_fields, '$.keyvalue().key'), 0) END) STORED,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    version        integer     NOT NULL
);

CREATE TABLE task_counts (
    workspace_id uuid NOT NULL,
    status text NOT NULL,
    assigned_to uuid,
    n bigint NOT NULL
);

-- indexes
ALTER TABLE tasks ADD PRIMARY KEY (workspace_id, id);
CREATE INDEX ON tasks (workspace_id, custom_fields_key) WHERE custom_fields_key IS NOT NULL;
ALTER TABLE task_counts ADD UNIQUE NULLS NOT DISTINCT (workspace_id, status, assigned_to);
CREATE INDEX ON tasks (workspace_id, created_at, id);
CREATE INDEX ON tasks (workspace_id, account_id, created_at, id);
CREATE INDEX ON tasks (workspace_id, assigned_to, created_at, id);
CREATE INDEX ON tasks (workspace_id, updated_at, id);
CREATE INDEX ON tasks (workspace_id, due_date_key, id);
CREATE INDEX ON tasks (workspace_id, status, created_at, id);
CREATE INDEX ON tasks USING gin (workspace_id, status, assigned_to);
CREATE INDEX ON tasks USING gin (workspace_id, public.letter_groups(title_folded));

-- functions
-- Row-level security keeps leaky operators such as @@ from using an index, so this function runs
-- as the tables' owner and checks the workspace.
CREATE OR REPLACE FUNCTION search_tasks(workspace uuid, pattern text) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1000 SET search_path = read, public, pg_temp AS $$
    SELECT id FROM tasks
     WHERE workspace_id = workspace AND workspace = public.current_workspace()
       AND public.letter_groups(title_folded) @@ public.letter_query(pattern)
       AND title_folded LIKE pattern
$$;
