-- The log: one row per event, in an order that is the same for every follower.
-- It is append-only: UPDATE, DELETE and TRUNCATE are refused to every role.

CREATE TABLE events (
    -- The sequence must not cache (CACHE 1, the default): announcements rely on its last value.
    position       bigint      PRIMARY KEY
                               GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME events_position_seq),
    workspace_id   uuid        NOT NULL,
    stream_id      uuid        NOT NULL,
    stream_version integer     NOT NULL CHECK (stream_version > 0),
    topic          text        NOT NULL,
    account_id     uuid,
    data           json        NOT NULL,
    metadata       json        NOT NULL,
    occurred_at    timestamptz NOT NULL,
    recorded_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (stream_id, stream_version)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

COMMENT ON TABLE events IS 'The history. Append-only; everything else can be made again from it.';
COMMENT ON COLUMN events.position IS 'Global order. Gaps are possible (rolled-back writers) and mean nothing.';
COMMENT ON COLUMN events.account_id IS 'The account that the entity hangs on; null for an account and for what hangs on none.';
COMMENT ON COLUMN events.occurred_at IS 'When it happened; an import may say so.';
COMMENT ON COLUMN events.recorded_at IS 'When the database wrote it down; nobody can set it.';

-- Finds the children of an account in the log itself, because a delete must see all of them.
CREATE INDEX events_account_children ON events (account_id)
    WHERE stream_version = 1 AND account_id IS NOT NULL;


-- Refusals ------------------------------------------------------------------------------------

CREATE FUNCTION refuse_change_of_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of events is refused: the log is append-only', TG_OP
        USING ERRCODE = 'restrict_violation',
              HINT = 'Undo and correction are new events that compensate earlier ones.';
END $$;

CREATE TRIGGER events_are_never_changed
    BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_history();
-- ALWAYS: session_replication_role = replica does not switch it off.
ALTER TABLE events ENABLE ALWAYS TRIGGER events_are_never_changed;


-- Order ---------------------------------------------------------------------------------------
-- Positions are assigned before the commit, so a later position can become visible first. Before a
-- statement takes positions, its transaction announces a bound: it will take no position at or below
-- it. The announcement is a shared advisory lock whose key contains the bound. PostgreSQL releases
-- the lock after the rows have become visible. A follower reads up to the lowest announced bound
-- (docs/adr/0002). Key: tag 65 in the top byte, the bound in the other seven.

CREATE FUNCTION announce_writer() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    bound     bigint := coalesce(pg_sequence_last_value('public.events_position_seq'), 0);
    announced text   := current_setting('annals.announced', true);
    ignored   text;
BEGIN
    -- The first announcement holds for the transaction; the same key again takes no room among the
    -- locks. Setting and lock both go with the savepoint that they were made in. Whoever puts
    -- something else into the setting can only announce too low, which is safe.
    IF announced <> '' THEN
        bound := greatest(0, least(bound, announced::bigint));
    ELSE
        ignored := set_config('annals.announced', bound::text, true);
    END IF;
    IF NOT pg_try_advisory_xact_lock_shared((65::bigint << 56) | bound) THEN
        RAISE EXCEPTION 'somebody keeps writers from announcing position %', bound
            USING ERRCODE = 'lock_not_available';
    END IF;
    IF current_setting('idle_in_transaction_session_timeout') <> '5s'
       OR current_setting('transaction_timeout', true) <> '15s'
       OR current_setting('annals.writer_limit_ms', true) <> '' THEN
        PERFORM limit_writer();
    END IF;
    RETURN NULL;
END $$;

-- A stalled writer holds followers back at its bound. The server disconnects it after 5 s of idling
-- and 15 s after its first event. A client may set lower limits, but not higher ones.
-- (PostgreSQL 17 introduced transaction_timeout; older servers rely on statement_timeout.)
CREATE FUNCTION limit_writer() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM lower_timeout('idle_in_transaction_session_timeout', 5000);
    IF current_setting('transaction_timeout', true) IS NOT NULL THEN
        PERFORM lower_timeout('transaction_timeout', 15000);
    END IF;
END $$;

