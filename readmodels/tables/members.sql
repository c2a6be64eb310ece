-- Members. A deleted member's row stays, for its name on assigned entities.
CREATE TABLE members (
    workspace_id   uuid        NOT NULL,
    id             uuid        NOT NULL,
    name           text        NOT NULL,
    name_key       text        NOT NULL GENERATED ALWAYS AS (lower(name)) STORED,
    name_folded    text        NOT NULL,
    email          text,
    title          text,
    is_deleted     boolean     NOT NULL,
    assigned_to    uuid,
    custom_fields  jsonb       NOT NULL,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    version        integer     NOT NULL
);

CREATE TABLE member_counts (
    workspace_id uuid NOT NULL,
    is_deleted boolean NOT NULL,
    n bigint NOT NULL
);

-- indexes
ALTER TABLE members ADD PRIMARY KEY (workspace_id, id);
ALTER TABLE member_counts ADD UNIQUE NULLS NOT DISTINCT (workspace_id, is_deleted);
CREATE INDEX ON members (workspace_id, created_at, id);
CREATE INDEX ON members (workspace_id, updated_at, id);
CREATE INDEX ON members (workspace_id, name_key, id);
CREATE INDEX ON members USING gin (workspace_id, public.letter_groups(name_folded));

-- functions
-- Row-level security keeps leaky operators such as @@ from using an index, so this function runs
-- as the tables' owner and checks the workspace.
CREATE OR REPLACE FUNCTION search_members(workspace uuid, pattern text) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1000 SET search_path = read, public, pg_temp AS $$
    SELECT id FROM members
     WHERE workspace_id = workspace AND workspace = public.current_workspace()
       AND public.letter_groups(name_folded) @@ public.letter_query(pattern)
       AND name_folded LIKE pattern
$$;
