-- Each role has only the rights that its processes use (docs/database-roles.md).
-- A function that runs with its owner's rights must not find objects that its caller has made:
-- temporary objects are looked for first unless pg_temp is named, so it is named last. The roles of
-- processes cannot create temporary objects any more, and only named roles may call a function.

DO $$ BEGIN
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC, annals_app, annals_projector, annals_sender',
                   current_database());
    -- "$user" would look into a schema with the name of the role, and the projector creates schemas.
    EXECUTE format('ALTER DATABASE %I SET search_path = public', current_database());
END $$;

ALTER FUNCTION log_behind(bigint, bigint, integer) SET search_path = public, pg_temp;

ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- announce_writer and refuse_change_of_history are called by triggers only, which needs no right.
REVOKE EXECUTE ON FUNCTION
    announce_writer, append_events, append_events_each, claim_times, current_workspace, limit_writer,
    log_behind, lower_timeout, news_of, parked_entities, readable_position, refuse_change_of_history,
    remember_answer
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION current_workspace, readable_position
    TO annals_app, annals_projector, annals_sender;
-- A trigger on events calls the last two with the rights of the writer.
GRANT EXECUTE ON FUNCTION append_events, append_events_each, limit_writer, lower_timeout
    TO annals_app, annals_sender;
GRANT EXECUTE ON FUNCTION claim_times, news_of, remember_answer TO annals_app;
GRANT EXECUTE ON FUNCTION log_behind, parked_entities TO annals_app, annals_projector;


-- What the API's role deletes, it deletes by functions that decide whether it may.

-- A job is no longer open once the log has its end.
CREATE FUNCTION close_job(workspace uuid, job uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF workspace IS DISTINCT FROM current_workspace() OR NOT EXISTS (
        SELECT FROM events AS e
         WHERE e.stream_id = job AND e.workspace_id = workspace
           AND e.topic IN ('job.completed', 'job.failed', 'job.cancelled')) THEN
        RETURN false;
    END IF;
    DELETE FROM job_items AS i WHERE i.workspace_id = workspace AND i.job_id = job;
    DELETE FROM open_jobs AS o WHERE o.workspace_id = workspace AND o.job_id = job;
    RETURN true;
END $$;
COMMENT ON FUNCTION close_job IS 'Whether the log has the end of the job; then it is not open any more.';

-- An import is deleted with its files and failed rows, unless a job works on it.
CREATE FUNCTION delete_import(workspace uuid, import uuid, is_unfinished boolean) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF workspace IS DISTINCT FROM current_workspace() OR EXISTS (
        SELECT FROM import_files AS f
          JOIN open_jobs AS o ON o.workspace_id = f.workspace_id AND o.job_id = f.job_id
         WHERE f.workspace_id = workspace AND f.import_id = import) THEN
        RETURN false;
    END IF;
    DELETE FROM imports AS i
     WHERE i.workspace_id = workspace AND i.id = import
       AND (i.columns IS NULL OR NOT is_unfinished);
    RETURN FOUND;
END $$;
COMMENT ON FUNCTION delete_import IS 'True if it was deleted; an unfinished one has no columns yet.';

-- Counters of messages: counted up one by one, and deleted when their day is over.
CREATE FUNCTION count_sms(workspace uuid, day_counted date, lead uuid) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    counted integer;
BEGIN
    IF workspace IS DISTINCT FROM current_workspace() THEN
        RAISE EXCEPTION 'messages of another workspace are not counted'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF lead IS NULL THEN
        DELETE FROM sms_counts AS c
         WHERE c.workspace_id = workspace
           AND c.day < least(day_counted, (now() AT TIME ZONE 'UTC')::date);
    END IF;
    INSERT INTO sms_counts AS c (workspace_id, day, lead_id, n)
    VALUES (workspace, day_counted, lead, 1)
        ON CONFLICT (workspace_id, day, lead_id) DO UPDATE SET n = c.n + 1
    RETURNING c.n INTO counted;
    RETURN counted;
END $$;
COMMENT ON FUNCTION count_sms IS 'The messages of this day so far, this one included; lead null counts the workspace.';

-- Row-level security is forced on the owner as well, whose rights these functions have.
CREATE POLICY owner_closes ON job_items TO CURRENT_USER USING (true);
CREATE POLICY owner_reads ON import_files FOR SELECT TO CURRENT_USER USING (true);
CREATE POLICY owner_counts ON sms_counts TO CURRENT_USER USING (true) WITH CHECK (true);

REVOKE EXECUTE ON FUNCTION close_job, delete_import, count_sms FROM PUBLIC;
GRANT EXECUTE ON FUNCTION close_job, delete_import TO annals_app;
GRANT EXECUTE ON FUNCTION count_sms TO annals_app, annals_sender;
REVOKE DELETE ON open_jobs, job_items, imports FROM annals_app;
REVOKE INSERT, UPDATE, DELETE ON sms_counts FROM annals_app, annals_sender;
