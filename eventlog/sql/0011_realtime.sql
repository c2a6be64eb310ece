-- One reader of the log serves all subscribers of a process (docs/adr/0016), in the API's role, so
-- row-level security covers the content of events. Of other workspaces it reveals only positions and
-- which of them have new events.

CREATE FUNCTION last_event_position() RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    readable bigint := readable_position();
BEGIN
    RETURN coalesce((SELECT max(position) FROM events WHERE position <= readable), 0);
END $$;
COMMENT ON FUNCTION last_event_position IS
    'Of the last event that can be read; no position beyond it is ever told to whoever keeps places.';

-- Each statement of the function sees what was committed before it. If visible events have all
-- positions after `known`, no event can still appear in between, and the locks need not be read,
-- which would cost more than the rest. If a position is missing, a writer may still hold it.
CREATE FUNCTION workspaces_with_news(known bigint, most integer, OUT upto bigint, OUT workspaces uuid[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    seen     bigint;
    readable bigint;
BEGIN
    SELECT count(*), max(position), array_agg(DISTINCT workspace_id) INTO seen, upto, workspaces
      FROM (SELECT position, workspace_id FROM events
             WHERE position > known ORDER BY position LIMIT most) AS news;
    IF upto - known > seen THEN
        readable := readable_position(known);
        SELECT max(position), array_agg(DISTINCT workspace_id) INTO upto, workspaces
          FROM (SELECT position, workspace_id FROM events
                 WHERE position > known AND position <= readable
                 ORDER BY position LIMIT most) AS news;
    END IF;
    upto := coalesce(upto, known);
    workspaces := coalesce(workspaces, '{}');
END $$;
COMMENT ON FUNCTION workspaces_with_news IS
    'Where the next events are, `most` at the most: their last position and their workspaces.';

REVOKE EXECUTE ON FUNCTION last_event_position, workspaces_with_news FROM PUBLIC;
GRANT EXECUTE ON FUNCTION last_event_position, workspaces_with_news TO annals_app;

-- Returns, in one round trip, the position up to which the log was read and the next events of these
-- workspaces. Runs as its caller; row-level security applies to each workspace.
CREATE FUNCTION news_of(followed uuid[], known bigint, most integer)
RETURNS TABLE (upto bigint, event events) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    news      record;
    workspace uuid;
    ignored   text;
BEGIN
    SELECT * INTO news FROM workspaces_with_news(known, most);
    FOREACH workspace IN ARRAY news.workspaces LOOP
        CONTINUE WHEN workspace <> ALL (followed);
        ignored := set_config('annals.workspace_id', workspace::text, true);
        RETURN QUERY
        SELECT news.upto, e FROM events AS e
         WHERE e.workspace_id = workspace AND e.position > known AND e.position <= news.upto;
    END LOOP;
    RETURN QUERY SELECT news.upto, NULL::events;
END $$;
COMMENT ON FUNCTION news_of IS 'The last row has no event: it tells how far the log was read.';