-- The setting annals.writer_limit_ms lowers both limits, for tests; a higher value has no effect.
CREATE FUNCTION lower_timeout(setting text, most_ms integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    now_ms   bigint  := extract(epoch FROM current_setting(setting)::interval) * 1000;
    wanted   text    := nullif(current_setting('annals.writer_limit_ms', true), '');
    limit_ms integer := greatest(1, least(most_ms, wanted::integer));
    ignored  text;
BEGIN
    IF now_ms = 0 OR now_ms > limit_ms THEN
        -- Off first: a clock that runs already does not take a new time.
        ignored := set_config(setting, '0', true);
        ignored := set_config(setting, limit_ms::text, true);
    END IF;
END $$;

CREATE TRIGGER events_announce_writer
    BEFORE INSERT ON events
    FOR EACH STATEMENT EXECUTE FUNCTION announce_writer();
ALTER TABLE events ENABLE ALWAYS TRIGGER events_announce_writer;

-- The position up to which the next statement sees every event that will ever have a position there.
-- The order of the two reads matters: first the sequence, then the announcements. Reading the locks
-- is the expensive part (0.1 ms, 0.2 ms with 16 writers). A follower passes the position that it has
-- read as `known`; if no position was taken since, the locks are not read.
CREATE FUNCTION readable_position(known bigint DEFAULT 0) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    taken     bigint := coalesce(pg_sequence_last_value('public.events_position_seq'), 0);
    announced bigint;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'announcements of writers cannot be seen on a standby: follow the primary'
            USING ERRCODE = 'feature_not_supported';
    END IF;
    -- One snapshot for the whole transaction would be older than what this function finds.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the log is followed in read committed, not in %',
                        current_setting('transaction_isolation')
            USING ERRCODE = 'active_sql_transaction';
    END IF;
    IF taken <= known THEN
        RETURN taken;
    END IF;
    SELECT min(((classid::bigint & 16777215) << 32) | objid::bigint)
      INTO announced
      FROM pg_locks
     WHERE locktype = 'advisory' AND objsubid = 1 AND (classid::bigint >> 24) = 65
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
    RETURN least(taken, announced);
END $$;


-- Appending -----------------------------------------------------------------------------------
-- One round trip and one transaction set the workspace for row-level security and insert the rows.
-- One JSON argument costs client and server less than an array per column.

CREATE FUNCTION append_events(workspace uuid, batch json, meta json)
RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    ignored text := set_config('annals.workspace_id', workspace::text, true);
BEGIN
    RETURN QUERY
    INSERT INTO events (workspace_id, stream_id, stream_version, topic, account_id,
                        data, metadata, occurred_at)
    SELECT workspace, e.stream, e.version, e.topic, e.account, e.data, meta, e.occurred
      FROM json_to_recordset(batch)
        AS e(stream uuid, version integer, topic text, account uuid, data json,
             occurred timestamptz)
    RETURNING position;
END $$;


-- Permissions ---------------------------------------------------------------------------------
-- annals_app serves one workspace at a time; annals_projector reads all. Neither owns anything.

-- Plain SQL in one expression, so that the planner sees a constant and can use indexes.
CREATE FUNCTION current_workspace() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT nullif(current_setting('annals.workspace_id', true), '')::uuid $$;

ALTER TABLE events ENABLE ROW LEVEL SECURITY;
ALTER TABLE events FORCE ROW LEVEL SECURITY;

CREATE POLICY own_workspace ON events TO annals_app
    USING (workspace_id = current_workspace())
    WITH CHECK (workspace_id = current_workspace());
CREATE POLICY every_workspace ON events FOR SELECT TO annals_projector USING (true);

GRANT SELECT ON events TO annals_app, annals_projector;
-- No INSERT on position and recorded_at, because the database sets them. FORCE applies to the owner
-- as well, who has no policy for inserting. A backup (pg_dump) needs a superuser or a role with
-- BYPASSRLS; as any other role it fails instead of writing an empty file.
GRANT INSERT (workspace_id, stream_id, stream_version, topic, account_id, data, metadata, occurred_at)
    ON events TO annals_app;
-- SELECT allows reading the sequence's last value, but not taking values from it.
GRANT SELECT ON SEQUENCE events_position_seq TO annals_app, annals_projector;
