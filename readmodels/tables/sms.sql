-- Text messages and the status of their delivery.
CREATE TABLE sms_messages (
    workspace_id   uuid        NOT NULL,
    id             uuid        NOT NULL,
    lead_id        uuid        NOT NULL,
    phone          text        NOT NULL,
    message        text        NOT NULL,
    template_id    text,
    status         text        NOT NULL,
    gateway_id     text,
    error          text,
    error_code     text,
    assigned_to    uuid,
    custom_fields  jsonb       NOT NULL,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    version        integer     NOT NULL
);

-- indexes
ALTER TABLE sms_messages ADD PRIMARY KEY (workspace_id, id);
CREATE INDEX ON sms_messages (workspace_id, lead_id, created_at, id);
CREATE INDEX ON sms_messages (workspace_id) WHERE status = 'pending';
