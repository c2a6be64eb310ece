-- Appends events with different metadata in one statement: each event of an undo names the event
-- that it compensates.

CREATE FUNCTION append_events_each(workspace uuid, batch json)
RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    ignored text := set_config('annals.workspace_id', workspace::text, true);
BEGIN
    RETURN QUERY
    INSERT INTO events (workspace_id, stream_id, stream_version, topic, account_id,
                        data, metadata, occurred_at)
    SELECT workspace, e.stream, e.version, e.topic, e.account, e.data, e.meta, e.occurred
      FROM json_to_recordset(batch)
        AS e(stream uuid, version integer, topic text, account uuid, data json, meta json,
             occurred timestamptz)
    RETURNING position;
END $$;
COMMENT ON FUNCTION append_events_each IS
    'As append_events, with the metadata of each event in `meta`.';
