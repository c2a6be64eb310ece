-- Workspaces, and their API keys with the hash of each secret.
CREATE TABLE workspaces (
    workspace_id   uuid        NOT NULL,
    id             uuid        NOT NULL,
    name           text        NOT NULL,
    assigned_to    uuid,
    custom_fields  jsonb       NOT NULL,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    version        integer     NOT NULL
);

CREATE TABLE api_keys (
    workspace_id   uuid        NOT NULL,
    id             uuid        NOT NULL,
    name           text        NOT NULL,
    role           text        NOT NULL,
    member_id      uuid,
    expires_at     timestamptz,
    secret_sha256  text        NOT NULL,
    assigned_to    uuid,
    custom_fields  jsonb       NOT NULL,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    version        integer     NOT NULL
);

-- indexes
ALTER TABLE workspaces ADD PRIMARY KEY (workspace_id, id);
ALTER TABLE api_keys ADD PRIMARY KEY (workspace_id, id);
CREATE INDEX ON api_keys (id);

-- functions
-- Authentication knows no workspace yet, so this finds a key by id in any workspace.
CREATE OR REPLACE FUNCTION find_api_key(key_id uuid)
RETURNS TABLE (workspace_id uuid, name text, role text, member_id uuid, expires_at timestamptz,
               secret_sha256 text)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1 SET search_path = read, public, pg_temp AS $$
    SELECT k.workspace_id, k.name, k.role, k.member_id, k.expires_at, k.secret_sha256
      FROM api_keys k WHERE k.id = key_id
$$;
