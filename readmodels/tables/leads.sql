-- Leads.
CREATE TABLE leads (
    workspace_id   uuid        NOT NULL,
    id             uuid        NOT NULL,
    name           text        NOT NULL,
    name_key       text        NOT NULL GENERATED ALWAYS AS (lower(name)) STORED,
    name_folded    text        NOT NULL,
    status         text        NOT NULL,
    status_changed_at timestamptz NOT NULL,
    company        text,
    company_folded text,
    email          text,
    email_folded   text,
    phone          text,
    source         text,
    value          numeric(18,2),
    next_action    text,
    next_action_date date,
    next_action_date_key date  NOT NULL
        GENERATED ALWAYS AS (coalesce(next_action_date, 'infinity')) STORED,
    notes          text,
    sms_opt_out    boolean     NOT NULL,
    converted_account_id uuid,
    converted_contact_id uuid,
    converted_opportunity_id uuid,
    assigned_to    uuid,
    custom_fields  jsonb       NOT NULL,
    custom_fields_key bigint   GENERATED ALWAYS AS (CASE WHEN custom_fields <> '{}' THEN
        jsonb_hash_extended(jsonb_path_query_array(custom_fields, '$.keyvalue().key'), 0) END) STORED,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    version        integer     NOT NULL
);

CREATE TABLE lead_counts (
    workspace_id uuid NOT NULL,
    status text NOT NULL,
    source text,
    assigned_to uuid,
    n bigint NOT NULL
);

-- indexes
ALTER TABLE leads ADD PRIMARY KEY (workspace_id, id);
CREATE INDEX ON leads (workspace_id, custom_fields_key) WHERE custom_fields_key IS NOT NULL;
ALTER TABLE lead_counts ADD UNIQUE NULLS NOT DISTINCT (workspace_id, status, source, assigned_to);
CREATE INDEX ON leads (workspace_id, created_at, id);
CREATE INDEX ON leads (workspace_id, assigned_to, created_at, id);
CREATE INDEX ON leads (workspace_id, updated_at, id);
CREATE INDEX ON leads (workspace_id, name_key, id);
CREATE INDEX ON leads (workspace_id, status, created_at, id);
CREATE INDEX ON leads (workspace_id, status_changed_at, id);
CREATE INDEX ON leads (workspace_id, next_action_date_key, id);
CREATE INDEX ON leads (workspace_id, source, created_at, id);
CREATE INDEX ON leads USING gin (workspace_id, status, source, assigned_to);
CREATE INDEX ON leads USING gin (workspace_id, public.letter_groups(
    name_folded || E'\n' || coalesce(company_folded, '') || E'\n' || coalesce(email_folded, '')));

-- functions
-- Finds leads by name, company or email. Row-level security keeps leaky operators such as @@
-- from using an index, so this runs as the tables' owner and checks the workspace.
CREATE OR REPLACE FUNCTION search_leads(workspace uuid, pattern text) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1000 SET search_path = read, public, pg_temp AS $$
    SELECT id FROM leads
     WHERE workspace_id = workspace AND workspace = public.current_workspace()
       AND public.letter_groups(
               name_folded || E'\n' || coalesce(company_folded, '') || E'\n'
               || coalesce(email_folded, '')) @@ public.letter_query(pattern)
       AND (name_folded LIKE pattern OR company_folded LIKE pattern OR email_folded LIKE pattern)
$$;
