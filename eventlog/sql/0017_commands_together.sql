-- One event by scalar arguments, and the events of commands that are committed together.

-- As append_events, for a single event: the server builds and reads no JSON of a batch.
CREATE FUNCTION append_event(
    workspace uuid, stream uuid, version integer, topic text, account uuid, data json, meta json,
    occurred timestamptz
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    ignored text := set_config('annals.workspace_id', workspace::text, true);
    taken   bigint;
BEGIN
    INSERT INTO events (workspace_id, stream_id, stream_version, topic, account_id,
                        data, metadata, occurred_at)
    VALUES (workspace, stream, version, topic, account, data, meta, occurred)
    RETURNING position INTO taken;
    RETURN taken;
END $$;

-- As append_events_each, for several workspaces: an array of events for each of them. The positions
-- have the same order.
CREATE FUNCTION append_events_together(workspaces uuid[], batches json)
RETURNS SETOF bigint LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. cardinality(workspaces) LOOP
        RETURN QUERY SELECT append_events_each(workspaces[i], batches -> (i - 1));
    END LOOP;
END $$;

-- The first events of each stream from a version on, `most` at the most, with the number of the stream
-- in the arrays. Each stream is read by a query of its own after its workspace was entered, so
-- row-level security holds for each of them: of two workspaces that name the same stream, one gets it.
CREATE FUNCTION read_streams(
    workspaces uuid[], streams uuid[], versions integer[], most integer
) RETURNS TABLE (
    number integer, stream_id uuid, stream_version integer, topic text, data json,
    occurred_at timestamptz, account_id uuid
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    entered uuid;
    ignored text;
BEGIN
    FOR i IN 1 .. cardinality(streams) LOOP
        IF entered IS DISTINCT FROM workspaces[i] THEN
            entered := workspaces[i];
            ignored := set_config('annals.workspace_id', entered::text, true);
        END IF;
        RETURN QUERY
        SELECT i, e.stream_id, e.stream_version, e.topic, e.data, e.occurred_at, e.account_id
          FROM events AS e
         WHERE e.workspace_id = entered AND e.stream_id = streams[i]
           AND e.stream_version >= versions[i]
         ORDER BY e.stream_version LIMIT most;
    END LOOP;
END $$;

-- The newest answer of each key within the window, null if there is none; one row for each key.
CREATE FUNCTION find_answers(
    workspaces uuid[], callers uuid[], keys text[], window_s integer
) RETURNS TABLE (request bytea, answer bytea) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    ignored text;
BEGIN
    FOR i IN 1 .. cardinality(keys) LOOP
        ignored := set_config('annals.workspace_id', workspaces[i]::text, true);
        RETURN QUERY
        SELECT found.request, found.answer
          FROM (SELECT) AS always
          LEFT JOIN LATERAL (
               SELECT a.request, a.answer FROM remembered_answers AS a
                WHERE a.workspace_id = workspaces[i] AND a.caller = callers[i] AND a.key = keys[i]
                  AND a.answered_at > now() - make_interval(secs => window_s)
                ORDER BY a.answered_at DESC LIMIT 1) AS found ON true;
    END LOOP;
END $$;

-- As remember_answer, for each key.
CREATE FUNCTION remember_answers(
    workspaces uuid[], callers uuid[], keys text[], requests bytea[], answers bytea[],
    window_s integer
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    ignored text;
BEGIN
    FOR i IN 1 .. cardinality(keys) LOOP
        ignored := set_config('annals.workspace_id', workspaces[i]::text, true);
        PERFORM remember_answer(workspaces[i], callers[i], keys[i], requests[i], answers[i], window_s);
    END LOOP;
END $$;

REVOKE ALL ON FUNCTION append_event, append_events_together, read_streams, find_answers,
    remember_answers FROM PUBLIC;
GRANT EXECUTE ON FUNCTION append_event TO annals_app, annals_sender;
GRANT EXECUTE ON FUNCTION append_events_together, read_streams, find_answers, remember_answers
    TO annals_app;
