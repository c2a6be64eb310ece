-- Process managers: the position, state and commands of each, and what senders of text messages
-- share. Only annals_sender may write here, so reading history in another role (projectors,
-- rebuilds, the API) can cause nothing.

-- The sender follows the log of all workspaces and acts in one at a time. Its password is set
-- where roles are prepared (server/postgres/roles.py).
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'annals_sender') THEN
        CREATE ROLE annals_sender LOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- another database of this server was migrated at the same time
END $$;
DO $$ BEGIN
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO annals_sender', current_database());
END $$;

CREATE POLICY sender_reads ON events FOR SELECT TO annals_sender
    USING (current_workspace() IS NULL OR workspace_id = current_workspace());
CREATE POLICY sender_writes ON events FOR INSERT TO annals_sender
    WITH CHECK (workspace_id = current_workspace());
GRANT SELECT ON events TO annals_sender;
GRANT INSERT (workspace_id, stream_id, stream_version, topic, account_id, data, metadata, occurred_at)
    ON events TO annals_sender;
GRANT SELECT ON SEQUENCE events_position_seq TO annals_sender;
GRANT SELECT ON _yoyo_migration TO annals_sender;


-- The position of each process. It never decreases, so a process handles no event twice.
CREATE TABLE process_inboxes (
    process    text        PRIMARY KEY,
    position   bigint      NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
COMMENT ON COLUMN process_inboxes.position IS 'All events up to here were reacted to, exactly once.';

-- A new process starts at the end of the log. The migration sets this position, not the first start
-- of a sender, so that requests made in between are handled.
INSERT INTO process_inboxes (process, position)
SELECT name, coalesce(pg_sequence_last_value('public.events_position_seq'), 0)
  FROM (VALUES ('sms'), ('booking')) AS processes (name);

-- The state of a process for one key, until the process has finished with it.
CREATE TABLE process_states (
    workspace_id uuid NOT NULL,
    process      text NOT NULL,
    key          text NOT NULL,
    state        json NOT NULL,
    PRIMARY KEY (workspace_id, process, key)
);

-- The commands of processes. Each is executed once, however often it is tried.
CREATE TABLE process_commands (
    id              uuid        PRIMARY KEY,
    workspace_id    uuid        NOT NULL,
    process         text        NOT NULL,
    position        bigint      NOT NULL,
    name            text        NOT NULL,
    data            json        NOT NULL,
    metadata        json        NOT NULL,
    state           text        NOT NULL DEFAULT 'waiting'
                    CHECK (state IN ('waiting', 'done', 'refused', 'failed')),
    attempts        integer     NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    error           text        NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at        timestamptz
) WITH (fillfactor = 50);
COMMENT ON COLUMN process_commands.id IS 'Made from the event and the process: the same for the same.';
COMMENT ON COLUMN process_commands.position IS 'The event that caused it.';
COMMENT ON COLUMN process_commands.attempts IS 'Counted before each, so that a crash counts too.';
COMMENT ON COLUMN process_commands.next_attempt_at IS 'Nobody touches it before; who attempts it moves it on first.';

CREATE INDEX process_commands_waiting ON process_commands (next_attempt_at)
    WHERE state = 'waiting';
CREATE INDEX process_commands_ended ON process_commands (ended_at) WHERE state <> 'waiting';

-- Messages requested per day (UTC), for one lead and for the whole workspace (lead_id null).
CREATE TABLE sms_counts (
    workspace_id uuid    NOT NULL,
    day          date    NOT NULL,
    lead_id      uuid,
    n            integer NOT NULL,
    UNIQUE NULLS NOT DISTINCT (workspace_id, day, lead_id)
) WITH (fillfactor = 50);

-- Circuit breakers of external services. They belong to no workspace.
CREATE TABLE circuit_breakers (
    name     text             PRIMARY KEY,
    state    text             NOT NULL DEFAULT 'CLOSED'
             CHECK (state IN ('CLOSED', 'OPEN', 'HALF_OPEN')),
    failures timestamptz[]    NOT NULL DEFAULT '{}',
    wait_s   double precision NOT NULL DEFAULT 0,
    until    timestamptz,
    epoch    bigint           NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO circuit_breakers (name) VALUES ('sms');


-- Permissions ---------------------------------------------------------------------------------

ALTER TABLE process_states ENABLE ROW LEVEL SECURITY;
ALTER TABLE process_states FORCE ROW LEVEL SECURITY;
ALTER TABLE process_commands ENABLE ROW LEVEL SECURITY;
ALTER TABLE process_commands FORCE ROW LEVEL SECURITY;
ALTER TABLE sms_counts ENABLE ROW LEVEL SECURITY;
ALTER TABLE sms_counts FORCE ROW LEVEL SECURITY;

CREATE POLICY sender ON process_states TO annals_sender
    USING (current_workspace() IS NULL OR workspace_id = current_workspace());
CREATE POLICY sender ON process_commands TO annals_sender
    USING (current_workspace() IS NULL OR workspace_id = current_workspace());
CREATE POLICY owner_reads ON process_commands FOR SELECT TO CURRENT_USER USING (true);
CREATE POLICY own_workspace ON sms_counts TO annals_app, annals_sender
    USING (workspace_id = current_workspace())
    WITH CHECK (workspace_id = current_workspace());

GRANT SELECT, INSERT, UPDATE ON process_inboxes TO annals_sender;
GRANT SELECT, INSERT, UPDATE, DELETE ON process_states, process_commands TO annals_sender;
GRANT SELECT, INSERT, UPDATE, DELETE ON sms_counts TO annals_app, annals_sender;
GRANT SELECT, INSERT, UPDATE ON circuit_breakers TO annals_sender;
GRANT SELECT ON circuit_breakers, process_inboxes TO annals_app;

-- The commands that wait, over all workspaces: numbers only, no content.
CREATE FUNCTION waiting_commands() RETURNS TABLE (process text, n bigint, oldest_s double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT i.process, count(c.id),
           coalesce(extract(epoch FROM clock_timestamp() - min(c.created_at)), 0)::double precision
      FROM process_inboxes AS i
      LEFT JOIN process_commands AS c ON c.process = i.process AND c.state = 'waiting'
     GROUP BY i.process
$$;

-- The seconds for which the oldest unhandled event of these topics, in any workspace, has waited for
-- a process; 0 if none of the next events has one of these topics.
CREATE FUNCTION unread_by_process(asked_process text, topics text[]) RETURNS double precision
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT coalesce(extract(epoch FROM clock_timestamp() - min(next.recorded_at)), 0)::double precision
      FROM (SELECT e.topic, e.recorded_at
              FROM events AS e
             WHERE e.position > (SELECT position FROM process_inboxes WHERE process = asked_process)
             ORDER BY e.position LIMIT 10000) AS next
     WHERE next.topic = ANY(topics)
$$;
REVOKE EXECUTE ON FUNCTION waiting_commands, unread_by_process FROM PUBLIC;
GRANT EXECUTE ON FUNCTION waiting_commands, unread_by_process TO annals_app;
