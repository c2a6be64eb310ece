-- Operating projections: jobs requested over HTTP, statistics of projectors, and differences between
-- ledger and log. Health, metrics and alarms are computed from these tables alone.

ALTER TABLE projection_rebuilds
    ADD COLUMN kind                  text NOT NULL DEFAULT 'rebuild'
               CHECK (kind IN ('rebuild', 'rollback', 'retry')),
    ADD COLUMN throttle_events_per_s double precision CHECK (throttle_events_per_s >= 1),
    ADD COLUMN summary               text NOT NULL DEFAULT '',
    ADD COLUMN requested_at          timestamptz NOT NULL DEFAULT now();

COMMENT ON COLUMN projection_rebuilds.message IS 'How it ended, rows of any workspace included: for operators.';
COMMENT ON COLUMN projection_rebuilds.summary IS 'How it ended in words that tell nothing of any row: for every admin.';

CREATE INDEX projection_rebuilds_open ON projection_rebuilds (projection) WHERE ended_at IS NULL;
CREATE INDEX projection_rebuilds_by_projection ON projection_rebuilds (projection, id);

-- The API's role may request and cancel jobs; the projector's role runs them.

CREATE FUNCTION request_projection_job(
    asked_projection text, asked_kind text, asked_version text, throttle double precision,
    asked_by text
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    job bigint;
BEGIN
    -- Of two concurrent requests, the second finds the job of the first.
    PERFORM pg_advisory_xact_lock(75, hashtext(asked_projection));
    IF EXISTS (SELECT FROM projection_rebuilds
                WHERE projection = asked_projection AND ended_at IS NULL) THEN
        RETURN NULL;
    END IF;
    INSERT INTO projection_rebuilds
           (projection, kind, version, state, throttle_events_per_s, requested_by)
    VALUES (asked_projection, asked_kind, asked_version, 'requested', throttle, asked_by)
    RETURNING id INTO job;
    RETURN job;
END $$;
COMMENT ON FUNCTION request_projection_job IS 'Its id; null where something is under way already.';

CREATE FUNCTION cancel_projection_job(asked_projection text, job bigint)
RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE projection_rebuilds SET state = 'cancelling'
     WHERE id = job AND projection = asked_projection AND ended_at IS NULL
    RETURNING true
$$;
COMMENT ON FUNCTION cancel_projection_job IS 'True where it was asked to stop; null where it had ended.';

REVOKE ALL ON FUNCTION request_projection_job, cancel_projection_job FROM PUBLIC;
GRANT EXECUTE ON FUNCTION request_projection_job, cancel_projection_job
    TO annals_app, annals_projector;

-- Only their workspace may see which entities are parked; everyone may see how many.

ALTER TABLE projection_parked ENABLE ROW LEVEL SECURITY;
ALTER TABLE projection_parked FORCE ROW LEVEL SECURITY;
CREATE POLICY own_workspace ON projection_parked FOR SELECT TO annals_app
    USING (workspace_id = current_workspace());
CREATE POLICY every_workspace ON projection_parked TO annals_projector
    USING (true) WITH CHECK (true);
CREATE POLICY owner_reads ON projection_parked FOR SELECT TO CURRENT_USER USING (true);

CREATE FUNCTION parked_entities(asked_projection text) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT count(*) FROM projection_parked WHERE projection = asked_projection
$$;

-- Batches applied so far, over all projectors and restarts: counters for metrics.
CREATE TABLE projector_work (
    source             text   PRIMARY KEY,
    batches            bigint NOT NULL,
    events             bigint NOT NULL,
    seconds            double precision NOT NULL,
    batches_by_events  bigint[] NOT NULL,
    batches_by_seconds bigint[] NOT NULL
) WITH (fillfactor = 50);
COMMENT ON COLUMN projector_work.source IS 'log or kafka.';
COMMENT ON COLUMN projector_work.batches_by_events IS 'Counts by size; the bounds are in projections/engine/live/work.py.';

-- The position up to which each ledger was compared with the log, and the differences found.
CREATE TABLE projection_checks (
    projection text        PRIMARY KEY,
    epoch      bigint      NOT NULL,
    newest     bigint      NOT NULL,
    swept      bigint      NOT NULL,
    swept_at   timestamptz,
    checked_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
COMMENT ON COLUMN projection_checks.newest IS 'What came in since the last check was compared up to here.';
COMMENT ON COLUMN projection_checks.swept IS 'All of history was compared up to here in this round.';
COMMENT ON COLUMN projection_checks.swept_at IS 'When the last whole round ended.';

CREATE TABLE projection_faults (
    projection text        NOT NULL,
    first      bigint      NOT NULL,
    last       bigint      NOT NULL,
    fault      text        NOT NULL,
    position   bigint,
    found_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (projection, first)
);

GRANT SELECT ON projector_work, projection_checks, projection_faults TO annals_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON projector_work, projection_checks, projection_faults
    TO annals_projector;
-- Lets a process report that the tables of its version are missing.
GRANT SELECT ON _yoyo_migration TO annals_app, annals_projector;
