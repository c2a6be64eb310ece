-- Accounts, with the counts of the entities that belong to each.
CREATE TABLE accounts (
    workspace_id   uuid        NOT NULL,
    id             uuid        NOT NULL,
    company        text        NOT NULL,
    company_key    text        NOT NULL GENERATED ALWAYS AS (lower(company)) STORED,
    company_folded text        NOT NULL,
    type           text        NOT NULL,
    status         text        NOT NULL,
    priority       text        NOT NULL,
    next_action    text,
    next_action_date date,
    check_size     numeric(18,2),
    deal_value     numeric(18,2),
    opportunity    text,
    contact_count  integer     NOT NULL,
    task_count     integer     NOT NULL,
    meeting_count  integer     NOT NULL,
    note_count     integer     NOT NULL,
    open_opportunity_count integer NOT NULL,
    assigned_to    uuid,
    custom_fields  jsonb       NOT NULL,
    custom_fields_key bigint   GENERATED ALWAYS AS (CASE WHEN custom_fields <> '{}' THEN
        jsonb_hash_extended(jsonb_path_query_array(custom_fields, '$.keyvalue().key'), 0) END) STORED,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    version        integer     NOT NULL,
    contact_names_folded jsonb NOT NULL,
    -- What a search looks at: company and names of contacts, a line each. Ends of lines and the
    -- characters that JSON escapes are replaced, as `joinable` does (domain/shared/text.py).
    texts          text        NOT NULL GENERATED ALWAYS AS (
        translate(company_folded, U&'"\005C[]\0009\000A\000D',
                  U&'\E000\E001\E002\E003\E004\E005\E006') || E'\n'
        || btrim(replace(jsonb_path_query_array(contact_names_folded, '$.*')::text, '", "', E'\n'),
                 '["]')) STORED
) WITH (fillfactor = 85);

CREATE TABLE account_counts (
    workspace_id uuid NOT NULL,
    type text NOT NULL,
    status text NOT NULL,
    priority text NOT NULL,
    assigned_to uuid,
    n bigint NOT NULL
);

-- The number of all accounts: account_counts may have thousands of rows to be added up.
CREATE TABLE account_totals (
    workspace_id uuid NOT NULL,
    n bigint NOT NULL
);

-- indexes
ALTER TABLE accounts ADD PRIMARY KEY (workspace_id, id);
CREATE INDEX ON accounts (workspace_id, custom_fields_key) WHERE custom_fields_key IS NOT NULL;
ALTER TABLE account_counts
    ADD UNIQUE NULLS NOT DISTINCT (workspace_id, type, status, priority, assigned_to);
ALTER TABLE account_totals ADD PRIMARY KEY (workspace_id);
CREATE INDEX ON accounts (workspace_id, created_at, id);
CREATE INDEX ON accounts (workspace_id, updated_at, id);
CREATE INDEX ON accounts (workspace_id, company_key, id);
CREATE INDEX ON accounts (workspace_id, type, created_at, id);
CREATE INDEX ON accounts (workspace_id, status, created_at, id);
CREATE INDEX ON accounts (workspace_id, assigned_to, created_at, id);
CREATE INDEX ON accounts USING gin (workspace_id, type, status, priority, assigned_to);
CREATE INDEX ON accounts USING gin (workspace_id, public.letter_groups(texts));

-- functions
-- Finds accounts by company or by the name of a contact. Row-level security keeps leaky operators
-- such as @@ from using an index, so this runs as the tables' owner and checks the workspace.
CREATE OR REPLACE FUNCTION search_accounts(workspace uuid, pattern text) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1000 SET search_path = read, public, pg_temp AS $$
    SELECT id FROM accounts
     WHERE workspace_id = workspace AND workspace = public.current_workspace()
       AND public.letter_groups(texts) @@ public.letter_query(pattern)
       AND texts LIKE pattern
$$;

-- Earlier versions had two indexes.
DROP FUNCTION IF EXISTS search_accounts_by_letters(uuid, text);
