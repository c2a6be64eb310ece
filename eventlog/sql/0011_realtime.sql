-- One reader of the log for all who follow it over HTTP (docs/adr/0016), under the API's own role: row-level
-- security holds for what events say. What is told of all workspaces is positions, and in which
-- workspaces there is something new.

CREATE FUNCTION last_event_position() RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    readable bigint := readable_position();
BEGIN
    RETURN coalesce((SELECT max(position) FROM events WHERE position <= readable), 0);
END $$;
COMMENT ON FUNCTION last_event_position IS
    'Of the last event that can be read; no position beyond it is ever told to whoever keeps places.';

-- Each statement of the function sees what was committed before it. Where the positions after `known`
-- are all taken by events that can be seen, nothing can come in between any more, and nobody has to
-- look through the locks, which costs more than the rest. Only where one is missing, a writer may
-- still have it.
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

-- In one round trip: how far the log was read by it, and the events of these workspaces among the
-- next ones. Runs as its caller; each workspace is read within its own row-level policy.
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
