-- The log: one row an event, in an order that every follower sees alike.
-- Only added to: UPDATE, DELETE and TRUNCATE are refused whoever asks.

CREATE SEQUENCE events_position_seq AS bigint;

CREATE TABLE events (
    position       bigint      PRIMARY KEY DEFAULT nextval('events_position_seq'),
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

ALTER SEQUENCE events_position_seq OWNED BY events.position;

COMMENT ON TABLE events IS 'The history. Append-only; everything else can be made again from it.';
COMMENT ON COLUMN events.position IS 'Global order. Gaps are possible (rolled-back writers) and mean nothing.';
COMMENT ON COLUMN events.account_id IS 'The account that the entity hangs on; null for an account and for what hangs on none.';
COMMENT ON COLUMN events.occurred_at IS 'When it happened; an import may say so.';
COMMENT ON COLUMN events.recorded_at IS 'When the database wrote it down; nobody can set it.';

-- What hangs on an account, found in the log itself: a delete must see all of it.
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
-- A sequence is asked before the commit, so a later position can become visible first. Before a
-- statement takes positions its transaction announces, by a shared advisory lock whose key carries
-- it, a bound below which it will take none. The lock goes when the transaction ends, after its rows
-- have become visible. A follower reads up to the least bound announced (readable_position).
-- Key: tag 65 in the top byte, the bound in the other seven.

CREATE FUNCTION announce_writer() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    bound bigint;
BEGIN
    SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END
      INTO bound FROM events_position_seq;
    PERFORM pg_advisory_xact_lock_shared((65::bigint << 56) | bound);
    -- A client that stalls with the announcement held is disconnected after 5 s.
    IF current_setting('idle_in_transaction_session_timeout') = '0' THEN
        PERFORM set_config('idle_in_transaction_session_timeout', '5000', true);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER events_announce_writer
    BEFORE INSERT ON events
    FOR EACH STATEMENT EXECUTE FUNCTION announce_writer();
ALTER TABLE events ENABLE ALWAYS TRIGGER events_announce_writer;

-- The position up to which every event that will ever be there can be seen by the next statement.
-- The order of the two reads matters: first the sequence, then the announcements.
CREATE FUNCTION readable_position() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    taken bigint;
    announced bigint;
BEGIN
    SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END
      INTO taken FROM events_position_seq;
    SELECT min(((classid::bigint & 16777215) << 32) | objid::bigint)
      INTO announced
      FROM pg_locks
     WHERE locktype = 'advisory' AND objsubid = 1 AND (classid::bigint >> 24) = 65
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
    RETURN least(taken, announced);
END $$;


-- Appending -----------------------------------------------------------------------------------
-- One round trip, one transaction: the workspace of the row-level policy and the rows.

CREATE FUNCTION append_events(
    workspace uuid, stream_ids uuid[], stream_versions integer[], topics text[],
    account_ids uuid[], datas json[], occurred timestamptz[], meta json
) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('annals.workspace_id', workspace::text, true);
    RETURN QUERY
    INSERT INTO events (workspace_id, stream_id, stream_version, topic, account_id,
                        data, metadata, occurred_at)
    SELECT workspace, e.stream_id, e.stream_version, e.topic, e.account_id,
           e.data, meta, e.occurred_at
      FROM unnest(stream_ids, stream_versions, topics, account_ids, datas, occurred)
        AS e(stream_id, stream_version, topic, account_id, data, occurred_at)
    RETURNING position;
END $$;


-- Who may do what -----------------------------------------------------------------------------
-- annals_app serves one workspace at a time; annals_projector follows all. Neither owns anything.

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
-- Not on position and recorded_at: those are the database's to give.
GRANT INSERT (workspace_id, stream_id, stream_version, topic, account_id, data, metadata, occurred_at)
    ON events TO annals_app;
GRANT USAGE, SELECT ON SEQUENCE events_position_seq TO annals_app;
GRANT SELECT ON SEQUENCE events_position_seq TO annals_projector;
