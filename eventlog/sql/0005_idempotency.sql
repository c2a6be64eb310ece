-- Answers stored under an idempotency key, partitioned by time so that old ones are dropped quickly.

CREATE TABLE remembered_answers (
    workspace_id uuid        NOT NULL,
    caller       uuid        NOT NULL,
    key          text        NOT NULL CHECK (length(key) BETWEEN 1 AND 200),
    request      bytea       NOT NULL,
    answer       bytea       NOT NULL,
    answered_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (workspace_id, caller, key, answered_at)
) PARTITION BY RANGE (answered_at);
COMMENT ON COLUMN remembered_answers.caller IS 'The id of the API key by which the caller came in.';
COMMENT ON COLUMN remembered_answers.key IS 'As the client made it up; unique for the caller within the window.';
COMMENT ON COLUMN remembered_answers.request IS 'SHA-256 of what was asked for: another request must not use the key.';
COMMENT ON COLUMN remembered_answers.answer IS 'Sealed: only the caller''s own token opens it.';

ALTER TABLE remembered_answers ENABLE ROW LEVEL SECURITY;
ALTER TABLE remembered_answers FORCE ROW LEVEL SECURITY;
CREATE POLICY own_workspace ON remembered_answers TO annals_app
    USING (workspace_id = current_workspace())
    WITH CHECK (workspace_id = current_workspace());
-- Granted on the parent only, so the policy cannot be bypassed by reading a partition.
GRANT SELECT, INSERT ON remembered_answers TO annals_app;


-- A partition covers 6 hours and is named after the UTC hour in which it begins. The partitions of
-- the next 48 hours are created ahead; those with only rows older than the window are dropped.
-- Returns the numbers of both. Attaching a partition does not block writers. Dropping one does, so it
-- waits at most 200 ms for writers; a partition that cannot be dropped now is dropped next time.
CREATE FUNCTION keep_remembered_answers(window_s integer, OUT made integer, OUT dropped integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    width  CONSTANT interval    := interval '6 hours';
    ahead  CONSTANT interval    := interval '48 hours';
    origin CONSTANT timestamptz := timestamptz '2000-01-01 00:00:00+00';
    oldest CONSTANT timestamptz :=
        date_bin(width, now() - make_interval(secs => greatest(window_s, 60)), origin);
    starts timestamptz;
    part   text;
BEGIN
    made := 0;
    dropped := 0;
    PERFORM pg_advisory_xact_lock(75, 1);
    FOR starts IN SELECT generate_series(date_bin(width, now(), origin), now() + ahead, width) LOOP
        part := 'remembered_answers_' || to_char(starts AT TIME ZONE 'UTC', 'YYYYMMDDHH24');
        CONTINUE WHEN to_regclass(part) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE remembered_answers INCLUDING ALL)', part);
        EXECUTE format('ALTER TABLE remembered_answers ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       part, starts, starts + width);
        made := made + 1;
    END LOOP;
    FOR part IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
         WHERE inhparent = 'remembered_answers'::regclass
           AND relname < 'remembered_answers_' || to_char(oldest AT TIME ZONE 'UTC', 'YYYYMMDDHH24')
         ORDER BY relname
    LOOP
        BEGIN
            EXECUTE format('DROP TABLE %I', part);
            dropped := dropped + 1;
        EXCEPTION WHEN lock_not_available THEN
            RAISE DEBUG '% is in use and is dropped next time', part;
        END;
    END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION keep_remembered_answers FROM PUBLIC;
GRANT EXECUTE ON FUNCTION keep_remembered_answers TO annals_app;

-- Inserts one row, and creates its partition if it is missing.
CREATE FUNCTION remember_answer(
    workspace uuid, caller uuid, key text, request bytea, answer bytea, window_s integer
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO remembered_answers (workspace_id, caller, key, request, answer)
    VALUES (workspace, remember_answer.caller, remember_answer.key,
            remember_answer.request, remember_answer.answer);
EXCEPTION WHEN check_violation THEN
    PERFORM keep_remembered_answers(window_s);
    INSERT INTO remembered_answers (workspace_id, caller, key, request, answer)
    VALUES (workspace, remember_answer.caller, remember_answer.key,
            remember_answer.request, remember_answer.answer);
END $$;

SELECT keep_remembered_answers(86400);
