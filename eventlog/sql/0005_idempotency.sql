-- Answers remembered under an idempotency key, in partitions by time, so that old ones go at once.

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
-- On the parent only: no partition can be read around the policy. What was answered stays said.
GRANT SELECT, INSERT ON remembered_answers TO annals_app;


-- A partition holds 6 hours, named by the hour in UTC in which it begins. Those of the next 48 hours
-- are made ahead; those whose every row is older than the window are dropped. Returns how many.
-- Attaching lets writers go on. Dropping does not: it waits no longer than 200 ms for those that are
-- at work, for others queue behind it meanwhile; what cannot be dropped now is dropped next time.
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

-- One row; with its partition, should nobody have made it ahead.
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
