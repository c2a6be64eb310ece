-- The audit trail: one narrow row per event; the event itself is in the log, at the position.
CREATE TABLE audit (
    workspace_id   uuid        NOT NULL,
    position       bigint      NOT NULL,
    entity_type    text        NOT NULL,
    entity_id      uuid        NOT NULL,
    action         text        NOT NULL,
    actor_type     text,
    actor_id       text,
    command_id     text,
    occurred_at    timestamptz NOT NULL,
    recorded_at    timestamptz NOT NULL
);

-- indexes
ALTER TABLE audit ADD PRIMARY KEY (workspace_id, position);
CREATE INDEX ON audit (workspace_id, entity_id, position);
CREATE INDEX ON audit (workspace_id, entity_type, action, position);
CREATE INDEX ON audit (workspace_id, actor_id, position);
CREATE INDEX ON audit (workspace_id, recorded_at);
CREATE INDEX ON audit (workspace_id, command_id, position) WHERE command_id IS NOT NULL;
